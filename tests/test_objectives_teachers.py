"""Objectives that change what is heard of the teacher: their limits are kd, and gradients go where they should."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, WhisperForConditionalGeneration

from stillsmall.config import ConfigError
from stillsmall.live_models import LiveModels
from stillsmall.objectives import imitkd
from stillsmall.objectives.base import IGNORED, ObjectiveError, Signals, reduce
from stillsmall.objectives.build import build
from stillsmall.objectives.drkd import right

KD = {"kind": "kd", "ce_weight": 0.8, "kl_weight": 1.0, "temperature": 2.0}
NEVER = {"kind": "constant", "start": 0.0, "end": 0.0, "power": 1.0}
SECTIONS: dict[str, dict[str, Any]] = {
    "drkd": {"inner": KD},
    "multi_teacher": {
        "combine": "mean",
        "sharpness": 1.0,
        "learning_rate_factor": 3.0,
        "baseline_decay": 0.5,
        "inner": KD,
    },
    "imitkd": {
        "ce_weight": 0.8,
        "kl_weight": 1.0,
        "temperature": 2.0,
        "target": "distribution",
        "beta": {"kind": "linear", "start": 1.0, "end": 0.0, "power": 1.0},
    },
    "okd": {
        "layers": 2,
        "modules": ["q_proj", "v_proj"],
        "rank": 2,
        "alpha": 4.0,
        "student_weight": 1.0,
        "temperature": 2.0,
        "learning_rate_factor": 0.5,
        "inner": KD,
    },
    "akd": {"share": 0.25, "epsilon": 0.1, "temperature": 2.0, "inner": KD},
    "joint": {"teacher_weight": 1.0, "trains": "decoder", "learning_rate_factor": 0.1, "inner": KD},
}


def make(name: str, **given: Any) -> Any:
    return build({name: {**SECTIONS[name], **given}}, name)


def kd(ce_weight: float = 0.8, kl_weight: float = 1.0, temperature: float = 2.0) -> Any:
    return build({"kd": {"ce_weight": ce_weight, "kl_weight": kl_weight, "temperature": temperature}}, "kd")


def plain(dtype: torch.dtype = torch.float32, **given: Any) -> Signals:
    torch.manual_seed(5)
    logits = {name: torch.randn(2, 3, 6, dtype=dtype) for name in ("student_logits", "teacher_logits")}
    logits["student_logits"].requires_grad_(True)
    labels = torch.tensor([[1, 2, 3], [4, 0, IGNORED]])
    return replace(Signals(logits["student_logits"], labels, ("a", "b"), 0.0, logits["teacher_logits"]), **given)


class Whispers:
    """A tiny teacher, a student of one of its layers, and a batch with Whisper's prefixes."""

    def __init__(self, folder: Path) -> None:
        self.teacher: Any = WhisperForConditionalGeneration.from_pretrained(folder).requires_grad_(False).eval()
        torch.manual_seed(7)
        self.student: Any = copy.deepcopy(self.teacher)
        with torch.no_grad():
            for parameter in self.student.model.decoder.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        self.student.model.decoder.requires_grad_(True)
        generation = self.teacher.generation_config
        start, end = generation.decoder_start_token_id, generation.eos_token_id
        prefix = [start, generation.lang_to_id["<|en|>"], generation.task_to_id["transcribe"]]
        mark = generation.no_timestamps_token_id
        rows = [
            [*prefix, mark, 5, 6, 7, 8, end],
            [generation.prev_sot_token_id, 9, 10, *prefix, 11, 12, end],
        ]
        self.inputs = torch.tensor([row[:-1] for row in rows])
        labels = [row[1:] for row in rows]
        labels[0][2] = IGNORED  # the no-timestamps mark
        labels[1][:3] = [IGNORED] * 3  # the prompt
        self.labels = torch.tensor(labels)
        self.mels = torch.randn(2, 80, 200, generator=torch.Generator().manual_seed(1))
        self.forced = [4, 6]

    def live(self) -> LiveModels:
        return LiveModels(self.student, self.teacher, self.inputs, lambda: self.mels)

    def signals(self, progress: float = 0.0) -> Signals:
        live = self.live()
        student = live.student()
        with torch.no_grad():
            teacher = live.teacher()
        return Signals(student, self.labels, ("a", "b"), progress, teacher, models=live)


@pytest.fixture
def pair(tiny_whisper: Path) -> Whispers:
    return Whispers(tiny_whisper)


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


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


# --- ImitKD --------------------------------------------------------------------------------------------------------


def test_imitkd_with_beta_one_is_kd_on_the_datas_prefixes(pair: Whispers) -> None:
    objective = make("imitkd")
    objective.attach(pair.student, pair.teacher)
    given = pair.signals(0.0)  # beta(0) = 1
    out = objective(given)
    assert torch.allclose(out.per_token, kd()(given).per_token, atol=1e-6)
    assert out.values == {"beta": 1.0, "own_prefixes": 0.0}


def test_the_prefix_that_is_forced_ends_with_the_last_mark(pair: Whispers) -> None:
    assert imitkd.forced_lengths(pair.inputs, pair.student.generation_config).tolist() == pair.forced


def test_the_roll_out_is_what_greedy_decoding_without_a_cache_gives(pair: Whispers) -> None:
    pair.student.train()
    for layer in pair.student.model.decoder.layers:
        layer.dropout = 0.9  # of which the roll-out must see nothing
    states = pair.live().states()
    written = imitkd.roll_out(pair.student, states, pair.inputs, torch.tensor(pair.forced))
    assert pair.student.training and pair.student.model.decoder.layers[0].training
    pair.student.eval()
    for row, forced in enumerate(pair.forced):
        tokens = pair.inputs[row, :forced].tolist()
        while len(tokens) < pair.inputs.shape[1]:
            logits = pair.student(
                input_features=pair.mels[row : row + 1], decoder_input_ids=torch.tensor([tokens])
            ).logits
            tokens.append(int(logits[0, -1].argmax()))
        assert written[row].tolist() == tokens


def test_the_roll_out_costs_one_decoder_step_a_token(pair: Whispers) -> None:
    fed: list[int] = []
    hook = pair.student.model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    imitkd.roll_out(pair.student, pair.live().states(), pair.inputs, torch.tensor(pair.forced))
    hook.remove()
    assert fed == [4, 1, 1, 1]  # the shortest forced prefix at once; 8 positions in all, the last is not fed


@pytest.mark.parametrize("target", ["distribution", "argmax"])
def test_imitkd_teaches_on_the_students_own_prefixes(target: str, pair: Whispers) -> None:
    objective = make("imitkd", target=target, ce_weight=0.0)
    objective.attach(pair.student, pair.teacher)
    given = pair.signals(1.0)  # beta(1) = 0: all of them are the student's
    out = objective(given)
    live = pair.live()
    written = imitkd.roll_out(pair.student, live.states(), pair.inputs, torch.tensor(pair.forced))
    student, teacher = live.student(inputs=written), live.teacher(inputs=written)
    own = replace(given, student_logits=student, teacher_logits=teacher)
    if target == "argmax":
        own = replace(own, labels=teacher.argmax(-1).masked_fill(~given.mask, IGNORED))
    expected = (kd(0.0, 1.0) if target == "distribution" else build({}, "ce"))(own).per_token
    end = pair.student.generation_config.eos_token_id
    for row, forced in enumerate(pair.forced):
        ends = [i for i in range(forced, 8) if written[row, i] == end]
        last = ends[0] if ends else 8
        assert torch.allclose(out.per_token[row, :last], expected[row, :last], atol=1e-5)
        assert out.per_token[row, last:].abs().sum() == 0
    assert not torch.equal(written, pair.inputs)
    out.per_token.sum().backward()
    assert gradients(pair.student) and not gradients(pair.teacher)


def test_past_its_own_end_of_text_a_sample_has_no_loss(pair: Whispers) -> None:
    objective = make("imitkd", ce_weight=0.0)
    objective.attach(pair.student, pair.teacher)
    end = pair.student.generation_config.eos_token_id
    with torch.no_grad():  # a student that says nothing but the end
        pair.student.model.decoder.layer_norm.weight.zero_()
        pair.student.model.decoder.layer_norm.bias.copy_(5 * pair.student.proj_out.weight[end])
        pair.student.proj_out.weight[end] *= 20
    out = objective(pair.signals(1.0))
    kept = out.per_token != 0
    assert kept[0].tolist() == [True, True, False, True, False, False, False, False]
    assert kept[1].tolist() == [False, False, False, True, True, True, False, False]


def test_imitkds_draws_follow_beta(pair: Whispers) -> None:
    objective = make("imitkd", beta={"kind": "geometric", "start": 1.0, "end": 0.005, "power": 1.0})
    names = tuple(str(i) for i in range(2000))
    given = Signals(torch.zeros(2000, 1, 2), torch.zeros(2000, 1, dtype=torch.long), names, 0.5)
    beta = objective.config.beta(0.5)
    assert beta == pytest.approx(200**-0.5)
    share = objective._own(given, beta).float().mean().item()
    assert share == pytest.approx(1 - beta, abs=0.03)
    assert torch.equal(objective._own(given, beta), objective._own(given, beta))


def test_a_beta_that_is_no_probability_or_does_not_begin_at_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"objectives\.imitkd.*beta falls from 1"):
        make("imitkd", beta={"kind": "linear", "start": 0.9, "end": 0.0, "power": 1.0})


# --- OKD -----------------------------------------------------------------------------------------------------------


def test_okd_at_step_0_is_kd(pair: Whispers) -> None:
    expected = kd()(pair.signals()).per_token
    objective = make("okd", student_weight=0.0)
    objective.attach(pair.student, pair.teacher)
    given = replace(pair.signals(), teacher_logits=None)
    out = objective(given)
    assert torch.allclose(out.per_token - out.parts["online_ce"], expected, atol=1e-6)
    out.per_token.sum().backward()
    mine = gradients(pair.student)
    pair.student.zero_grad()
    kd()(pair.signals()).per_token.sum().backward()
    assert all(torch.allclose(mine[name], g, atol=1e-5) for name, g in gradients(pair.student).items())


def test_okd_adapts_the_last_decoder_layers_alone_and_the_student_does_not_reach_them(pair: Whispers) -> None:
    objective = make("okd", student_weight=0.0)
    objective.attach(pair.student, pair.teacher)
    trained = objective.trained()
    layers = {name.split("layers/")[1].split("/")[0] for name in trained}
    assert layers == {"1", "2"} and all("/decoder/" in name and "/online/" in name for name in trained)
    assert objective.needs == {"models"}
    assert set(objective.rates().values()) == {0.5}
    assert [n for n, p in pair.teacher.named_parameters() if p.requires_grad and "online" not in n] == []
    objective(replace(pair.signals(), teacher_logits=None)).per_token.sum().backward()
    mine = {name: p.grad.clone() for name, p in trained.items()}
    pair.teacher.zero_grad()
    of_labels = build({}, "ce")(replace(pair.signals(), student_logits=pair.live().teacher())).per_token
    of_labels.sum().backward()
    assert any(g.abs().max() > 0 for g in mine.values())
    assert all(torch.allclose(mine[name], p.grad, atol=1e-6) for name, p in trained.items())


def test_okds_adapters_learn_and_come_back_with_the_checkpoint(pair: Whispers, tiny_whisper: Path) -> None:
    objective = make("okd")
    objective.attach(pair.student, pair.teacher)
    optimizer = torch.optim.Adam(objective.trained().values(), lr=1e-2)
    first = None
    for _ in range(8):
        optimizer.zero_grad()
        out = objective(replace(pair.signals(), teacher_logits=None))
        first = out.parts["online_ce"].sum() if first is None else first
        out.per_token.sum().backward()
        optimizer.step()
    assert out.parts["online_ce"].sum() < first
    other = Whispers(tiny_whisper)
    again = make("okd")
    again.attach(other.student, other.teacher)
    again.load_state_dict(objective.state_dict())
    assert torch.equal(other.live().teacher(), pair.live().teacher())


def test_okd_names_the_layers_and_maps_that_there_are(pair: Whispers) -> None:
    with pytest.raises(ConfigError, match=r"okd\.layers: got 9; the teacher has 3"):
        make("okd", layers=9).attach(pair.student, pair.teacher)
    with pytest.raises(ConfigError, match=r"okd\.modules: got 'q_prj'; did you mean 'q_proj'"):
        make("okd", modules=["q_prj"]).attach(pair.student, pair.teacher)
    with pytest.raises(ConfigError, match="a teacher must be given"):
        make("okd").attach(pair.student, None)


# --- joint ---------------------------------------------------------------------------------------------------------


def test_joint_trains_the_teacher_by_the_labels_alone(pair: Whispers) -> None:
    objective = make("joint")
    objective.attach(pair.student, pair.teacher)
    expected = kd()(pair.signals()).per_token
    out = objective(replace(pair.signals(), teacher_logits=None))
    assert torch.allclose(out.per_token - out.parts["teacher_ce"], expected, atol=1e-6)
    out.per_token.sum().backward()
    mine = {name: g.clone() for name, g in gradients(pair.teacher).items()}
    pair.teacher.zero_grad()
    live = pair.live()
    build({}, "ce")(replace(pair.signals(), student_logits=live.teacher())).per_token.sum().backward()
    assert mine and all(torch.allclose(mine[name], g, atol=1e-5) for name, g in gradients(pair.teacher).items())


@pytest.mark.parametrize(("trains", "encoder"), [("decoder", False), ("all", True)])
def test_joint_trains_the_parts_that_are_asked_for(trains: str, encoder: bool, pair: Whispers) -> None:
    objective = make("joint", trains=trains)
    objective.attach(pair.student, pair.teacher)
    trained = objective.trained()
    assert any("model/encoder/" in name for name in trained) is encoder
    assert any("decoder/embed_positions" in name for name in trained)
    assert not any("encoder/embed_positions" in name for name in trained)
    assert not any(p is q for p in trained.values() for q in pair.student.parameters())
    objective(replace(pair.signals(), teacher_logits=None)).per_token.sum().backward()
    assert bool(pair.teacher.model.encoder.conv1.weight.grad is not None) is encoder
    assert set(objective.rates().values()) == {0.1}


# --- AKD -----------------------------------------------------------------------------------------------------------


def test_akd_without_epsilon_is_kd(pair: Whispers) -> None:
    given = pair.signals()
    out = make("akd", epsilon=0.0)(given).per_token
    assert torch.allclose(out, kd(0.75 * 0.8, 0.75 * 1.0 + 0.25)(given).per_token, atol=1e-6)
    assert torch.equal(make("akd", share=0.0)(given).per_token, kd()(given).per_token)


def test_akd_moves_each_value_by_epsilon_to_where_the_kl_grows(pair: Whispers) -> None:
    objective, given = make("akd", epsilon=0.02), pair.signals()
    moved = objective.attacked(given.models, given)
    step = (moved - pair.mels).abs()
    assert step.max().item() == pytest.approx(0.02, abs=1e-5)
    assert (step > 0.019).float().mean() > 0.9
    assert not gradients(pair.student) and not gradients(pair.teacher)
    assert not pair.mels.requires_grad
    out = objective(given)
    clean = kd(0.0, 1.0)(given).per_token.sum()
    assert out.parts["attacked_kl"].sum() > clean
    out.per_token.sum().backward()
    assert gradients(pair.student) and not gradients(pair.teacher)


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


# --- gradients, sequence level, live models ------------------------------------------------------------------------


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


def test_live_models_give_the_models_own_logits_and_gradients_to_the_mels(pair: Whispers) -> None:
    live = pair.live()
    whole = pair.student(input_features=pair.mels, decoder_input_ids=pair.inputs).logits
    assert torch.equal(live.student(), whole)
    mels = live.mels().requires_grad_(True)
    assert mels.data_ptr() != pair.mels.data_ptr()
    live.teacher(mels=mels).sum().backward()
    assert mels.grad is not None and mels.grad.abs().max() > 0
    assert not gradients(pair.teacher)


def test_live_models_use_known_states_only_of_a_frozen_encoder_and_of_the_own_audio(pair: Whispers) -> None:
    known = torch.zeros(2, 100, 32)
    live = replace(pair.live(), student_states=lambda: known, teacher_states=lambda: known)
    assert torch.equal(live.states(), known)
    assert not torch.equal(live.student(), pair.live().student())
    assert torch.equal(live.student(mels=pair.mels), pair.live().student())
    pair.teacher.model.encoder.conv1.weight.requires_grad_(True)
    assert torch.equal(live.teacher(), pair.live().teacher())


def test_live_models_without_a_teacher_say_so(pair: Whispers) -> None:
    with pytest.raises(RuntimeError, match="'models' among its needs"):
        replace(pair.live(), teacher_model=None).teacher()
