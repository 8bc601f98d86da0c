"""Stage `prepare`: speech as people have it, to manifests and shards of one form.

    python stages/prepare.py --params params.yaml --out data/prepared --metrics metrics/prepare.json

Reads   `prepare` and `data` of the parameters, and the sources that they name (docs/sources.md)
Writes  OUT/{train,dev,test}/manifest.parquet   one row an utterance
        OUT/{train,dev,test}/shards/*.parquet   its audio: FLAC, 16 kHz, mono, 16 bit
        OUT/quarantine.parquet                  what was left out, and why
        METRICS                                 hours, utterances, speakers; quarantine counts; fingerprints
"""

from argparse import Namespace

from stillsmall import stage
from stillsmall.preparation import prepare


def main(at: Namespace) -> None:
    prepare(at.params, at.out, at.metrics)


if __name__ == "__main__":
    stage.run(main, __doc__ or "", "params", "out", "metrics")
