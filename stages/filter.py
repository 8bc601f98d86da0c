"""Rules over the score table: which labels are kept, which are not, and why; and how well the rules find wrong ones.

    python stages/filter.py --params params.yaml --scores data/scores.parquet --kept data/filtered/kept.parquet \
        --rejected data/filtered/rejected.parquet --metrics metrics/filter.json \
        --judgement metrics/filter_judgement.json --curves metrics/filter_curves.csv --roc metrics/filter_roc.csv \
        --domains metrics/filter_domains.csv

Reads the scores; writes kept rows, rejected rows with every reason and value, counts by reason and domain, and, where
transcripts exist, the judgement of every score and rule (without them it says so).
"""

from argparse import Namespace

from stillsmall import config, filtering, judgement, stage


def main(at: Namespace) -> None:
    params = config.load(at.params)
    rules = filtering.rules(params.filter, params.filters)
    filtering.split(at.scores, at.kept, at.rejected, at.metrics, rules, params.filter.mixture)
    paths = judgement.Paths(at.judgement, at.curves, at.roc, at.domains)
    judgement.write(at.scores, rules, params.filter.judgement, paths)


if __name__ == "__main__":
    names = ("params", "scores", "kept", "rejected", "metrics", "judgement", "curves", "roc", "domains")
    stage.run(main, __doc__ or "", *names)
