"""Teacher and student on the test set: error rates per data set and domain, and speed measured in turns.

    python stages/evaluate.py --params params.yaml --split data/prepared/test --student models/student \
        --out data/evaluation --metrics metrics/evaluate.json --speed metrics/speed.json

Reads the test split, teacher and student; writes every transcript with its counts, the rates, and (apart, because
timings differ from run to run) the real-time factors.
"""

import argparse
from pathlib import Path

from stillsmall import cache, config, evaluation

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("params", "split", "student", "out", "metrics", "speed"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    at = parser.parse_args()
    params = config.load(at.params)
    evaluation.evaluate(params, at.split, at.student, at.out, at.metrics)
    cache.write_json(at.speed, evaluation.speed(params, at.split, at.student))
