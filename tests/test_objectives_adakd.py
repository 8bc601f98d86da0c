"""AdaKD: published alphas, its arms and how they differ, its safeguards, both model families."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import exp1

from objective_signals import CE, KL, PARAMS, all_masked, ctc, made, text
from stillsmall.config import ConfigError, read_yaml
from stillsmall.objectives.adakd import clamped, frozen_alpha, matching, shuffled, teacher_difficulty
from stillsmall.objectives.base import IGNORED, ObjectiveError, reduce, sample_mean, task_loss
from stillsmall.objectives.schedules import Schedule
from stillsmall.plugins import UnknownName

E = math.e
ARMS = ["progressive", "shuffled", "frozen", "mean_matched", "constant"]
FAMILIES = pytest.mark.parametrize("family", [text, ctc])


def adakd(t=0.0, std=1.0, **changed):
    """AdaKD of params.yaml with the given mean and spread of the teacher's loss."""
    objective = made("adakd", **{"distillation": KL, **changed})
    objective.t.fill_(t)
    objective.std.fill_(std)
    return objective


def fixed(value):
    return {"kind": "constant", "start": value, "end": value, "power": 1.0}


def linear(start, end):
    return {"kind": "linear", "start": start, "end": end, "power": 1.0}


def with_losses(losses, progress=0.3):
    """Signals of one unit a sample on which the teacher's loss is as given (nats)."""
    p = torch.exp(-torch.tensor(losses, dtype=torch.float64))
    teacher = torch.stack([p.log(), (1 - p).log()], -1).unsqueeze(1)
    labels = torch.zeros(len(losses), 1, dtype=torch.long)
    return text(len(losses), 1, 2, labels=labels, teacher_logits=teacher, progress=progress)


def alphas(objective, signals):
    return objective(signals).samples["alpha"].tolist()


@pytest.mark.parametrize(("z", "alpha"), [(-4, 0.87342), (-2, 0.69220), (0, 0.36788), (2, 0.06599), (4, 0.00062)])
def test_alpha_is_the_published_one(z, alpha):
    signals = with_losses([2.0])
    assert alphas(adakd(t=1.5, k=fixed(2.0 * z)), signals) == pytest.approx([alpha], abs=1e-5)
    d = math.exp(-z)
    assert alpha == pytest.approx(math.exp(-1 / math.sqrt(d)), abs=1e-5)  # the paper's form


def test_the_loss_is_mixed_by_sample():
    signals = text()
    out = adakd(k=fixed(1.0))(signals)
    alpha = out.samples["alpha"].unsqueeze(1)
    ce, kl = made("ce")(signals).per_token, made("kd", ce_weight=0.0, temperature=1.0)(signals).per_token
    assert torch.allclose(out.per_token, (1 - alpha) * ce + alpha * kl)
    assert len(alpha.unique()) == 3
    assert torch.equal(out.parts["task"], ce.detach()) and torch.equal(out.parts["distillation"], kl.detach())
    assert torch.equal(out.parts["distillation.kl"], kl.detach())


@FAMILIES
def test_difficulty_is_the_teachers_mean_loss_of_the_sample(family):
    signals = family()
    x = adakd()(signals).samples["difficulty"]
    assert torch.equal(x, sample_mean(task_loss(signals, signals.teacher_logits), signals.mask))
    assert teacher_difficulty(signals).dtype == torch.float64


def test_easy_samples_lean_on_the_teacher_first_and_hard_ones_last():
    easy, hard = alphas(adakd(t=1.0), with_losses([0.9, 1.1], progress=0.0))  # k = 15
    assert easy > 1 / E > hard
    easy, hard = alphas(adakd(t=1.0), with_losses([0.9, 1.1], progress=1.0))  # k = -10
    assert easy < 1 / E < hard
    assert alphas(adakd(t=1.0), with_losses([0.9, 1.1], progress=0.6)) == pytest.approx([1 / E, 1 / E])  # k = 0


def test_what_is_logged_says_k_and_the_mean_alpha():
    signals = with_losses([0.5, 1.5])
    out = adakd(t=1.0, k=linear(2.0, -2.0))(signals)
    assert out.values["k"] == pytest.approx(0.8)  # 2 - 4 * 0.3
    assert out.values["alpha"] == pytest.approx(sum(alphas(adakd(t=1.0, k=fixed(0.8)), signals)) / 2)
    assert out.values["difficulty_not_finite"] == out.values["teacher_not_finite"] == 0.0


def test_the_standardised_difficulty_is_over_the_spread():
    signals = with_losses([2.0])
    objective = adakd(t=1.0, std=0.5, k=fixed(1.0), difficulty="standardised")
    assert alphas(objective, signals) == pytest.approx([0.06599], abs=1e-5)


# arms


def test_the_constant_arm_is_one_over_e_and_needs_no_mean():
    out = made("adakd", arm="constant")(text())
    assert out.samples["alpha"].tolist() == pytest.approx([1 / E] * 3)
    assert out.values["alpha"] == pytest.approx(0.36788, abs=1e-5)


@pytest.mark.parametrize("arm", ["progressive", "shuffled", "frozen", "mean_matched"])
@FAMILIES
def test_with_k_zero_every_arm_is_the_constant_one(arm, family):
    signals = family()
    assert torch.allclose(
        adakd(k=fixed(0.0), arm=arm)(signals).per_token, adakd(arm="constant")(signals).per_token, atol=1e-12
    )


def test_the_shuffled_arm_has_the_same_alphas_on_other_samples():
    losses = [0.1 * i for i in range(1, 17)]
    signals = with_losses(losses)
    plain, mixed = adakd(t=0.8)(signals), adakd(t=0.8, arm="shuffled")(signals)
    assert sorted(mixed.samples["alpha"].tolist()) == pytest.approx(sorted(plain.samples["alpha"].tolist()))
    assert not torch.allclose(mixed.samples["alpha"], plain.samples["alpha"])
    assert torch.equal(mixed.samples["difficulty"], plain.samples["difficulty"])  # the sample's own is logged
    assert torch.equal(adakd(t=0.8, arm="shuffled")(signals).samples["alpha"], mixed.samples["alpha"])
    later = dataclasses.replace(signals, progress=0.30001)
    assert not torch.allclose(adakd(t=0.8, arm="shuffled")(later).samples["alpha"], mixed.samples["alpha"], atol=1e-3)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.floats(0, 1))
def test_shuffling_permutes_the_usable_and_leaves_the_others(usable, progress):
    x, mask = torch.arange(len(usable), dtype=torch.float64), torch.tensor(usable)
    signals = dataclasses.replace(text(), progress=progress)
    mixed = shuffled(x, mask, signals)
    assert sorted(mixed.tolist()) == x.tolist()
    assert torch.equal(mixed[~mask], x[~mask])


@given(st.floats(-3, 3).filter(lambda d: abs(d) > 1e-3), st.floats(0.5, 15), st.floats(-10, -0.5))
def test_the_frozen_alpha_is_the_closed_form_of_the_average(distance, start, end):
    # with w = k d / 2 the average over a linear k is a difference of exponential integrals
    def antiderivative(w):
        return -exp1(math.exp(w))

    low, high = end * distance / 2, start * distance / 2
    expected = (antiderivative(high) - antiderivative(low)) / (high - low)
    found = frozen_alpha(torch.tensor([distance], dtype=torch.float64), Schedule(**linear(start, end)))
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_the_frozen_arm_does_not_move_and_averages_the_progressive_one():
    losses = [0.5, 1.0, 1.4]
    early, late = (alphas(adakd(t=0.9, arm="frozen"), with_losses(losses, u)) for u in (0.0, 0.9))
    assert early == late
    moving = adakd(t=0.9)
    steps = [alphas(moving, with_losses(losses, (i + 0.5) / 200)) for i in range(200)]
    assert early == pytest.approx([sum(column) / 200 for column in zip(*steps, strict=True)], abs=1e-4)


@given(st.lists(st.floats(-60, 60), min_size=1, max_size=8))
def test_the_matching_constant_brings_the_mean_to_one_over_e(z):
    half = torch.tensor(z, dtype=torch.float64)
    c = matching(half)
    assert torch.exp(-torch.exp(half / 2 + c)).mean().item() == pytest.approx(1 / E, abs=1e-6)


def test_the_mean_matched_arm_keeps_the_order_and_the_mean_whatever_k_is():
    losses = [0.2, 0.7, 1.1, 2.0]
    for k in (15.0, 2.0, -10.0):
        out = adakd(t=0.4, k=fixed(k), arm="mean_matched")(with_losses(losses))
        alpha = out.samples["alpha"].tolist()
        assert out.values["alpha"] == pytest.approx(1 / E, abs=1e-6)
        assert alpha == sorted(alpha, reverse=k > 0)
    assert alphas(adakd(t=0.4, arm="mean_matched"), with_losses([3.0])) == pytest.approx([1 / E])


def test_a_fixed_and_a_reversed_k_are_schedules():
    signals = with_losses([0.5, 1.5], progress=0.0)
    assert alphas(adakd(t=1.0, k=linear(15.0, -10.0)), signals) == alphas(adakd(t=1.0, k=fixed(15.0)), signals)
    assert alphas(adakd(t=1.0, k=linear(-10.0, 15.0)), signals) == alphas(adakd(t=1.0, k=fixed(-10.0)), signals)


# before training


def test_mean_and_spread_come_from_finite_losses_of_at_most_so_many_samples():
    asked = []

    def teacher_loss(most):
        asked.append(most)
        return torch.tensor([1.0, 3.0, math.nan, math.inf])

    objective = made("adakd")
    objective.before_training(teacher_loss)
    assert asked == [10000]
    assert (objective.t.item(), objective.std.item()) == (2.0, 1.0)
    again = made("adakd")
    again.load_state_dict(objective.state_dict())
    assert (again.t.item(), again.std.item()) == (2.0, 1.0)


def test_a_teacher_without_a_finite_loss_is_an_error():
    with pytest.raises(ObjectiveError, match=r"^objectives\.adakd: the teacher's loss is not finite on any sample"):
        made("adakd").before_training(lambda most: torch.tensor([math.nan]))


def test_training_without_the_mean_is_an_error():
    with pytest.raises(ObjectiveError, match=r"^objectives\.adakd: the teacher's mean loss is not known"):
        made("adakd")(text())


def test_what_is_inside_is_told_too():
    inner = {"kind": "superloss", "lam": 1.0, "by": "token", "tau": "running_mean", "momentum": 0.5, "inner": CE}
    objective = adakd(task=inner)
    objective(text())
    objective.after_step(None, 0.1)
    assert objective.task.mean.item() > 0
    nested = adakd(task={**read_yaml(PARAMS)["objectives"]["adakd"], "kind": "adakd"})
    nested.before_training(lambda most: torch.tensor([1.0, 3.0]))
    assert (nested.t.item(), nested.task.t.item()) == (2.0, 2.0)
    assert "task.tau" in objective(text()).values and "task.sigma" in objective(text()).samples


# safeguards


def test_z_stays_within_sixty():
    assert clamped(torch.tensor([-1e9, 3.0, 1e9])).tolist() == [-60.0, 3.0, 60.0]
    wide = torch.tensor([-1e300, 0.0, 1e300], dtype=torch.float64)
    assert matching(clamped(wide)) == pytest.approx(math.log(-math.log(3 / E - 1)), abs=1e-6)  # alphas 1, 3/e - 1, 0


@pytest.mark.parametrize("arm", ARMS)
@FAMILIES
def test_an_extreme_difficulty_is_clamped(arm, family):
    signals = family()
    signals = dataclasses.replace(signals, teacher_logits=signals.teacher_logits * 1e4)
    out = adakd(t=1e6, arm=arm)(signals)
    out.per_token.sum().backward()
    assert out.samples["alpha"].isfinite().all() and (out.samples["alpha"] >= 0).all()
    assert signals.student_logits.grad.isfinite().all()


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@FAMILIES
def test_a_sample_with_a_teacher_logit_that_is_no_number_learns_from_the_task_alone(arm, bad, family):
    signals = family()
    signals.teacher_logits[1, 0, 2] = bad
    out = adakd(arm=arm)(signals)
    out.per_token.sum().backward()
    assert out.samples["alpha"][1].item() == 0.0
    assert (out.values["teacher_not_finite"], out.values["difficulty_not_finite"]) == (1.0, 1.0)
    assert torch.equal(out.per_token[1], made("ce")(signals).per_token[1])
    assert signals.student_logits.grad.isfinite().all()
    alone = family()
    made("ce")(alone).per_token[1].sum().backward()
    assert torch.allclose(signals.student_logits.grad[1], alone.student_logits.grad[1])


@FAMILIES
def test_the_others_of_its_batch_do_not_notice(family):
    signals, whole = family(), family()
    signals.teacher_logits[1, 0, 0] = math.nan
    assert torch.equal(adakd()(signals).per_token[[0, 2]], adakd()(whole).per_token[[0, 2]])


def test_matching_and_shuffling_leave_it_out():
    x = adakd()(text(batch=4)).samples["difficulty"]
    for step in range(8):
        signals = text(batch=4, progress=step / 10)
        signals.teacher_logits[1, 0, 0] = math.nan
        fine = [0, 2, 3]
        matched = adakd(t=2.0, arm="mean_matched")(signals).samples["alpha"]
        assert matched[fine].mean().item() == pytest.approx(1 / E, abs=1e-6)
        own = adakd(t=2.0)(signals).samples["alpha"]
        mixed = adakd(t=2.0, arm="shuffled")(signals).samples["alpha"]
        assert sorted(mixed[fine].tolist()) == pytest.approx(sorted(own[fine].tolist()))
    assert len(x.unique()) == 4


def test_a_teacher_that_is_no_number_on_padding_alone_is_fine():
    signals, whole = text(), text()
    signals.teacher_logits[2, 3] = math.nan  # masked
    out = adakd()(signals)
    out.per_token.sum().backward()
    assert torch.equal(out.per_token, adakd()(whole).per_token)
    assert out.values["teacher_not_finite"] == 0.0
    assert signals.student_logits.grad.isfinite().all()


def test_hidden_states_that_are_no_numbers_do_no_harm_either():
    section = {"kind": "hidden", "weight": 1.0, "layers": "last", "project": True, "inner": CE}
    states = [torch.randn(3, 4, 5, dtype=torch.float64) for _ in range(2)]
    ours = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    states[1][1, 0] = math.nan
    signals = dataclasses.replace(text(), student_hidden=(ours, ours), teacher_hidden=tuple(states))
    signals.teacher_logits[1, 0, 0] = math.nan
    adakd(distillation=section)(signals).per_token.sum().backward()
    assert ours.grad.isfinite().all()


def test_a_loss_that_is_no_number_though_the_logits_are_has_z_zero_and_is_counted():
    signals = text()
    teacher = signals.teacher_logits.clone()
    teacher[1, 0] = torch.tensor([1e308, -1e308, 0, 0, 0, 0, 0], dtype=torch.float64)  # the difference overflows
    signals = dataclasses.replace(
        signals, teacher_logits=teacher, labels=signals.labels.index_fill(0, torch.tensor([1]), 1)
    )
    out = adakd(distillation=CE)(signals)
    assert out.samples["alpha"][1].item() == pytest.approx(1 / E)
    assert (out.values["teacher_not_finite"], out.values["difficulty_not_finite"]) == (0.0, 1.0)


def test_a_label_that_no_alignment_fits_is_not_taken_for_the_easiest():
    signals = ctc()
    signals = dataclasses.replace(signals, frames=signals.frames & (torch.arange(9) < torch.tensor([[9], [2], [9]])))
    out = adakd(t=5.0)(signals)
    assert math.isnan(out.samples["difficulty"][1])
    assert out.samples["alpha"][1].item() == pytest.approx(1 / E)
    assert out.values["difficulty_not_finite"] == 1.0


@pytest.mark.parametrize("std", [0.0, math.nan])
def test_data_without_spread_have_alpha_one_over_e(std):
    assert alphas(adakd(t=1.0, std=std, difficulty="standardised"), text()) == pytest.approx([1 / E] * 3)


@pytest.mark.parametrize("arm", ARMS)
@FAMILIES
def test_an_all_masked_batch_is_zero_and_no_nan(arm, family):
    signals = all_masked(family())
    out = adakd(arm=arm)(signals)
    loss = reduce(out.per_token, 0)
    loss.backward()
    assert loss.item() == 0.0 and out.values["alpha"] == 0.0
    assert not signals.student_logits.grad.isnan().any()


def test_a_sample_without_units_does_not_count_in_the_mean():
    signals = text()
    signals.labels[1] = IGNORED
    out = adakd(arm="mean_matched")(signals)
    assert out.samples["alpha"][[0, 2]].mean().item() == pytest.approx(1 / E, abs=1e-6)
    assert out.values["alpha"] == pytest.approx(1 / E, abs=1e-6)


@pytest.mark.parametrize("arm", ARMS)
@FAMILIES
def test_no_gradient_reaches_the_teacher(arm, family):
    signals = family()
    signals.teacher_logits.requires_grad_()
    out = adakd(arm=arm)(signals)
    out.per_token.sum().backward()
    assert signals.teacher_logits.grad is None
    assert not any(value.requires_grad for value in {**out.parts, **out.samples}.values())


@pytest.mark.parametrize("arm", ARMS)
@FAMILIES
def test_the_gradient_is_the_numerical_one(arm, family):
    signals = family(batch=2)
    objective = adakd(t=1.5, k=fixed(2.0), arm=arm)

    def loss(logits):
        return objective(dataclasses.replace(signals, student_logits=logits)).per_token.sum()

    assert torch.autograd.gradcheck(loss, (signals.student_logits,), fast_mode=True)


def test_single_precision_stays_single():
    signals = text()
    signals = dataclasses.replace(
        signals,
        student_logits=signals.student_logits.detach().bfloat16(),
        teacher_logits=signals.teacher_logits.bfloat16(),
    )
    assert adakd()(signals).per_token.dtype == torch.float32


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"arm": "progresive"}, r"^objectives\.adakd\.arm: got 'progresive'; input should be 'progressive'"),
        ({"task": {"kind": "kdd"}}, r"^objectives\.adakd\.task\.kind: unknown 'kdd'; did you mean 'kd'\?"),
        ({"distillation": {"kind": "kd"}}, r"^objectives\.adakd\.distillation\.ce_weight: missing"),
        ({"k": {"kind": "linear", "start": 1.0, "end": 0.0}}, r"^objectives\.adakd\.k\.power: missing"),
        ({"most": 0}, r"^objectives\.adakd\.most: got 0"),
    ],
)
def test_a_section_that_cannot_be_is_refused_under_its_dotted_path(changed, said):
    with pytest.raises((ConfigError, UnknownName), match=said):
        made("adakd", **changed)


def test_it_needs_a_teacher_and_what_is_inside_it_needs():
    assert made("adakd").needs == {"teacher"}
    section = {"kind": "hidden", "weight": 1.0, "layers": "last", "project": True, "inner": CE}
    assert made("adakd", distillation=section).needs == {"teacher", "hidden"}
    with pytest.raises(ObjectiveError, match=r"^objectives\.adakd needs teacher"):
        adakd()(dataclasses.replace(text(), teacher_logits=None))
