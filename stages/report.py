"""Stage `report`: the whole run on one page that opens in any browser, with the rejected labels to listen to.

    python stages/report.py --params params.yaml --split data/prepared/train --test data/prepared/test \
        --scores data/scores.parquet --rejected data/filtered/rejected.parquet --evaluation data/evaluation \
        --metrics metrics --out reports/report.html

Reads   the metrics of every stage, the scores, the rejected labels, the evaluated utterances, the audio of both splits
Writes  OUT  HTML with style, script, curves and audio inside; it asks the network for nothing
"""

from argparse import Namespace

from stillsmall import config, report, stage


def main(at: Namespace) -> None:
    inputs = report.Inputs(at.split, at.test, at.scores, at.rejected, at.evaluation, at.metrics)
    report.write(config.load(at.params), inputs, at.out)


if __name__ == "__main__":
    stage.run(main, __doc__ or "", "params", "split", "test", "scores", "rejected", "evaluation", "metrics", "out")
