"""Stage `prepare`: speech as people have it, to manifests and shards of one form.

    python stages/prepare.py --params params.yaml --out data/prepared --metrics metrics/prepare.json

Reads   `prepare` and `data` of the parameters, and the sources that they name (docs/sources.md)
Writes  OUT/{train,dev,test}/manifest.parquet   one row an utterance
        OUT/{train,dev,test}/shards/*.parquet   its audio: FLAC, 16 kHz, mono, 16 bit
        OUT/quarantine.parquet                  what was left out, and why
        METRICS                                 hours, utterances, speakers; quarantine counts; fingerprints
"""

import argparse
import sys
from pathlib import Path

from stillsmall.config import ConfigError
from stillsmall.plugins import UnknownName
from stillsmall.preparation import PreparationError, prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        prepare(arguments.params, arguments.out, arguments.metrics)
    except (ConfigError, UnknownName, PreparationError) as error:
        sys.exit(f"prepare: {error}")


if __name__ == "__main__":
    main()
