"""ASKD: its two weights, its limits (kd, ce, label smoothing), and what it asks for when."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillsmall.config import ConfigError
from stillsmall.objectives.askd import smoothed
from stillsmall.objectives.base import IGNORED, ObjectiveError, Signals, reduce
from stillsmall.objectives.build import build


def schedule(kind: str, start: float, end: float, begin: float = 0.0, until: float = 1.0) -> dict[str, Any]:
    return {"kind": kind, "start": start, "end": end, "power": 1.0, "begin": begin, "until": until}


NONE = schedule("constant", 0.0, 0.0)
LAM = schedule("linear", 0.8, 0.0, until=0.7)
MU = schedule("linear", 0.0, 0.5, begin=0.7)


def askd(lam: Any = LAM, mu: Any = MU, **given: Any) -> Any:
    chosen = {
        "mode": "subsequent",
        "self_teacher": "ema",
        "self_target": "distribution",
        "ema_decay": 0.999,
        "temperature": 2.0,
        **given,
    }
    return build({"askd": {"lam": lam, "mu": mu, **chosen}}, "askd")


def signals(progress: float = 0.0, dtype: torch.dtype = torch.float32, **given: Any) -> Signals:
    torch.manual_seed(3)
    student = torch.randn(2, 3, 5, dtype=dtype, requires_grad=True)
    labels = torch.tensor([[1, 2, 3], [4, 0, IGNORED]])
    both = {"teacher_logits": torch.randn(2, 3, 5, dtype=dtype), "self_logits": torch.randn(2, 3, 5, dtype=dtype)}
    return Signals(given.pop("student", student), labels, ("a", "b"), progress, **{**both, **given})


def kd(ce_weight: float, kl_weight: float, temperature: float = 2.0) -> Any:
    return build({"kd": {"ce_weight": ce_weight, "kl_weight": kl_weight, "temperature": temperature}}, "kd")


@pytest.mark.parametrize(
    ("progress", "lam", "mu"),
    [(0.0, 0.8, 0.0), (0.35, 0.4, 0.0), (0.7, 0.0, 0.0), (0.85, 0.0, 0.25), (1.0, 0.0, 0.5)],
)
def test_the_teacher_goes_and_the_self_comes(progress: float, lam: float, mu: float) -> None:
    values = askd()(signals(progress)).values
    assert values["lam"] == pytest.approx(lam, abs=1e-12) and values["mu"] == pytest.approx(mu, abs=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
def test_lam_is_exactly_zero_at_u1_and_never_rises(kind: str) -> None:
    objective = askd(schedule(kind, 1.0, 0.0, until=0.7))
    values = [objective.config.lam(i / 1000) for i in range(1001)]
    assert values[0] == 1.0 and values[700] == 0.0 and set(values[700:]) == {0.0}
    assert all(a >= b for a, b in itertools.pairwise(values))


def test_a_constant_lam_without_a_self_is_exactly_kd() -> None:
    objective = askd(schedule("constant", 0.6, 0.6), NONE)
    for progress in (0.0, 0.5, 0.99):
        given = signals(progress, self_logits=None)
        assert torch.equal(objective(given).per_token, kd(0.4, 0.6)(given).per_token)
    assert objective.needs == {"teacher"} and objective.self_kind is None


def test_without_mu_it_is_cross_entropy_once_the_teacher_has_gone() -> None:
    given = signals(0.8, teacher_logits=None, self_logits=None)
    assert torch.equal(askd(mu=NONE)(given).per_token, build({}, "ce")(given).per_token)


def test_mu_alone_is_kd_from_oneself() -> None:
    objective = askd(NONE, schedule("constant", 0.5, 0.5))
    given = signals(0.3)
    as_teacher = signals(0.3, teacher_logits=given.self_logits)
    assert torch.allclose(objective(given).per_token, kd(0.5, 0.5)(as_teacher).per_token)
    assert objective.needs == {"self"}


def test_concurrent_is_the_hand_computed_sum() -> None:
    both = askd(schedule("constant", 0.4, 0.4), schedule("constant", 0.2, 0.2), mode="concurrent", temperature=1.0)
    student, labels = torch.zeros(1, 1, 2), torch.tensor([[0]])
    teacher, own = torch.tensor([[[math.log(4.0), 0.0]]]), torch.tensor([[[0.0, math.log(9.0)]]])
    out = both(Signals(student, labels, ("a",), 0.5, teacher_logits=teacher, self_logits=own))
    kl = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    self_kl = 0.1 * math.log(0.2) + 0.9 * math.log(1.8)
    assert out.per_token.item() == pytest.approx(0.4 * math.log(2) + 0.4 * kl + 0.2 * self_kl, abs=1e-6)
    assert out.parts["self_kl"].item() == pytest.approx(self_kl, abs=1e-6)


def test_a_uniform_self_is_label_smoothing() -> None:
    # (1 - mu) CE + mu KL(uniform || q) is smoothing by mu, less the constant mu * log V
    given = signals(0.9, self_logits=torch.zeros(2, 3, 5))
    out = askd(NONE, schedule("constant", 0.3, 0.3), temperature=1.0)(given).per_token
    logits = given.student_logits
    smooth = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), given.labels.flatten(), ignore_index=IGNORED, label_smoothing=0.3, reduction="none"
    ).view(2, 3)
    assert torch.allclose(out + 0.3 * math.log(5) * given.mask, smooth, atol=1e-6)
    (mine,), (theirs,) = (torch.autograd.grad(x.sum(), logits, retain_graph=True) for x in (out, smooth))
    assert torch.allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_a_student_equal_to_its_teachers_has_no_kl_and_no_gradient(progress: float) -> None:
    objective = askd(schedule("linear", 1.0, 0.0, until=0.7))
    logits = torch.randn(2, 3, 5, requires_grad=True)
    given = signals(progress, student=logits, teacher_logits=logits.detach(), self_logits=logits.detach())
    out = objective(given)
    part = out.parts["kl" if progress == 0 else "self_kl"]
    assert part.abs().max() < 1e-6
    ce = build({}, "ce")(given).per_token
    (mine,) = torch.autograd.grad(out.per_token.sum(), logits, retain_graph=True)
    (of_ce,) = torch.autograd.grad(ce.sum(), logits)
    share = 1.0 - out.values["lam"] - out.values["mu"]
    assert torch.allclose(mine, share * of_ce, atol=1e-6)


def test_no_gradient_reaches_teacher_or_self() -> None:
    given = signals(0.3)
    objective = askd(mu=schedule("linear", 0.0, 0.1), mode="concurrent")
    teacher, own = (z.requires_grad_() for z in (given.teacher_logits, given.self_logits) if z is not None)
    objective(given).per_token.sum().backward()
    assert teacher.grad is None and own.grad is None
    assert given.student_logits.grad is not None


def test_its_gradient_is_the_numerical_one() -> None:
    objective = askd(mu=schedule("linear", 0.0, 0.2), mode="concurrent")
    given = signals(0.4, torch.float64)

    def loss(student: torch.Tensor) -> torch.Tensor:
        return objective(signals(0.4, torch.float64, student=student)).per_token

    assert torch.autograd.gradcheck(loss, (given.student_logits,))


def test_it_asks_for_its_teachers_only_while_they_have_a_say() -> None:
    objective = askd()
    assert objective.needs == {"teacher", "self"}
    assert [objective.needs_at(u) for u in (0.0, 0.69, 0.7, 0.71)] == [{"teacher"}, {"teacher"}, set(), {"self"}]
    assert (objective.self_kind, objective.self_decay, objective.self_from) == ("ema", 0.999, 0.7)
    snapshot = askd(self_teacher="snapshot")
    assert (snapshot.self_kind, snapshot.self_decay, snapshot.self_from) == ("snapshot", None, 0.7)
    with pytest.raises(ObjectiveError, match=r"objectives\.askd needs self"):
        objective(signals(0.9, self_logits=None))


@given(st.floats(0, 1), st.sampled_from(["linear", "cosine", "exponential"]))
def test_the_weights_never_leave_their_ranges(progress: float, kind: str) -> None:
    config = askd(schedule(kind, 1.0, 0.0, until=0.7)).config
    lam, mu = config.lam(progress), config.weight(progress)
    assert 0 <= lam <= 1 and 0 <= mu <= 0.5 and lam + mu <= 1


@pytest.mark.parametrize(
    ("lam", "mu", "mode", "words"),
    [
        (schedule("linear", 1.2, 0.0), NONE, "subsequent", "lam falls within"),
        (schedule("linear", 0.2, 0.6), NONE, "subsequent", "lam falls within"),
        (LAM, schedule("linear", 0.0, 0.6, begin=0.7), "subsequent", "mu rises within"),
        (LAM, schedule("linear", 0.0, 0.5, begin=0.3), "subsequent", r"mu\.begin \(0\.3\) not before"),
        (schedule("linear", 0.8, 0.1, until=0.7), MU, "subsequent", r"lam\.end must be 0 \(is 0\.1\)"),
        (schedule("constant", 0.8, 0.8), schedule("linear", 0.0, 0.5), "concurrent", r"lam \+ mu is above 1"),
        (LAM, MU, "together", "subsequent"),
    ],
)
def test_what_cannot_be_is_refused_under_its_path(lam: Any, mu: Any, mode: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"objectives\.askd.*{words}"):
        askd(lam, mu, mode=mode)


@pytest.mark.parametrize("progress", [0.1, 0.9])
def test_a_batch_that_is_all_masked_is_zero(progress: float) -> None:
    student = torch.randn(1, 2, 5, requires_grad=True)
    given = Signals(
        student,
        torch.full((1, 2), IGNORED),
        ("a",),
        progress,
        teacher_logits=torch.randn(1, 2, 5),
        self_logits=torch.randn(1, 2, 5),
    )
    loss = reduce(askd()(given).per_token, 0)
    loss.backward()
    assert loss.item() == 0.0 and student.grad is not None and student.grad.abs().max() == 0


def test_for_ctc_it_is_kd_over_frames() -> None:
    frames = torch.tensor([[True] * 4, [True, True, True, False]])
    given = Signals(
        torch.randn(2, 4, 5),
        torch.tensor([[1, 2], [3, IGNORED]]),
        ("a", "b"),
        0.5,
        teacher_logits=torch.randn(2, 4, 5),
        frames=frames,
    )
    out = askd(schedule("constant", 0.6, 0.6), NONE)(given).per_token
    assert torch.equal(out, kd(0.4, 0.6)(given).per_token)
    assert out[1, 3] == 0 and (out[:, :3] != 0).all()


def entropy(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    log_p = (logits / temperature).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_smoothed_target_has_the_entropy_of_the_self_and_the_label_on_top(temperature: float) -> None:
    scales = torch.tensor([0.0, 1e-3, 1.0, 5.0, 200.0]).view(5, 1, 1)
    logits, labels = torch.randn(5, 4, 6) * scales, torch.randint(0, 6, (5, 4))
    made = smoothed(logits, labels, temperature)
    assert torch.allclose(entropy(made, temperature), entropy(logits, temperature), atol=1e-4)
    probabilities = (made / temperature).softmax(-1)
    assert torch.equal(probabilities[1:].argmax(-1), labels[1:])
    others = probabilities.scatter(-1, labels.unsqueeze(-1), -1.0)
    others = torch.where(others < 0, others.amax(-1, keepdim=True), others)
    assert torch.allclose(others.amin(-1), others.amax(-1))


def test_a_smoothed_target_is_label_smoothing_of_that_strength() -> None:
    # the self gives (1 - e) label + e uniform itself, e = 0.2: nothing changes, and mu KL + (1 - mu) CE smooths by mu e
    given = signals(0.9)
    labels = given.labels.clamp(min=0)
    own = (0.8 * torch.nn.functional.one_hot(labels, 5) + 0.04).log()
    given = signals(0.9, self_logits=own)
    objective = askd(NONE, schedule("constant", 0.5, 0.5), temperature=1.0, self_target="smoothed")
    out = objective(given).per_token
    smooth = build({"label_smoothing": {"epsilon": 0.1}}, "label_smoothing")(given).per_token
    assert torch.allclose(out + 0.5 * entropy(own, 1.0) * given.mask, smooth, atol=1e-5)


def test_a_smoothed_target_is_refused_for_ctc() -> None:
    objective = askd(self_target="smoothed")
    with pytest.raises(ConfigError, match=r"askd\.self_target.*CTC"):
        objective.attach(torch.nn.Linear(1, 1), None)
    with pytest.raises(ObjectiveError, match=r"askd\.self_target.*CTC"):
        objective(signals(0.9, frames=torch.ones(2, 3, dtype=torch.bool)))
