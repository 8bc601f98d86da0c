"""Every measure of every label, once: error rates, agreement, repetition, confidence, rates of speech.

    python stages/score.py --params params.yaml --split data/prepared/train --labels data/labels \
        --validations data/validations --out data/scores.parquet

Reads transcripts, labels and validations; writes one row per label (`manifest.SCORE`). No model runs.
"""

import argparse
from pathlib import Path

from stillsmall import config, scoring

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("params", "split", "labels", "validations", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    at = parser.parse_args()
    scoring.score(at.split, at.labels, at.validations, at.out, config.load(at.params).score)
