"""Objectives that ask live models again: own prefixes, teachers that learn, attacked audio; and the live models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stillsmall.config import ConfigError
from stillsmall.objectives import imitkd
from stillsmall.objectives.base import IGNORED, Signals
from stillsmall.objectives.build import build
from teacher_signals import Whispers, gradients, kd, make


@pytest.fixture
def pair(tiny_whisper: Path) -> Whispers:
    return Whispers(tiny_whisper)


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


# --- live models ---


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
