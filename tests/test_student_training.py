"""Whole distillations of students with their own vocabulary, with parts frozen, and of students that shrink."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from stillsmall import cache, distillation, training
from stillsmall.objectives.base import reduce
from stillsmall.students.vocabulary import Trimmed
from test_training import TEXTS, contents, corpus, run, trainer_of

ITERATIVE = {
    "kind": "iterative", "encoder_ffn": 1.0, "decoder_ffn": 0.5, "encoder_layers": None, "decoder_layers": 2,
    "start": 0.1, "end": 0.6, "decay": 0.9,
}  # fmt: skip
CAPACITY = {
    "kind": "capacity", "encoder_layers": None, "decoder_layers": 1, "start": 0.1, "end": 0.6, "weight": 1.0,
    "gate_speed": 10.0,
}  # fmt: skip
WHOLE = {"student.decoder_layers": None}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    return corpus(tmp_path)


def loaded(place: Path, name: str = "one") -> tuple[Any, Any]:
    folder = place / name / "student"
    model: Any = WhisperForConditionalGeneration.from_pretrained(folder)
    return model, WhisperProcessor.from_pretrained(folder)


def test_a_student_with_the_corpus_vocabulary_learns_its_labels(place: Path) -> None:
    rows = run(place, **{"student.vocabulary": "corpus", "distill.steps": 60, "distill.timestamp_probability": 0.0})
    assert rows[-1]["ce"] < 0.5 * rows[0]["ce"]
    model, processor = loaded(place)
    kept = Trimmed.read(place / "one" / "student")
    assert kept is not None
    assert model.config.vocab_size == len(kept.kept) == len(processor.tokenizer) <= kept.teacher_size
    for text in TEXTS:
        assert processor.tokenizer.decode(processor.tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_teacher_is_heard_on_its_own_ids_and_through_the_kept_columns(place: Path) -> None:
    """A student that is its teacher but for rows has no KL: wrong ids in, or wrong columns out, would show."""
    changes = {**WHOLE, "student.vocabulary": "corpus", "student.vocabulary_min_count": 2}
    trainer = trainer_of(
        place, **changes, **{"distill.previous_text_probability": 1.0, "distill.teacher_cache_gb": 0.0}
    )
    assert trainer.asker.kept is not None and len(trainer.asker.kept.kept) < trainer.asker.kept.teacher_size
    trainer.student.eval()
    batch = trainer.batches(0)
    with torch.no_grad():
        signals = trainer.asker(batch, 0.0)
        out = trainer.objective.forward(signals)
    assert signals.teacher_logits.shape == signals.student_logits.shape
    assert float(reduce(out.parts["kl"], batch.tokens)) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(("pruning", "layers", "width"), [(ITERATIVE, 2, 32), (CAPACITY, 1, 64)])
def test_a_student_that_shrinks_is_saved_at_its_target(place: Path, pruning: Any, layers: int, width: int) -> None:
    rows = run(place, **WHOLE, **{"student.pruning": pruning})
    model, _ = loaded(place)
    assert (model.config.decoder_layers, model.config.decoder_ffn_dim) == (layers, width)
    assert json.loads((place / "one" / "distill.json").read_text())["parameters"] == sum(
        p.numel() for p in model.parameters()
    )
    assert [rows[0]["decoder_layers"], rows[-1]["decoder_layers"]] == [3.0, float(layers)]


@pytest.mark.parametrize("pruning", [ITERATIVE, CAPACITY])
def test_a_student_that_shrinks_resumes_to_the_bit(place: Path, monkeypatch: Any, pruning: Any) -> None:
    changes = {**WHOLE, "student.pruning": pruning, "student.vocabulary": "corpus"}
    run(place, "whole", **changes)
    monkeypatch.setattr(cache, "ROOT", place / "again")
    original = training.Trainer._step

    def stops(self: Any, step: int, *rest: Any) -> dict[str, Any]:
        if step == 7:
            raise KeyboardInterrupt
        return original(self, step, *rest)

    monkeypatch.setattr(training.Trainer, "_step", stops)
    with pytest.raises(KeyboardInterrupt):
        run(place, "stopped", **changes)
    monkeypatch.setattr(training.Trainer, "_step", original)
    run(place, "stopped", **changes)
    assert contents(place / "stopped") == contents(place / "whole")


def test_what_is_frozen_is_saved_as_the_teacher_has_it(place: Path) -> None:
    run(place, **{"student.freeze": ["decoder.embed_tokens", "decoder.layers.0.self_attn"]})
    model, teacher = loaded(place)[0], WhisperForConditionalGeneration.from_pretrained(place / "models" / "teacher")
    ours, theirs = model.model.decoder, teacher.model.decoder
    assert torch.equal(ours.embed_tokens.weight, theirs.embed_tokens.weight)
    assert torch.equal(ours.layers[0].self_attn.q_proj.weight, theirs.layers[0].self_attn.q_proj.weight)
    assert not torch.equal(ours.layers[0].fc1.weight, theirs.layers[0].fc1.weight)


def test_every_module_of_students_is_part_of_a_checkpoints_name() -> None:
    files = {p.stem for p in Path(distillation.__file__).parent.joinpath("students").glob("*.py")} - {"__init__"}
    assert {name.removeprefix("students.") for name in distillation.CODE if name.startswith("students.")} == files
