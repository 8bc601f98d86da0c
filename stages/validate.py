"""A second, smaller model transcribes the same audio, cut as the teacher cut it.

    python stages/validate.py --params params.yaml --split data/prepared/train --labels data/labels \
        --out data/validations

Reads audio and labels; writes one shard of hypotheses per shard of labels, under the same ids. Resumable.
"""

import argparse
from pathlib import Path

from stillsmall import config, labelling

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("params", "split", "labels", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    at = parser.parse_args()
    params = config.load(at.params)
    who = labelling.Labelling(params.validate_, params.run, params.models.root, "validate")
    labelling.transcribe(labelling.chunks(at.split, at.labels), who, at.out)
