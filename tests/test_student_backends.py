"""What a cut student writes when it is served: the transformers and CTranslate2 backends on real speech of the lab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from small import ROOT, params
from stillsmall import cache, student
from stillsmall.config import Run
from stillsmall.speech_lab.corpus import clips
from stillsmall.teachers.base import Clip
from stillsmall.teachers.ctranslate2 import CTranslate2Teacher
from stillsmall.teachers.transformers import TransformersTeacher
from students import section

SHRUNK = {
    "kind": "iterative", "encoder_ffn": 0.75, "decoder_ffn": 0.5, "encoder_layers": 3, "decoder_layers": 2,
    "start": 0.1, "end": 0.6, "decay": 0.9,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "ROOT", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def teacher() -> tuple[Any, Any]:
    folder = ROOT / "models/demo/teacher"
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, WhisperProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def spoken() -> list[Clip]:
    return [Clip(str(i), clip.audio, "en") for i, clip in enumerate(clips("en-us", "test", 16, seed=3))]


def written(kind: Any, models: Path, name: str, spoken: list[Clip]) -> list[Any]:
    changes = {"device": "cpu", "compute_type": "float32", "batch_size": 16, "model": name}
    section = params().pseudo_label.model_copy(update=changes)
    return [
        row for rows in kind(section, Run(seed=1, threads=1), models, "pseudo_label").transcribe(spoken) for row in rows
    ]


def test_with_the_tokens_of_its_labels_a_student_writes_its_teachers_labels(
    teacher: Any, spoken: list[Clip], tmp_path: Path
) -> None:
    labels = written(TransformersTeacher, ROOT / "models/demo", "teacher", spoken)
    config = section(vocabulary="corpus")
    texts = [("en", row.text, [segment.text for segment in row.segments]) for row in labels]
    cut, processor, kept = student.trim(student.build(teacher[0], config), teacher[1], config, texts)
    assert kept is not None and len(kept.kept) < 0.6 * kept.teacher_size
    student.save(cut, processor, tmp_path / "cut", torch.float32, kept)
    for kind in (TransformersTeacher, CTranslate2Teacher):
        ours = written(kind, tmp_path, "cut", spoken)
        theirs = written(kind, ROOT / "models/demo", "teacher", spoken)
        same = [(a.text, a.segments) == (b.text, b.segments) for a, b in zip(ours, theirs, strict=True)]
        assert all(same)


def test_a_shrunk_student_is_read_alike_by_both_backends(teacher: Any, spoken: list[Clip], tmp_path: Path) -> None:
    config = section(pruning=SHRUNK, freeze_encoder=False)
    learner = student.build(teacher[0], config)
    shrinker = student.shrinker(learner, config)
    assert shrinker is not None
    student.save(shrinker.finish(learner), teacher[1], tmp_path / "small", torch.float32)
    ours, theirs = (written(kind, tmp_path, "small", spoken[:8]) for kind in (TransformersTeacher, CTranslate2Teacher))
    assert [row.tokens for row in ours] == [row.tokens for row in theirs]
