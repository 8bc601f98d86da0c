"""Objectives that change what is heard of the teacher: limits that are kd, masks, and CTC, served or refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from stillsmall.config import ConfigError
from stillsmall.objectives.base import IGNORED, ObjectiveError, Signals, reduce
from stillsmall.objectives.build import build
from stillsmall.objectives.drkd import right
from teacher_signals import KD, SECTIONS, Whispers, gradients, kd, make, plain


@pytest.fixture
def pair(tiny_whisper: Path) -> Whispers:
    return Whispers(tiny_whisper)


# --- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_an_all_masked_batch_is_zero_and_finite(name: str, pair: Whispers) -> None:
    objective = make(name)
    objective.attach(pair.student, pair.teacher)
    given = pair.signals(0.9)
    given = replace(given, labels=torch.full_like(given.labels, IGNORED), more_teacher_logits=(given.teacher_logits,))
    loss = reduce(objective(given).per_token, 0)
    loss.backward()
    assert loss.item() == 0.0
    assert all(g.abs().max() == 0 for g in gradients(pair.student).values())


@pytest.mark.parametrize("name", sorted(set(SECTIONS) - {"imitkd"}))
def test_an_inner_objective_that_hears_no_teacher_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"objectives\.{name}\.inner\.kind: got 'ce'.*any teacher"):
        make(name, inner={"kind": "ce"})


def test_every_hook_and_need_of_the_inner_objective_is_passed_on() -> None:
    lam = {"kind": "linear", "start": 0.8, "end": 0.0, "power": 1.0, "until": 0.5}
    mu = {"kind": "linear", "start": 0.0, "end": 0.5, "power": 1.0, "begin": 0.5}
    inner = {
        "kind": "askd",
        "lam": lam,
        "mu": mu,
        "mode": "subsequent",
        "self_teacher": "snapshot",
        "self_target": "distribution",
        "ema_decay": 0.9,
        "temperature": 2.0,
    }
    objective = make("drkd", inner=inner)
    assert objective.needs == {"teacher", "self"} and objective.needs_at(0.75) == {"self"}
    assert (objective.self_kind, objective.self_from) == ("snapshot", 0.5)
    given = plain(self_logits=torch.randn(2, 3, 6), progress=0.75, teacher_logits=None)
    assert objective(given).values["mu"] == pytest.approx(0.25)


# --- DR-KD ---------------------------------------------------------------------------------------------------------


def test_drkd_swaps_the_hand_computed_logits_on_a_copy() -> None:
    teacher = torch.tensor([[[1.0, 5.0, 2.0], [4.0, 0.0, 3.0], [1.0, 9.0, 2.0]]])
    labels = torch.tensor([[2, 0, IGNORED]])
    before = teacher.clone()
    changed, wrong = right(teacher, labels, labels != IGNORED)
    assert changed.tolist() == [[[1.0, 2.0, 5.0], [4.0, 0.0, 3.0], [1.0, 9.0, 2.0]]]
    assert wrong.tolist() == [[True, False, False]]
    assert torch.equal(teacher, before)


@given(st.integers(0, 10_000), st.integers(2, 8))
def test_drkd_puts_the_label_on_top_and_keeps_every_value(seed: int, size: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, size, generator=drawn)
    labels = torch.randint(0, size, (2, 3), generator=drawn)
    changed, wrong = right(logits, labels, torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(changed.argmax(-1), labels)
    assert torch.equal(changed.sort(-1).values, logits.sort(-1).values)
    assert ((changed != logits).sum(-1) == 2 * wrong).all()
    assert torch.equal(right(changed, labels, wrong)[0], changed)


def test_drkd_has_the_value_of_kd_from_the_righted_teacher() -> None:
    student, labels = torch.zeros(1, 1, 2), torch.tensor([[1]])
    given = Signals(student, labels, ("a",), 0.0, torch.tensor([[[math.log(4.0), 0.0]]]))
    out = make("drkd", inner={**KD, "ce_weight": 0.0, "temperature": 1.0})(given)
    assert out.per_token.item() == pytest.approx(0.8 * math.log(1.6) + 0.2 * math.log(0.4), abs=1e-6)
    assert out.parts["righted"].tolist() == [[1.0]]


def test_drkd_is_kd_where_the_teacher_is_right() -> None:
    given = plain()
    sure = 10 * torch.nn.functional.one_hot(given.labels.clamp(min=0), 6).float()
    given = replace(given, teacher_logits=given.teacher_logits + sure)
    assert torch.equal(make("drkd")(given).per_token, kd()(given).per_token)


# --- multi-teacher -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["mean", "agreement", "learned"])
def test_one_teacher_is_kd(combine: str) -> None:
    given = plain()
    assert torch.allclose(make("multi_teacher", combine=combine)(given).per_token, kd()(given).per_token, atol=1e-6)


@pytest.mark.parametrize("combine", ["mean", "agreement", "learned"])
def test_equal_teachers_are_as_one(combine: str) -> None:
    given = plain()
    several = replace(given, more_teacher_logits=(given.teacher_logits,) * 2)
    out = make("multi_teacher", combine=combine)(several).per_token
    assert torch.allclose(out, kd()(given).per_token, atol=1e-5)


def test_the_mean_of_two_teachers_is_of_their_probabilities() -> None:
    # (0.8, 0.2) and (0.2, 0.8) make (0.5, 0.5): a uniform student has nothing to learn
    one, two = torch.tensor([[[math.log(4.0), 0.0]]]), torch.tensor([[[0.0, math.log(4.0)]]])
    given = Signals(torch.zeros(1, 1, 2), torch.tensor([[0]]), ("a",), 0.0, one, (two,))
    out = make("multi_teacher", inner={**KD, "ce_weight": 0.0})(given)
    assert out.per_token.item() == pytest.approx(0.0, abs=1e-6)


def test_agreement_leans_on_those_who_agree_and_without_sharpness_is_the_mean() -> None:
    given = plain()
    odd = replace(given, more_teacher_logits=(given.teacher_logits, -2 * given.teacher_logits))
    weights = make("multi_teacher", combine="agreement", sharpness=5.0)(odd).samples
    assert (weights["teacher_1_weight"] > weights["teacher_3_weight"]).all()
    assert torch.allclose(sum(weights.values()), torch.ones(2))
    level = make("multi_teacher", combine="agreement", sharpness=0.0)(odd).per_token
    assert torch.allclose(level, make("multi_teacher")(odd).per_token)


def test_where_the_policy_selects_nobody_it_is_the_mean() -> None:
    objective = make("multi_teacher", combine="learned")
    torch.nn.init.constant_(objective.policy.bias, -50.0)
    given = replace(plain(), more_teacher_logits=(torch.randn(2, 3, 6),))
    out = objective(given)
    assert torch.allclose(out.per_token, make("multi_teacher")(given).per_token, atol=1e-6)
    assert out.values["selected"] == 0.0


def test_the_policy_learns_to_select_the_teacher_with_the_smaller_loss() -> None:
    objective = make("multi_teacher", combine="learned", baseline_decay=0.9)
    labels = torch.randint(0, 6, (16, 4), generator=torch.Generator().manual_seed(0))
    good = 4.0 * torch.nn.functional.one_hot(labels, 6).float()
    given = Signals(good.clone(), labels, tuple(map(str, range(16))), 0.0, good, (-good,))
    optimizer = torch.optim.Adam(objective.trained().values(), lr=0.05)
    for step in range(80):
        optimizer.zero_grad()
        reduce(objective(replace(given, progress=step / 80)).per_token, 64).backward()
        optimizer.step()
    weights = objective(replace(given, progress=0.999)).samples
    assert weights["teacher_1_weight"].mean() > 0.8
    assert objective.rates() == {"policy.weight": 3.0, "policy.bias": 3.0}


def test_the_policys_draws_depend_on_sample_and_progress_alone() -> None:
    given = replace(plain(), more_teacher_logits=(torch.randn(2, 3, 6),))
    first = make("multi_teacher", combine="learned")(given).per_token
    torch.manual_seed(99)
    assert torch.equal(first, make("multi_teacher", combine="learned")(given).per_token)


def test_teachers_of_different_vocabularies_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="different vocabularies"):
        make("multi_teacher")(replace(plain(), more_teacher_logits=(torch.randn(2, 3, 7),)))


# --- CTC -----------------------------------------------------------------------------------------------------------


def wav2vec2(seed: int) -> Any:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 4), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    return Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=6, **shape, **convolutions, **positions)).eval()


class Waves:
    """Live CTC models on two waveforms."""

    inputs = None

    def __init__(self) -> None:
        self.of_student, self.of_teacher = wav2vec2(0), wav2vec2(1).requires_grad_(False)
        self.heard = torch.randn(2, 400, generator=torch.Generator().manual_seed(2))

    def mels(self) -> Tensor:
        return self.heard.clone()

    def student(self, inputs: Tensor | None = None, mels: Tensor | None = None) -> Tensor:
        logits: Tensor = self.of_student(self.heard if mels is None else mels).logits
        return logits

    def teacher(self, inputs: Tensor | None = None, mels: Tensor | None = None) -> Tensor:
        logits: Tensor = self.of_teacher(self.heard if mels is None else mels).logits
        return logits

    def states(self) -> None:
        return None

    def signals(self) -> Signals:
        student = self.student()
        frames = torch.ones(student.shape[:2], dtype=torch.bool)
        frames[1, -3:] = False
        labels = torch.tensor([[1, 2, 3], [4, 5, IGNORED]])
        teacher = self.teacher().detach()
        return Signals(student, labels, ("a", "b"), 0.5, teacher, (teacher + 1.0,), frames=frames, models=self)


@pytest.mark.parametrize("name", ["akd", "joint", "multi_teacher", "okd"])
def test_those_that_can_work_on_frames(name: str) -> None:
    waves = Waves()
    objective = make(name, **({"trains": "all"} if name == "joint" else {}))
    expected = kd()(waves.signals()).per_token
    objective.attach(waves.of_student, waves.of_teacher)
    given = waves.signals()
    out = objective(given)
    assert out.per_token.shape == given.mask.shape and (out.per_token[~given.mask] == 0).all()
    own = out.parts.get("online_ce", out.parts.get("teacher_ce", torch.zeros(())))
    if name != "akd":
        online = SECTIONS["okd"]["student_weight"] * out.parts.get("online_kl", torch.zeros(()))
        assert torch.allclose(out.per_token - own - online, expected, atol=1e-5)
    out.per_token.sum().backward()
    assert all(torch.isfinite(g).all() for g in gradients(waves.of_student).values())


@pytest.mark.parametrize("name", ["drkd", "imitkd"])
def test_those_that_need_a_text_refuse_ctc_before_training(name: str) -> None:
    waves = Waves()
    with pytest.raises(ConfigError, match=rf"objectives\.{name}.*CTC"):
        make(name).attach(waves.of_student, waves.of_teacher)
    with pytest.raises(ObjectiveError, match=rf"objectives\.{name}.*CTC"):
        make(name)(waves.signals())


def test_joint_on_the_decoder_of_a_ctc_teacher_is_refused() -> None:
    waves = Waves()
    with pytest.raises(ConfigError, match=r"joint\.trains: got 'decoder'.*use all"):
        make("joint").attach(waves.of_student, waves.of_teacher)


# --- gradients, sequence level ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["drkd", "multi_teacher"])
def test_their_gradient_is_the_numerical_one(name: str) -> None:
    objective, given = make(name), plain(torch.float64)
    given = replace(given, more_teacher_logits=(-given.teacher_logits,))
    assert torch.autograd.gradcheck(
        lambda z: objective(replace(given, student_logits=z)).per_token, (given.student_logits,)
    )


def test_sequence_level_is_cross_entropy_that_loads_no_teacher() -> None:
    objective, given = build({"sequence_level": {}}, "sequence_level"), plain(teacher_logits=None)
    assert torch.equal(objective(given).per_token, build({}, "ce")(given).per_token)
    assert objective.needs == frozenset() and objective.trained() == {}
