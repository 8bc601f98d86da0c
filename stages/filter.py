"""Rules over the score table: which labels are kept, which are not, and why.

    python stages/filter.py --params params.yaml --scores data/scores.parquet --kept data/filtered/kept.parquet \
        --rejected data/filtered/rejected.parquet --metrics metrics/filter.json

Reads the scores; writes kept rows, rejected rows with every reason and value, and counts by reason and domain.
"""

import argparse
from pathlib import Path

from stillsmall import config, filtering

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("params", "scores", "kept", "rejected", "metrics"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    at = parser.parse_args()
    params = config.load(at.params)
    filtering.split(at.scores, at.kept, at.rejected, at.metrics, filtering.rules(params.filter, params.filters))
