"""A student learns from the kept labels and the teacher.

    python stages/distill.py --params params.yaml --split data/prepared/train --kept data/filtered/kept.parquet \
        --dev data/prepared/dev --student models/student --curve metrics/training.csv \
        --samples data/distilled_samples.parquet --metrics metrics/distill.json --speed metrics/distill_speed.json

Reads audio, kept labels, the teacher and, with `distill.dev_every`, the dev split; writes the student's folder, the
loss curve, what the objective said of each sample, a summary, and figures of the clock. Killed and started again, it
goes on from its last checkpoint and ends with the same bytes. With `distill.processes` it starts itself that often.
"""

import sys
from argparse import Namespace

from stillsmall import config, multi_process, stage
from stillsmall.distillation import Paths, check, distill


def main(at: Namespace) -> None:
    params = config.load(at.params)
    check(params)  # once, before there are several to say it
    multi_process.launch(params.distill.processes, sys.argv)
    out = (at.student, at.curve, at.samples, at.metrics)
    distill(params, Paths(at.split, at.kept, *out, dev=at.dev, speed=at.speed))


if __name__ == "__main__":
    stage.run(main, __doc__ or "", "params", "split", "kept", "dev", "student", "curve", "samples", "metrics", "speed")
