"""Stage `report`: the whole run on one page that opens in any browser, with the rejected labels to listen to.

    python stages/report.py --params params.yaml --split data/prepared/train --test data/prepared/test \
        --scores data/scores.parquet --rejected data/filtered/rejected.parquet --evaluation data/evaluation \
        --metrics metrics --out reports/report.html

Reads   the metrics of every stage, the scores, the rejected labels, the evaluated utterances, the audio of both splits
Writes  OUT  HTML with style, script, curves and audio inside; it asks the network for nothing
"""

import argparse
import sys
from pathlib import Path

from stillsmall import config, report
from stillsmall.manifest import TableError

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("params", "split", "test", "scores", "rejected", "evaluation", "metrics", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    at = parser.parse_args()
    inputs = report.Inputs(at.split, at.test, at.scores, at.rejected, at.evaluation, at.metrics)
    try:
        report.write(config.load(at.params), inputs, at.out)
    except (config.ConfigError, TableError, report.ReportError) as error:
        sys.exit(f"report: {error}")
