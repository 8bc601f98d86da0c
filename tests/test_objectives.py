"""Losses: values computed by hand, equivalent forms, masks, and what cannot be."""

import math

import pytest
import torch

from stillsmall.config import ConfigError
from stillsmall.objectives.base import IGNORED, ObjectiveError, Signals, reduce
from stillsmall.objectives.build import build


def signals(student, labels, teacher=None):
    ids = tuple(str(i) for i in range(len(labels)))
    return Signals(student, labels, ids, 0.0, teacher_logits=teacher)


def kd(ce_weight=0.8, kl_weight=1.0, temperature=2.0):
    section = {"kd": {"ce_weight": ce_weight, "kl_weight": kl_weight, "temperature": temperature}}
    return build(section, "kd")


ce = build({}, "ce")


def test_cross_entropy_of_a_uniform_student_is_log_of_the_vocabulary():
    loss = ce.forward(signals(torch.zeros(1, 2, 5), torch.tensor([[1, IGNORED]]))).per_token
    assert loss[0, 0].item() == pytest.approx(math.log(5))
    assert loss[0, 1].item() == 0.0


def test_kd_is_the_hand_computed_sum():
    # two tokens: teacher p = (0.8, 0.2), student q = (0.5, 0.5); T = 1
    teacher, student = torch.tensor([[[math.log(4.0), 0.0]]]), torch.zeros(1, 1, 2)
    expected_kl = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    out = kd(0.8, 1.0, 1.0).forward(signals(student, torch.tensor([[0]]), teacher))
    assert out.parts["kl"].item() == pytest.approx(expected_kl, abs=1e-6)
    assert out.per_token.item() == pytest.approx(0.8 * math.log(2) + expected_kl, abs=1e-6)


def test_temperature_scales_the_kl_by_its_square():
    teacher, student = torch.tensor([[[2 * math.log(4.0), 0.0]]]), torch.zeros(1, 1, 2)
    at_two = kd(0.0, 1.0, 2.0).forward(signals(student, torch.tensor([[0]]), teacher)).per_token.item()
    halved = kd(0.0, 1.0, 1.0).forward(signals(student, torch.tensor([[0]]), teacher / 2)).per_token.item()
    assert at_two == pytest.approx(4 * halved)


def test_a_student_equal_to_its_teacher_has_no_kl_and_no_gradient():
    logits = torch.randn(2, 3, 7, requires_grad=True)
    labels = torch.randint(0, 7, (2, 3))
    loss = kd(0.0, 1.0).forward(signals(logits, labels, logits.detach())).per_token.sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad.abs().max().item() < 1e-6


def test_kd_without_its_kl_is_cross_entropy():
    student, labels = torch.randn(2, 3, 7), torch.randint(0, 7, (2, 3))
    assert torch.allclose(
        kd(1.0, 0.0).forward(signals(student, labels, torch.randn(2, 3, 7))).per_token,
        ce.forward(signals(student, labels)).per_token,
    )


def test_masked_positions_have_neither_loss_nor_gradient():
    student = torch.randn(1, 3, 5, requires_grad=True)
    labels = torch.tensor([[2, IGNORED, 4]])
    out = kd().forward(signals(student, labels, torch.randn(1, 3, 5))).per_token
    out.sum().backward()
    assert out[0, 1].item() == 0.0 and out[0, 0].item() > 0
    assert student.grad[0, 1].abs().max().item() == 0.0


def test_a_batch_that_is_all_masked_reduces_to_zero_not_to_nan():
    out = kd().forward(signals(torch.randn(1, 2, 5), torch.full((1, 2), IGNORED), torch.randn(1, 2, 5)))
    assert reduce(out.per_token, 0).item() == 0.0


def test_different_vocabularies_are_refused():
    with pytest.raises(ObjectiveError, match="one vocabulary"):
        kd().forward(signals(torch.zeros(1, 1, 5), torch.tensor([[0]]), torch.zeros(1, 1, 6)))


def test_kd_without_teacher_logits_says_what_it_needs():
    with pytest.raises(ObjectiveError, match="objectives.kd needs teacher"):
        kd().forward(signals(torch.zeros(1, 1, 5), torch.tensor([[0]])))


def test_weights_that_are_all_zero_are_refused_under_their_path():
    with pytest.raises(ConfigError, match=r"objectives\.kd.*both 0"):
        kd(0.0, 0.0)
