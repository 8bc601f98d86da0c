"""Teacher and student on the test set: error rates per data set and domain, and speed measured in turns.

    python stages/evaluate.py --params params.yaml --split data/prepared/test --student models/student \
        --out data/evaluation --metrics metrics/evaluate.json --speed metrics/speed.json

Reads the test split, teacher and student; writes every transcript with its counts, the rates, and (apart, because
timings differ from run to run) the real-time factors.
"""

from argparse import Namespace

from stillsmall import cache, config, evaluation, stage


def main(at: Namespace) -> None:
    params = config.load(at.params)
    evaluation.evaluate(params, at.split, at.student, at.out, at.metrics)
    cache.write_json(at.speed, evaluation.speed(params, at.split, at.student))


if __name__ == "__main__":
    stage.run(main, __doc__ or "", "params", "split", "student", "out", "metrics", "speed")
