"""A second, smaller model transcribes the same audio, cut as the teacher cut it.

    python stages/validate.py --params params.yaml --split data/prepared/train --labels data/labels \
        --out data/validations --failed data/validations_failed.parquet --metrics metrics/validate.json

Reads audio and labels; writes one shard of hypotheses per shard of labels, under the same ids (an empty one where the
validator failed, which is listed), the failed with the reason (`manifest.FAILED`), and counts. Resumable.
"""

from argparse import Namespace

from stillsmall import cache, config, labelling, stage


def main(at: Namespace) -> None:
    params = config.load(at.params)
    who = labelling.Labelling(params.validate_, params.run, params.models.root, "validate")
    labelling.transcribe(labelling.chunks(at.split, at.labels), who, at.out, at.failed)
    cache.write_json(at.metrics, labelling.summarise(at.out, at.failed))


if __name__ == "__main__":
    stage.run(main, __doc__ or "", "params", "split", "labels", "out", "failed", "metrics")
