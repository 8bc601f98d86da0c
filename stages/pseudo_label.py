"""The teacher transcribes the training audio.

    python stages/pseudo_label.py --params params.yaml --split data/prepared/train --out data/labels \
        --failed data/labels_failed.parquet --metrics metrics/pseudo_label.json

Reads the audio shards of a prepared split; writes one shard of hypotheses (`manifest.HYPOTHESIS`) per audio shard, the
audio that has no label with the reason (`manifest.FAILED`), and counts.
Killed and started again, it goes on with the shard it had in hand.
"""

from argparse import Namespace

from stillsmall import cache, config, labelling, stage


def main(at: Namespace) -> None:
    params = config.load(at.params)
    who = labelling.Labelling(params.pseudo_label, params.run, params.models.root, "pseudo_label")
    labelling.transcribe(labelling.utterances(at.split), who, at.out, at.failed)
    cache.write_json(at.metrics, labelling.summarise(at.out, at.failed))


if __name__ == "__main__":
    stage.run(main, __doc__ or "", "params", "split", "out", "failed", "metrics")
