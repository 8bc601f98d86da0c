"""The teacher transcribes the training audio.

    python stages/pseudo_label.py --params params.yaml --split data/prepared/train --out data/labels

Reads the audio shards of a prepared split; writes one shard of hypotheses (`manifest.HYPOTHESIS`) per audio shard.
Killed and started again, it goes on with the shard it had in hand.
"""

import argparse
from pathlib import Path

from stillsmall import config, labelling

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("params", "split", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    at = parser.parse_args()
    params = config.load(at.params)
    who = labelling.Labelling(params.pseudo_label, params.run, params.models.root, "pseudo_label")
    labelling.transcribe(labelling.utterances(at.split), who, at.out)
