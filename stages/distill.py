"""A student learns from the kept labels and the teacher.

    python stages/distill.py --params params.yaml --split data/prepared/train --kept data/filtered/kept.parquet \
        --student models/student --curve metrics/training.csv \
        --samples data/distilled_samples.parquet --metrics metrics/distill.json

Reads audio, kept labels and the teacher; writes the student's folder, the loss curve, what the
objective said of each sample, and a summary. Killed and started
again, it goes on from its last checkpoint and ends with the same bytes.
"""

from argparse import Namespace

from stillsmall import config, stage
from stillsmall.distillation import Paths, distill


def main(at: Namespace) -> None:
    distill(config.load(at.params), Paths(at.split, at.kept, at.student, at.curve, at.samples, at.metrics))


if __name__ == "__main__":
    stage.run(main, __doc__ or "", "params", "split", "kept", "student", "curve", "samples", "metrics")
