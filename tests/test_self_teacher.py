"""A self teacher holds only what is trained, moves as an average or once, and comes back bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from stillsmall.live_models import LiveModels
from stillsmall.objectives.base import Signals
from stillsmall.objectives.build import build
from stillsmall.self_teacher import SelfTeacher, SelfTeacherError


def model(bias: float = 0.0) -> Any:
    torch.manual_seed(1)
    made = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5))
    made[0].weight.requires_grad_(False)
    with torch.no_grad():
        made[0].bias.fill_(bias)
    return made


def set_bias(student: Any, value: float) -> None:
    with torch.no_grad():
        student[0].bias.fill_(value)


def test_an_average_is_the_hand_computed_one() -> None:
    student = model(1.0)
    own = SelfTeacher(student, "ema", 0.75, 0.5)
    set_bias(student, 3.0)
    own.follow(student, 1, 0.1)
    assert own.model[0].bias.tolist() == [1.5] * 3  # 0.75 * 1 + 0.25 * 3
    set_bias(student, -0.5)
    own.follow(student, 2, 0.2)
    assert own.model[0].bias.tolist() == [1.0] * 3  # 0.75 * 1.5 - 0.25 * 0.5


def test_a_step_counts_once_however_often_it_is_told() -> None:
    student = model(1.0)
    own = SelfTeacher(student, "ema", 0.5, 0.0)
    set_bias(student, 2.0)
    for _ in range(3):
        own.update(student, 1)
    assert own.model[0].bias.tolist() == [1.5] * 3


def test_a_decay_of_zero_is_the_student_itself() -> None:
    student = model(1.0)
    own = SelfTeacher(student, "ema", 0.0, 0.0)
    set_bias(student, 7.0)
    own.update(student, 1)
    assert own.model[0].bias.tolist() == [7.0] * 3


def test_a_snapshot_is_taken_at_its_progress_and_never_again() -> None:
    student = model(1.0)
    own = SelfTeacher(student, "snapshot", None, 0.5)
    for step, progress in ((1, 0.25), (2, 0.499)):
        set_bias(student, float(step))
        own.follow(student, step, progress)
        assert not own.ready
    set_bias(student, 8.0)
    own.follow(student, 3, 0.5)
    assert own.ready and own.model[0].bias.tolist() == [8.0] * 3
    set_bias(student, 9.0)
    own.follow(student, 4, 0.75)
    assert own.model[0].bias.tolist() == [8.0] * 3
    with pytest.raises(SelfTeacherError, match="taken already"):
        own.snapshot(student)


def test_a_snapshot_from_the_start_is_the_student_as_it_was_given() -> None:
    student = model(4.0)
    own = SelfTeacher(student, "snapshot", None, 0.0)
    set_bias(student, 5.0)
    own.follow(student, 1, 0.1)
    assert own.ready and own.model[0].bias.tolist() == [4.0] * 3


def test_frozen_parameters_are_shared_and_trained_ones_and_buffers_are_not() -> None:
    student = model()
    own = SelfTeacher(student, "ema", 0.9, 0.0)
    assert own.model[0].weight is student[0].weight
    assert own.model[0].bias.data_ptr() != student[0].bias.data_ptr()
    assert own.model[1].running_mean.data_ptr() != student[1].running_mean.data_ptr()
    assert not any(p.requires_grad for p in own.model.parameters())
    assert student[0].bias.requires_grad and student.training
    assert not any(module.training for module in own.model.modules())


def test_running_means_follow_the_student() -> None:
    student = model()
    own = SelfTeacher(student, "ema", 0.5, 0.0)
    student[1].running_mean.fill_(4.0)
    student[1].num_batches_tracked.fill_(6)
    own.update(student, 1)
    assert own.model[1].running_mean.tolist() == [2.0] * 3
    assert int(own.model[1].num_batches_tracked) == 6


@pytest.mark.parametrize(("kind", "decay"), [("ema", 0.9), ("snapshot", None)])
def test_it_comes_back_from_a_file_bit_for_bit_and_goes_on_the_same(kind: Any, decay: Any, tmp_path: Path) -> None:
    student = model()
    own = SelfTeacher(student, kind, decay, 0.2)
    for step in range(1, 4):
        set_bias(student, step / 3)
        own.follow(student, step, step / 10)
    save_file(own.state_dict(), tmp_path / "self.safetensors")
    again = SelfTeacher(model(), kind, decay, 0.2)
    again.load_state_dict(load_file(tmp_path / "self.safetensors"))
    set_bias(student, 0.123)
    for one in (own, again):
        one.follow(student, 4, 0.4)
    assert again.state_dict().keys() == own.state_dict().keys()
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in again.state_dict().items())
    assert again.ready


def test_a_checkpoint_of_another_student_is_refused() -> None:
    own = SelfTeacher(model(), "ema", 0.9, 0.0)
    state = own.state_dict()
    with pytest.raises(SelfTeacherError, match=r"another student.*0\.bias"):
        own.load_state_dict({name: value for name, value in state.items() if name != "0.bias"})
    with pytest.raises(SelfTeacherError, match=r"0\.bias is \(4,\) in the checkpoint, \(3,\) here"):
        own.load_state_dict({**state, "0.bias": torch.zeros(4)})


def test_a_student_that_changes_its_shape_or_unfreezes_is_refused() -> None:
    student = model()
    own = SelfTeacher(student, "ema", 0.9, 0.0)
    student[0].weight.requires_grad_(True)
    with pytest.raises(SelfTeacherError, match=r"0\.weight is trained now"):
        own.update(student, 1)
    student[0].weight.requires_grad_(False)
    student[0].bias = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(SelfTeacherError, match=r"shape has changed.*0\.bias"):
        own.update(student, 1)


@pytest.mark.parametrize(
    ("kind", "decay", "words"),
    [("avg", 0.9, "have: ema, snapshot"), ("ema", None, "needs a decay"), ("ema", 1.0, "needs a decay")],
)
def test_what_cannot_be_is_said(kind: Any, decay: Any, words: str) -> None:
    with pytest.raises(SelfTeacherError, match=words):
        SelfTeacher(model(), kind, decay, 0.0)


def test_a_whisper_keeps_its_tie_and_shares_its_frozen_encoder(tiny_whisper: Path) -> None:
    student: Any = WhisperForConditionalGeneration.from_pretrained(tiny_whisper)
    student.model.encoder.requires_grad_(False)
    own = SelfTeacher(student, "ema", 0.5, 0.0)
    assert own.model.proj_out.weight is own.model.model.decoder.embed_tokens.weight
    assert own.model.model.encoder.conv1.weight is student.model.encoder.conv1.weight
    assert not any(name.startswith("model.encoder") for name in own.state_dict())
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    theirs = {p.data_ptr() for p in student.parameters()}
    extra = sum(p.numel() for p in own.model.parameters() if p.data_ptr() not in theirs)
    assert extra == trained
    before = own.model.proj_out.weight.clone()
    with torch.no_grad():
        student.proj_out.weight += 1.0
    own.update(student, 1)
    assert torch.allclose(own.model.proj_out.weight, before + 0.5, atol=1e-6)


def whisper(folder: Path) -> Any:
    student: Any = WhisperForConditionalGeneration.from_pretrained(folder)
    student.model.encoder.requires_grad_(False)
    return student.train()


def train(student: Any, own: SelfTeacher, optimizer: torch.optim.Optimizer, steps: range, total: int) -> None:
    """ASKD on one batch: the teacher leaves at half time, the self comes."""
    schedule = {"kind": "linear", "power": 1.0}
    lam = {**schedule, "start": 1.0, "end": 0.0, "until": 0.5}
    mu = {**schedule, "start": 0.0, "end": 0.5, "begin": 0.5}
    rest = {"mode": "subsequent", "self_teacher": own.kind, "self_target": "distribution"}
    section = {"lam": lam, "mu": mu, **rest, "ema_decay": 0.9, "temperature": 2.0}
    objective = build({"askd": section}, "askd")
    drawn = torch.Generator().manual_seed(2)
    mels, inputs = torch.randn(2, 80, 200, generator=drawn), torch.randint(0, 300, (2, 6), generator=drawn)
    labels, teacher = inputs.roll(-1, 1), torch.randn(2, 6, student.config.vocab_size, generator=drawn)
    for step in steps:
        live = LiveModels(student, own.model if own.ready else None, inputs, lambda: mels)
        needs = objective.needs_at(step / total)
        with torch.no_grad():
            mine = live.teacher() if "self" in needs else None
        theirs = teacher if "teacher" in needs else None
        out = objective(Signals(live.student(), labels, ("a", "b"), step / total, theirs, self_logits=mine))
        out.per_token.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        own.follow(student, step + 1, (step + 1) / total)


@pytest.mark.parametrize(("kind", "decay"), [("ema", 0.9), ("snapshot", None)])
@pytest.mark.parametrize("stop", [2, 6])
def test_training_that_is_interrupted_ends_with_the_same_bits(
    kind: Any, decay: Any, stop: int, tiny_whisper: Path, tmp_path: Path
) -> None:
    whole = whisper(tiny_whisper)
    own, optimizer = SelfTeacher(whole, kind, decay, 0.5), torch.optim.SGD(whole.parameters(), lr=0.1)
    train(whole, own, optimizer, range(8), 8)
    first = whisper(tiny_whisper)
    half, optimizer = SelfTeacher(first, kind, decay, 0.5), torch.optim.SGD(first.parameters(), lr=0.1)
    train(first, half, optimizer, range(stop), 8)
    save_file(half.state_dict(), tmp_path / "self.safetensors")
    first.save_pretrained(tmp_path / "student")
    second = whisper(tmp_path / "student")
    rest, optimizer = SelfTeacher(second, kind, decay, 0.5), torch.optim.SGD(second.parameters(), lr=0.1)
    rest.load_state_dict(load_file(tmp_path / "self.safetensors"))
    train(second, rest, optimizer, range(stop, 8), 8)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(value, rest.state_dict()[name]) for name, value in own.state_dict().items())
