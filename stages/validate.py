"""A second, smaller model transcribes the same audio, cut as the teacher cut it.

    python stages/validate.py --params params.yaml --split data/prepared/train --labels data/labels \
        --out data/validations

Reads audio and labels; writes one shard of hypotheses per shard of labels, under the same ids. Resumable.
"""

from argparse import Namespace

from stillsmall import config, labelling, stage


def main(at: Namespace) -> None:
    params = config.load(at.params)
    who = labelling.Labelling(params.validate_, params.run, params.models.root, "validate")
    labelling.transcribe(labelling.chunks(at.split, at.labels), who, at.out)


if __name__ == "__main__":
    stage.run(main, __doc__ or "", "params", "split", "labels", "out")
