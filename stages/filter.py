"""Rules over the score table: which labels are kept, which are not, and why.

    python stages/filter.py --params params.yaml --scores data/scores.parquet --kept data/filtered/kept.parquet \
        --rejected data/filtered/rejected.parquet --metrics metrics/filter.json

Reads the scores; writes kept rows, rejected rows with every reason and value, and counts by reason and domain.
"""

from argparse import Namespace

from stillsmall import config, filtering, stage


def main(at: Namespace) -> None:
    params = config.load(at.params)
    judges = filtering.rules(params.filter, params.filters)
    filtering.split(at.scores, at.kept, at.rejected, at.metrics, judges, params.filter.mixture)


if __name__ == "__main__":
    stage.run(main, __doc__ or "", "params", "scores", "kept", "rejected", "metrics")
