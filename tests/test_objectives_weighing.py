"""Focal, SuperLoss, label smoothing and hidden states: published values, limits, gradients, both model families."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Wav2Vec2Config, WhisperConfig

from objective_signals import CE, KL, all_masked, binary, ctc, made, text
from stillsmall.config import ConfigError
from stillsmall.objectives.base import IGNORED, Objective, ObjectiveError, TokenLoss, reduce, sample_mean
from stillsmall.objectives.hidden import depth, pairs
from stillsmall.objectives.superloss import best_sigma
from stillsmall.plugins import UnknownName

E = math.e


class Given(Objective):
    """An inner objective whose losses are written down."""

    def __init__(self, losses):
        super().__init__(None)
        self.losses = losses

    def forward(self, signals):
        return TokenLoss(self.losses * signals.mask, {"given": self.losses.detach()})


def around(outer, losses):
    """`outer` with these (B, U) losses inside, and signals of their shape."""
    losses = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    outer.inner = Given(losses)
    batch, units = losses.shape
    labels = torch.zeros(batch, units, dtype=torch.long)
    return outer, losses, text(batch, units, labels=labels)


FAMILIES = pytest.mark.parametrize("family", [text, ctc])
WRAPPERS = pytest.mark.parametrize(
    "objective",
    [
        made("focal"),
        made("focal", inner=KL),
        made("superloss"),
        made("superloss", by="token", tau="log_classes", inner=KL),
        made("label_smoothing"),
        made("focal", inner={"kind": "label_smoothing", "epsilon": 0.1}),
    ],
    ids=["focal", "focal kd", "superloss", "superloss kd", "label smoothing", "focal label smoothing"],
)


@WRAPPERS
@FAMILIES
def test_a_batch_that_is_all_masked_gives_zero_and_no_nan(objective, family):
    signals = all_masked(family())
    loss = reduce(objective(signals).per_token, 0)
    loss.backward()
    assert loss.item() == 0.0
    assert signals.student_logits.grad is None or not signals.student_logits.grad.isnan().any()


@WRAPPERS
@FAMILIES
def test_masked_units_have_no_loss_and_no_gradient(objective, family):
    signals = family()
    out = objective(signals)
    out.per_token.sum().backward()
    assert out.per_token.shape == signals.mask.shape
    assert (out.per_token[~signals.mask] == 0).all() and (out.per_token[signals.mask] != 0).all()
    assert (signals.student_logits.grad[~signals.mask] == 0).all()
    assert signals.student_logits.grad[signals.mask].isfinite().all()


@WRAPPERS
def test_no_gradient_reaches_the_teacher_and_all_that_is_logged_is_detached(objective):
    signals = text()
    signals.teacher_logits.requires_grad_()
    out = objective(signals)
    out.per_token.sum().backward()
    assert signals.teacher_logits.grad is None
    assert not any(value.requires_grad for value in {**out.parts, **out.samples}.values())
    assert all(part.shape == signals.mask.shape for part in out.parts.values())


@pytest.mark.parametrize("objective", [made("focal"), made("focal", gamma=0.5), made("label_smoothing")])
@FAMILIES
def test_the_gradient_is_the_numerical_one(objective, family):
    signals = family(batch=2)

    def loss(logits):
        return objective(dataclasses.replace(signals, student_logits=logits)).per_token.sum()

    assert torch.autograd.gradcheck(loss, (signals.student_logits,))


@pytest.mark.parametrize("by", ["token", "sample"])
@FAMILIES
def test_so_is_superlosss_though_its_weight_is_detached(by, family):
    objective = made("superloss", by=by, tau="log_classes", lam=0.7)
    signals = family(batch=2)

    def loss(logits):
        return objective(dataclasses.replace(signals, student_logits=logits)).per_token.sum()

    assert torch.autograd.gradcheck(loss, (signals.student_logits,))


def test_focal_of_one_half_is_a_quarter_of_log_two():
    labels = torch.zeros(1, 1, dtype=torch.long)
    out = made("focal", gamma=2.0)(text(1, 1, 2, student_logits=binary(0.5), labels=labels))
    assert out.per_token.item() == pytest.approx(0.173287, abs=1e-6)
    assert out.parts["focal_weight"].item() == pytest.approx(0.25)
    assert out.parts["inner"].item() == pytest.approx(math.log(2))


@FAMILIES
@pytest.mark.parametrize("inner", [CE, KL])
def test_focal_without_gamma_is_its_inner_objective(family, inner):
    signals = family()
    plain = made("kd", **{k: v for k, v in KL.items() if k != "kind"}) if inner is KL else made("ce")
    assert torch.equal(made("focal", gamma=0.0, inner=inner)(signals).per_token, plain(signals).per_token)


def test_focal_leaves_out_what_is_certain():
    labels = torch.zeros(1, 1, dtype=torch.long)
    signals = text(1, 1, 2, student_logits=torch.tensor([[[80.0, 0.0]]], requires_grad=True), labels=labels)
    loss = made("focal", gamma=0.5, inner=CE)(signals).per_token.sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert signals.student_logits.grad.isfinite().all()


def test_focal_weighs_frames_of_a_clip_alike():
    weight = made("focal")(ctc()).parts["focal_weight"]
    for row in weight:
        assert len(row[row > 0].unique()) == 1


@pytest.mark.parametrize(
    ("beta", "sigma", "value"),
    [
        (0.0, 1.0, 0.0),
        (2.0, 0.567143, 1.455938),
        (2 * E, 1 / E, 3.0),
        (-2 / E, E, -1.0),  # (-2/e) e + 1
        (-5.0, E, 1 - 5 * E),
    ],
)
def test_superloss_has_its_published_values_and_its_weight_as_slope(beta, sigma, value):
    tau = math.log(7)
    objective, losses, signals = around(made("superloss", lam=1.0, by="token", tau="log_classes"), [[tau + beta]])
    out = objective(signals)
    out.per_token.sum().backward()
    assert out.parts["sigma"].item() == pytest.approx(sigma, abs=1e-5)
    assert out.per_token.item() == pytest.approx(value, abs=1e-5)
    assert losses.grad.item() == pytest.approx(sigma, abs=1e-5)
    assert out.values["tau"] == pytest.approx(tau)


@given(st.floats(-2 / E + 1e-6, 1e6))
def test_the_superlosss_slope_over_sigma_is_zero_at_sigma(beta):
    sigma = best_sigma(torch.tensor([beta], dtype=torch.float64)).item()
    assert 0 < sigma < E
    assert beta + 2 * math.log(sigma) / sigma == pytest.approx(0.0, abs=1e-9 * max(1.0, beta))


def test_sigma_is_a_number_at_and_around_the_branch_point():
    beta = torch.tensor([-2 / E + d for d in (-1e-9, -1e-16, 0.0, 1e-16, 1e-12, 1e-6)], dtype=torch.float64)
    assert best_sigma(beta).tolist() == pytest.approx([E] * 6, abs=0.01)
    assert best_sigma(beta.float()).dtype == torch.float32


def test_superloss_by_sample_weighs_a_samples_units_alike_and_has_the_slope_by_sample():
    tau = math.log(7)
    given_ = [[tau + 1.0, tau + 3.0], [tau, tau]]
    objective, losses, signals = around(made("superloss", lam=1.0, by="sample", tau="log_classes"), given_)
    out = objective(signals)
    assert sample_mean(out.per_token, signals.mask).tolist() == pytest.approx([1.455938, 0.0], abs=1e-5)
    assert out.samples["sigma"].tolist() == pytest.approx([0.567143, 1.0], abs=1e-5)
    out.per_token.sum().backward()
    assert losses.grad.flatten().tolist() == pytest.approx([0.567143, 0.567143, 1.0, 1.0], abs=1e-5)


def test_superloss_of_a_strong_lambda_is_its_inner_objective_less_tau():
    objective, losses, signals = around(made("superloss", lam=1e9, by="token", tau="log_classes"), [[0.5, 4.0]])
    assert objective(signals).per_token.tolist()[0] == pytest.approx(
        [x - math.log(7) for x in losses.tolist()[0]], abs=1e-6
    )


def test_the_running_mean_moves_once_a_step_however_the_step_is_split():
    whole, _, signals = around(made("superloss", by="token", tau="running_mean", momentum=0.9), [[1.0, 3.0, 5.0, 7.0]])
    assert whole(signals).values["tau"] == 4.0  # before the first step: the micro-batch's own
    whole.after_step(None, 0.1)
    split = made("superloss", by="token", tau="running_mean", momentum=0.9)
    for part in ([[1.0, 3.0]], [[5.0, 7.0]]):
        _, _, some = around(split, part)
        split(some)
    split.after_step(None, 0.1)
    assert whole.mean.item() == split.mean.item() == 4.0
    split(some)
    split.after_step(None, 0.2)
    assert split.mean.item() == pytest.approx(0.9 * 4.0 + 0.1 * 6.0)
    assert split(some).values["tau"] == split.mean.item()


def test_the_running_mean_is_part_of_the_checkpoint_and_evaluation_leaves_it_alone():
    objective = made("superloss", by="sample", tau="running_mean")
    objective(text())
    objective.after_step(None, 0.1)
    again = made("superloss", by="sample", tau="running_mean")
    again.load_state_dict(objective.state_dict())
    assert again.mean.item() == objective.mean.item() > 0
    again.eval()
    again(text(seed=5))
    again.after_step(None, 0.2)
    assert again.mean.item() == objective.mean.item()


def test_the_running_mean_looks_at_no_padding():
    objective, _, signals = around(made("superloss", by="token", tau="running_mean"), [[1.0, 9.0]])
    signals = dataclasses.replace(signals, labels=torch.tensor([[1, IGNORED]]))
    assert objective(signals).values["tau"] == 1.0


def test_label_smoothing_is_the_librarys():
    signals = text()
    ours = made("label_smoothing", epsilon=0.1)(signals).per_token
    theirs = torch.nn.functional.cross_entropy(
        signals.student_logits.flatten(0, 1), signals.labels.flatten(), reduction="none", label_smoothing=0.1
    )
    assert torch.allclose(ours.flatten(), theirs)


def test_label_smoothing_is_the_kl_to_the_mixture_and_the_mixtures_entropy():
    # p = 0.5 of 2, epsilon 0.2: m = (0.9, 0.1)
    out = made("label_smoothing", epsilon=0.2)(
        text(1, 1, 2, student_logits=binary(0.8), labels=torch.zeros(1, 1, dtype=torch.long))
    )
    kl = 0.9 * math.log(0.9 / 0.8) + 0.1 * math.log(0.1 / 0.2)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert out.per_token.item() == pytest.approx(kl + entropy, abs=1e-9)


@FAMILIES
def test_label_smoothing_of_nothing_is_the_task_loss_and_needs_no_teacher(family):
    signals = dataclasses.replace(family(), teacher_logits=None)
    assert torch.allclose(made("label_smoothing", epsilon=0.0)(signals).per_token, made("ce")(signals).per_token)
    assert made("label_smoothing").needs == frozenset()


def test_label_smoothing_of_ctc_draws_each_frame_to_uniform():
    signals = ctc()
    uniform = dataclasses.replace(signals, student_logits=torch.zeros_like(signals.student_logits))
    out = made("label_smoothing", epsilon=1.0)(uniform).per_token
    assert torch.allclose(out[signals.mask], torch.tensor(math.log(6), dtype=out.dtype))
    assert (made("label_smoothing", epsilon=1.0)(signals).per_token[signals.mask] > math.log(6)).all()


def model(layers, width, decoder=True):
    name = "decoder_layers" if decoder else "num_hidden_layers"
    return SimpleNamespace(
        config=SimpleNamespace(**{name: layers, "hidden_size": width}), parameters=lambda: iter([torch.zeros(1)])
    )


def hidden(ours, theirs, signals=None):
    """Signals with hidden states, one (B, U, D) per layer and the embedding's before them."""
    signals = signals or text()
    return dataclasses.replace(signals, student_hidden=tuple(ours), teacher_hidden=tuple(theirs))


def constant(*values, width=4, like=None):
    shape = (like or text()).mask.shape
    return [torch.full((*shape, width), v, dtype=torch.float64) for v in values]


@pytest.mark.parametrize(
    ("layers", "ours", "theirs", "expected"),
    [
        ("even", 2, 4, [(0, 1), (1, 3)]),
        ("even", 3, 12, [(0, 3), (1, 7), (2, 11)]),
        ("even", 2, 32, [(0, 15), (1, 31)]),
        ("even", 3, 3, [(0, 0), (1, 1), (2, 2)]),
        ("last", 2, 4, [(1, 3)]),
        ([[0, 2], [1, 2]], 2, 4, [(0, 2), (1, 2)]),
    ],
)
def test_layers_are_paired(layers, ours, theirs, expected):
    assert pairs(layers, ours, theirs, "objectives.hidden.layers") == expected


def test_the_hidden_loss_is_the_mean_square_over_pairs_and_features_next_to_the_inner_loss():
    objective = made("hidden", weight=0.5, layers="even", inner=CE)
    signals = hidden(constant(0, 1, 2), constant(9, 9, 4, 9, 6))  # even: 1 -> 4 (9), 2 -> 6 (16); the mean is 12.5
    out = objective(signals)
    assert out.parts["hidden"][signals.mask].tolist() == pytest.approx([12.5] * int(signals.mask.sum()))
    assert torch.allclose(out.per_token, made("ce")(signals).per_token + 0.5 * 12.5 * signals.mask)
    assert (out.per_token[~signals.mask] == 0).all()
    tokens = int(signals.mask.sum())
    assert reduce(out.parts["hidden"], tokens).item() == pytest.approx(12.5)  # not divided by the tokens once more


def test_the_hidden_loss_is_for_frames_too_and_moves_the_student_alone():
    signals = ctc()
    ours = [torch.randn(3, 9, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    theirs = [torch.randn(3, 9, 4, dtype=torch.float64, requires_grad=True) for _ in range(5)]
    made("hidden", layers="last", inner=KL)(hidden(ours, theirs, signals)).per_token.sum().backward()
    assert ours[2].grad[signals.mask].abs().min() > 0 and (ours[2].grad[~signals.mask] == 0).all()
    assert ours[1].grad is None and all(layer.grad is None for layer in theirs)


def test_the_hidden_gradient_is_the_numerical_one():
    signals = text(batch=2)
    theirs = [torch.randn(2, 4, 3, dtype=torch.float64) for _ in range(3)]
    objective = made("hidden", layers=[[0, 1]], inner=CE)

    def loss(state):
        return objective(hidden([state, state], theirs, signals)).per_token.sum()

    assert torch.autograd.gradcheck(loss, (torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True),))


def test_an_all_masked_batch_has_no_hidden_loss():
    signals = all_masked(text())
    out = made("hidden", inner=CE)(hidden(constant(0, 1), constant(0, 5), signals))
    assert reduce(out.per_token, 0).item() == 0.0


@pytest.mark.parametrize("decoder", [True, False])
def test_widths_that_differ_get_a_projection_that_is_trained_and_saved(decoder):
    objective = made("hidden", layers="last", inner=CE)
    objective.attach(model(2, 6, decoder), model(4, 8, decoder))
    assert {name: tuple(p.shape) for name, p in objective.trained().items()} == {"projections.1-3.weight": (8, 6)}
    ours = [torch.randn(3, 4, 6) for _ in range(3)]
    out = objective(hidden(ours, [torch.randn(3, 4, 8) for _ in range(5)]))
    out.per_token.sum().backward()
    assert next(iter(objective.trained().values())).grad.abs().sum() > 0
    torch.rand(7)
    again = made("hidden", layers="last", inner=CE)
    before = torch.get_rng_state()
    again.attach(model(2, 6, decoder), model(4, 8, decoder))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.projections["1-3"].weight, objective.projections["1-3"].weight)


def test_equal_widths_get_none():
    objective = made("hidden", project=False, inner=CE)
    objective.attach(model(2, 8), model(4, 8))
    assert objective.trained() == {}


def test_a_wrapper_attaches_what_is_inside_it():
    section = {"kind": "hidden", "weight": 1.0, "layers": "last", "project": True, "inner": CE}
    objective = made("focal", inner=section)
    objective.attach(model(1, 2), model(1, 3))
    assert list(objective.trained()) == ["inner.projections.0-0.weight"]
    assert objective.needs == {"hidden"}


def test_what_is_inside_a_hidden_or_a_superloss_is_told_too():
    section = {"kind": "hidden", "weight": 1.0, "layers": "last", "project": True, "inner": CE}
    outer = made("hidden", layers=[[0, 0]], inner=section)
    outer.attach(model(2, 6), model(2, 8))
    assert set(outer.trained()) == {"projections.0-0.weight", "inner.projections.1-1.weight"}
    inner = {"kind": "superloss", "lam": 1.0, "by": "token", "tau": "running_mean", "momentum": 0.5, "inner": CE}
    nested = made("superloss", inner=inner)
    nested(text())
    nested.after_step(None, 0.1)
    assert nested.mean.isfinite() and nested.inner.mean.isfinite()


@pytest.mark.parametrize(
    ("changed", "ours", "theirs", "said"),
    [
        ({"project": False}, model(2, 6), model(4, 8), r"^objectives\.hidden\.project: got False, but .* 6 .* 8;"),
        (
            {"layers": [[2, 0]]},
            model(2, 8),
            model(4, 8),
            r"^objectives\.hidden\.layers\[0\]: student layer 2; it has 2",
        ),
        (
            {"layers": [[0, 0], [1, 4]]},
            model(2, 8),
            model(4, 8),
            r"layers\[1\]: teacher layer 4; it has 4, from 0 to 3",
        ),
        ({}, model(5, 8), model(4, 8), r"layers: even needs a teacher of 5 layers at least; it has 4"),
        ({}, model(2, 8), None, r"^objectives\.hidden: needs a teacher"),
    ],
)
def test_models_that_the_hidden_loss_cannot_work_with_are_refused_before_training(changed, ours, theirs, said):
    with pytest.raises(ConfigError, match=said):
        made("hidden", inner=CE, **changed).attach(ours, theirs)


def test_without_its_projection_or_its_states_the_hidden_loss_says_so():
    with pytest.raises(ObjectiveError, match=r"student layer 0 are \(3, 4, 4\) and of teacher layer 0 \(3, 4, 5\)"):
        made("hidden", inner=CE)(hidden(constant(0, 1), constant(0, 1, width=5)))
    with pytest.raises(ObjectiveError, match=r"objectives\.hidden needs hidden signals"):
        made("hidden", inner=CE)(text())


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("focal", {"gamma": -1.0}, r"^objectives\.focal\.gamma: got -1\.0"),
        ("focal", {"inner": {"kind": "kdd"}}, r"^objectives\.focal\.inner\.kind: unknown 'kdd'; did you mean 'kd'\?"),
        ("focal", {"inner": {}}, r"^objectives\.focal\.inner: got \{\}; expected a section with a kind"),
        ("superloss", {"lam": 0.0}, r"^objectives\.superloss\.lam: got 0\.0"),
        ("superloss", {"by": "clip"}, r"^objectives\.superloss\.by: got 'clip'; input should be 'token' or 'sample'"),
        (
            "superloss",
            {"inner": {"kind": "focal", "gamma": 2.0, "inner": {"kind": "kd", "ce_weight": 1.0}}},
            r"^objectives\.superloss\.inner\.inner\.kl_weight: missing",
        ),
        ("label_smoothing", {"epsilon": 1.5}, r"^objectives\.label_smoothing\.epsilon: got 1\.5"),
        ("hidden", {"layers": "evn"}, r"^objectives\.hidden\.layers: got 'evn'; .*expected even, last, or a list"),
        ("hidden", {"layers": [[0, -1]]}, r"^objectives\.hidden\.layers: got \[\[0, -1\]\]"),
        ("hidden", {"layers": []}, r"^objectives\.hidden\.layers: got \[\]"),
        ("hidden", {"inner": {"kind": "ce", "w": 1}}, r"^objectives\.hidden\.inner\.w: unknown 'w'"),
    ],
)
def test_a_section_that_cannot_be_is_refused_under_its_dotted_path(kind, changed, said):
    with pytest.raises((ConfigError, UnknownName), match=said):
        made(kind, **changed)


def test_an_inner_objective_names_its_own_path_when_it_lacks_the_teacher():
    with pytest.raises(ObjectiveError, match=r"^objectives\.focal\.inner needs teacher"):
        made("focal", inner=KL)(dataclasses.replace(text(), teacher_logits=None))
    assert made("focal", inner=KL).needs == {"teacher"}


@pytest.mark.parametrize(
    "config", [WhisperConfig(decoder_layers=3, encoder_layers=5, d_model=24), Wav2Vec2Config(num_hidden_layers=3)]
)
def test_the_depth_of_a_model_is_that_of_what_puts_out_its_units(config):
    assert depth(SimpleNamespace(config=config)) == 3
    assert config.hidden_size in (24, 768)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["focal", "superloss", "label_smoothing", "hidden", "adakd"])
@FAMILIES
def test_a_gpu_gives_what_the_processor_gives(kind, family):
    here = family()
    states = torch.randn(3, *here.mask.shape, 5, dtype=torch.float64)
    here = hidden(states, states.flip(0), here)
    there = dataclasses.replace(
        here, **{k: v.detach().cuda() for k, v in vars(here).items() if isinstance(v, torch.Tensor)},
        student_hidden=tuple(states.cuda()), teacher_hidden=tuple(states.flip(0).cuda()),
    )  # fmt: skip
    for changed in [{"arm": arm} for arm in ("shuffled", "frozen", "mean_matched")] if kind == "adakd" else [{}]:
        one, other = made(kind, **changed), made(kind, **changed).cuda()
        if kind == "adakd":
            one.t.fill_(1.0), other.t.fill_(1.0)
        assert torch.allclose(one(here).per_token, other(there).per_token.cpu())
