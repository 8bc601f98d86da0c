"""A student learns from the kept labels and the teacher.

    python stages/distill.py --params params.yaml --split data/prepared/train --kept data/filtered/kept.parquet \
        --student models/student --curve metrics/training.csv --metrics metrics/distill.json

Reads audio, kept labels and the teacher; writes the student's folder, the loss curve and a summary. Killed and started
again, it goes on from its last checkpoint and ends with the same bytes.
"""

import argparse
from pathlib import Path

from stillsmall import config
from stillsmall.distillation import Paths, distill

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("params", "split", "kept", "student", "curve", "metrics"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    at = parser.parse_args()
    distill(config.load(at.params), Paths(at.split, at.kept, at.student, at.curve, at.metrics))
