"""Every objective of the table, with its section of params.yaml: a student learns by it and is saved as a model."""

import shutil
from pathlib import Path

import pytest
import torch

from small import params
from stillsmall import cache, data, distillation, objectives
from stillsmall.config import Params
from stillsmall.families.base import Family, family_of
from stillsmall.objectives.base import Signals, reduce, task_loss
from test_training import CHANGES, corpus

STEPS = 40
LEARNT = 0.6  # of the untrained start's cross-entropy on the training labels, at most, is left

# What an objective needs that the others do without: dotted changes of params.yaml
SETUP: dict[str, dict[str, object]] = {
    "multi_teacher": {"distill.more_teachers": [{"model": "teacher", "revision": None}]},
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips and a teacher that knows their labels, so that learning from it is learning the labels."""
    folder = corpus(tmp_path_factory.mktemp("taught"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "ROOT", folder / "cache")
        learner = {"student.decoder_layers": None, "student.freeze_encoder": False, "distill.steps": 120}
        distill(folder, "teacher", objective="ce", **learner)
    shutil.rmtree(folder / "models/teacher")
    (folder / "teacher/student").rename(folder / "models/teacher")
    return folder


def settings(folder: Path, **changes: object) -> Params:
    plain = {"models.root": str(folder / "models"), "distill.previous_text_probability": 0.0, "distill.steps": STEPS}
    return params(**{**CHANGES, **plain, "student.decoder_layers": 1, **changes})


def distill(folder: Path, name: str, objective: str, **changes: object) -> Path:
    out = [folder / name / part for part in ("student", "curve.csv", "samples.parquet", "distill.json")]
    paths = distillation.Paths(folder / "train", folder / "kept.parquet", *out)
    distillation.distill(settings(folder, **{**changes, "distill.objective": objective}), paths)
    return paths.student


def ready(folder: Path) -> tuple[Family, object, object]:
    family = family_of(str(folder / "models/teacher"), None, "pseudo_label")
    return family, *family.load(str(folder / "models/teacher"), None, "pseudo_label")


@torch.no_grad()
def cross_entropy(folder: Path, model: object | None) -> float:
    """Nats per token of a model on the training labels; None: the student before its first step."""
    chosen = settings(folder)
    family, teacher, processor = ready(folder)
    model = family.build(teacher, chosen.student) if model is None else model
    model.eval()  # type: ignore[attr-defined]
    targets = family.targets(chosen, teacher, processor)
    found, _ = targets.usable(data.examples(folder / "kept.parquet"))
    clips = data.Audio(folder / "train", found)
    batch = targets.collate(range(len(found)), found, [0] * len(found))
    heard = family.features(processor, [clips(i) for i in batch.index])
    signals = Signals(family.forward(model, batch, heard, None).logits, batch.labels, batch.sample_ids, 0.0)
    return float(reduce(task_loss(signals), batch.tokens))


def test_the_teacher_of_these_tests_knows_more_than_a_student_starts_with(taught: Path) -> None:
    _, teacher, _ = ready(taught)
    assert cross_entropy(taught, teacher) < 0.5 * LEARNT * cross_entropy(taught, None)


@pytest.mark.parametrize("name", sorted(objectives.TABLE))
def test_a_student_learns_by_the_objective_and_can_be_loaded(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(cache, "ROOT", taught / "cache")
    folder = distill(taught, name, name, **SETUP.get(name, {}))
    student, _ = ready_student(folder)
    parameters = sum(p.numel() for p in student.parameters())  # type: ignore[attr-defined]
    assert parameters < sum(p.numel() for p in ready(taught)[1].parameters())  # type: ignore[attr-defined]
    assert cross_entropy(taught, student) < LEARNT * cross_entropy(taught, None)


def ready_student(folder: Path) -> tuple[object, object]:
    return family_of(str(folder), None, "student").load(str(folder), None, "student")


def test_every_objective_of_the_table_has_its_section_and_every_setup_its_objective() -> None:
    assert set(objectives.TABLE) <= set(params().objectives)
    assert set(SETUP) <= set(objectives.TABLE)
