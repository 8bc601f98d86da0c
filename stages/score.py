"""Every measure of every label, once: error rates, agreement, repetition, confidence, speech, language.

    python stages/score.py --params params.yaml --split data/prepared/train --labels data/labels \
        --validations data/validations --out data/scores.parquet

Reads audio, transcripts, labels and validations, shard by shard; writes one row per label (`manifest.SCORE`;
docs/scores.md has its columns). What is heard in the audio is kept: killed and started again, it goes on there.
"""

from argparse import Namespace

from stillsmall import config, scoring, stage


def main(at: Namespace) -> None:
    scoring.score(at.split, at.labels, at.validations, at.out, config.load(at.params))


if __name__ == "__main__":
    stage.run(main, __doc__ or "", "params", "split", "labels", "validations", "out")
