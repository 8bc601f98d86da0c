"""Every measure of every label, once: error rates, agreement, repetition, confidence, rates of speech.

    python stages/score.py --params params.yaml --split data/prepared/train --labels data/labels \
        --validations data/validations --out data/scores.parquet

Reads transcripts, labels and validations; writes one row per label (`manifest.SCORE`). No model runs.
"""

from argparse import Namespace

from stillsmall import config, scoring, stage


def main(at: Namespace) -> None:
    scoring.score(at.split, at.labels, at.validations, at.out, config.load(at.params).score)


if __name__ == "__main__":
    stage.run(main, __doc__ or "", "params", "split", "labels", "validations", "out")
