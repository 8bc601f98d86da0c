"""Students that shrink while they train: what goes, when, that the output stays, and what a checkpoint holds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration, WhisperProcessor

import tiny
from stillsmall import student
from stillsmall.config import ConfigError
from stillsmall.students.pruning import layer_importance, unit_importance
from stillsmall.students.shrinking import Shrinker, cubic, lowest
from students import section

ITERATIVE = {
    "kind": "iterative", "encoder_ffn": 1.0, "decoder_ffn": 0.5, "encoder_layers": None, "decoder_layers": None,
    "start": 0.2, "end": 0.8, "decay": 0.5,
}  # fmt: skip
CAPACITY = {
    "kind": "capacity", "encoder_layers": None, "decoder_layers": 2, "start": 0.2, "end": 0.8, "weight": 1.0,
    "gate_speed": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny.whisper(tmp_path_factory.mktemp("t") / "teacher", encoder_layers=2, decoder_layers=4)
    return WhisperForConditionalGeneration.from_pretrained(folder).eval().requires_grad_(False)


FEATURES = torch.randn(2, 80, tiny.WINDOW_S * 100, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[260, 261, 5, 9], [260, 262, 7, 40]])


def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_features=FEATURES, decoder_input_ids=IDS).logits
    return found


def started(teacher: Any, pruning: dict[str, Any], **changes: Any) -> tuple[Any, Shrinker, torch.optim.Optimizer]:
    chosen = section(pruning=pruning, **changes)
    learner = student.build(teacher, chosen)
    shrinker = student.shrinker(learner, chosen)
    assert shrinker is not None
    free = [p for p in learner.parameters() if p.requires_grad]
    return learner, shrinker, torch.optim.AdamW([*free, *shrinker.trained().values()], lr=3e-3)


def step(learner: Any, shrinker: Shrinker, optimizer: torch.optim.Optimizer, progress: float) -> None:
    target = torch.tensor([[261, 5, 9, 3], [262, 7, 40, 3]])
    loss = torch.nn.functional.cross_entropy(logits(learner).flatten(0, 1), target.flatten())
    (loss + shrinker.penalty()).backward()
    shrinker.after_backward(learner)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    shrinker.after_step(learner, optimizer, progress)


def trained(teacher: Any, pruning: dict[str, Any], steps: int = 20, **changes: Any) -> tuple[Any, Shrinker]:
    learner, shrinker, optimizer = started(teacher, pruning, **changes)
    for number in range(steps):
        step(learner, shrinker, optimizer, (number + 1) / steps)
    return learner, shrinker


def test_the_schedule_is_a_cubic_between_two_points() -> None:
    assert [cubic(u, 0.2, 0.8) for u in (0.0, 0.2, 0.8, 1.0)] == [1.0, 1.0, 0.0, 0.0]
    assert cubic(0.5, 0.2, 0.8) == pytest.approx(0.125)  # half-way: (1/2)^3
    assert cubic(0.35, 0.2, 0.8) == pytest.approx(27 / 64)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_schedule_never_goes_up(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert cubic(low, 0.1, 0.9) >= cubic(high, 0.1, 0.9)


def test_the_lowest_go_and_what_is_gone_stays_gone() -> None:
    alive = torch.tensor([True, True, False, True])
    scores = torch.tensor([1.0, 3.0, 9.0, 1.0])
    assert lowest(scores, alive, 2).tolist() == [True, True, False, False]  # equal scores: the later one goes
    assert lowest(scores, alive, 4).tolist() == alive.tolist()


def test_no_pruning_is_no_shrinker(teacher: Any) -> None:
    learner = student.build(teacher, section())
    assert student.shrinker(learner, section()) is None


def test_importance_is_weight_times_gradient_of_a_units_three_parts() -> None:
    layer = torch.nn.Module()
    layer.fc1, layer.fc2 = torch.nn.Linear(1, 2), torch.nn.Linear(2, 1)
    values = {"fc1.weight": [[2.0], [1.0]], "fc1.bias": [1.0, 0.0], "fc2.weight": [[3.0, -1.0]], "fc2.bias": [5.0]}
    grads = {"fc1.weight": [[-1.0], [0.5]], "fc1.bias": [4.0, 9.0], "fc2.weight": [[1.0, 2.0]], "fc2.bias": [2.0]}
    for name, parameter in layer.named_parameters():
        parameter.data = torch.tensor(values[name])
        parameter.grad = torch.tensor(grads[name])
    assert unit_importance(layer).tolist() == [2.0 + 4.0 + 3.0, 0.5 + 0.0 + 2.0]
    assert layer_importance(layer).item() == 9.0 + 2.5 + 10.0


def test_importance_is_an_exponential_average(teacher: Any) -> None:
    learner, shrinker, _ = started(teacher, ITERATIVE)
    logits(learner).square().mean().backward()
    now = torch.stack([unit_importance(layer) for layer in learner.model.decoder.layers]).detach()
    shrinker.after_backward(learner)
    shrinker.after_backward(learner)
    torch.testing.assert_close(shrinker.get_buffer("decoder_units_importance"), 0.75 * now)  # 1 - 0.5^2


def test_pruned_units_go_along_the_schedule_and_stay_zero(teacher: Any) -> None:
    learner, shrinker, optimizer = started(teacher, ITERATIVE)
    left, gone = [], torch.zeros(4, 64, dtype=torch.bool)
    for number in range(10):
        step(learner, shrinker, optimizer, (number + 1) / 10)
        alive = shrinker.get_buffer("decoder_units")
        assert not (alive & gone).any()
        gone = ~alive
        left.append(alive.sum(1).tolist())
        for layer, dead in zip(learner.model.decoder.layers, gone, strict=True):
            assert not layer.fc1.weight[dead].any() and not layer.fc1.bias[dead].any()
            assert not layer.fc2.weight[:, dead].any()
            assert not optimizer.state[layer.fc1.weight]["exp_avg"][dead].any()
    counts = [row[0] for row in left]
    assert all(len(set(row)) == 1 for row in left)
    assert counts == [64, 64, 51, 41, 36, 33, 32, 32, 32, 32]  # 32 + 32 (1 - x)^3, x in sixths of 0.2..0.8


def test_the_least_important_go(teacher: Any) -> None:
    learner, shrinker, optimizer = started(teacher, ITERATIVE)
    scores = torch.rand(4, 64, generator=torch.Generator().manual_seed(1))
    shrinker.get_buffer("decoder_units_importance").copy_(scores)
    shrinker.after_step(learner, optimizer, 1.0)
    for row, alive in zip(scores, shrinker.get_buffer("decoder_units"), strict=True):
        assert row[alive].min() > row[~alive].max()


@pytest.mark.parametrize(
    "pruning",
    [ITERATIVE, {**ITERATIVE, "decoder_layers": 3}, CAPACITY, {**CAPACITY, "decoder_layers": 1}],
    ids=["units", "units and layers", "gates", "gates to one"],
)
def test_what_is_finished_is_smaller_and_computes_the_same(teacher: Any, tmp_path: Path, pruning: Any) -> None:
    learner, shrinker = trained(teacher, pruning)
    with torch.no_grad():
        before = logits(learner)
    smaller = shrinker.finish(learner).eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(smaller), before, atol=2e-5, rtol=1e-5)
        assert not torch.allclose(logits(teacher), before, atol=1e-2)
    assert smaller.config.decoder_layers == len(smaller.model.decoder.layers) == (pruning["decoder_layers"] or 4)
    assert smaller.config.decoder_ffn_dim == smaller.model.decoder.layers[0].fc1.out_features
    assert smaller.config.decoder_ffn_dim == (32 if pruning["kind"] == "iterative" else 64)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in learner.parameters())
    processor = WhisperProcessor(tiny.WhisperFeatureExtractor(feature_size=80, chunk_length=2), tiny.tokenizer())
    student.save(smaller, processor, tmp_path / "s", torch.float32)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "s").eval()
    ids = [m.generate(FEATURES, language="zh", max_new_tokens=8) for m in (smaller, again)]
    assert torch.equal(*ids)
    assert again.generation_config.lang_to_id == teacher.generation_config.lang_to_id


def test_both_sides_shrink_where_the_encoder_is_free(teacher: Any) -> None:
    both = {**ITERATIVE, "encoder_ffn": 0.25, "encoder_layers": 1}
    learner, shrinker = trained(teacher, both, steps=10, freeze_encoder=False)
    smaller = shrinker.finish(learner)
    assert (smaller.config.encoder_layers, smaller.config.encoder_ffn_dim) == (1, 16)
    assert smaller.config.num_hidden_layers == 1
    with torch.no_grad():
        torch.testing.assert_close(logits(smaller.eval()), logits(learner.eval()), atol=2e-5, rtol=1e-5)
    gates = {**CAPACITY, "encoder_layers": 1, "decoder_layers": None}
    learner, shrinker = trained(teacher, gates, steps=10, freeze_encoder=False)
    assert len(shrinker.finish(learner).model.encoder.layers) == 1


def test_open_gates_change_nothing_and_halves_fold_bit_by_bit(teacher: Any) -> None:
    learner, shrinker, optimizer = started(teacher, CAPACITY)
    with torch.no_grad():
        assert torch.equal(logits(learner.eval()), logits(teacher))
        shrinker.get_parameter("decoder_moved").copy_(torch.tensor([0.5, 1.0, 0.25, 0.125]) - 1)
        shrinker.after_step(learner, optimizer, 1.0)
        before = logits(learner)
    assert shrinker.get_buffer("decoder_open").tolist() == [True, True, False, False]
    smaller = shrinker.finish(learner).eval()
    theirs, ours = teacher.model.decoder.layers[0], smaller.model.decoder.layers[0]
    assert torch.equal(ours.fc2.weight, 0.5 * theirs.fc2.weight)
    assert torch.equal(ours.encoder_attn.out_proj.bias, 0.5 * theirs.encoder_attn.out_proj.bias)
    assert torch.equal(ours.fc1.weight, theirs.fc1.weight)
    with torch.no_grad():
        torch.testing.assert_close(logits(smaller), before, atol=1e-6, rtol=1e-6)


def test_the_compression_loss_presses_what_the_schedule_has_no_room_for(teacher: Any) -> None:
    learner, shrinker, optimizer = started(teacher, {**CAPACITY, "weight": 3.0})
    assert shrinker.penalty().item() == 0.0
    moved = shrinker.get_parameter("decoder_moved")
    with torch.no_grad():
        moved.copy_(torch.tensor([1.2, 0.5, -0.9, 0.7]) - 1)
    shrinker.after_step(learner, optimizer, 0.35)  # n = 2 + 2 * 27/64 = 2.84375: room for 1, 1, 0.84375, 0
    penalty = shrinker.penalty()
    assert penalty.item() == pytest.approx(3.0 * (0.2**2 + 0.0 + 0.0))
    assert shrinker.gates("decoder").tolist() == pytest.approx([1.2, 0.0, -0.9, 0.7])  # room for three
    shrinker.after_step(learner, optimizer, 0.5)  # n = 2.25: room for 1, 1, 0.25
    shrinker.penalty().backward()
    assert shrinker.penalty().item() == pytest.approx(3.0 * (0.2**2 + 0.45**2))
    assert moved.grad is not None
    assert moved.grad.tolist() == pytest.approx([3.0 * 2 * 0.2, 0.0, 0.0, 3.0 * 2 * 0.45])


def test_gates_move_at_their_speed_times_the_learning_rate(teacher: Any) -> None:
    learner, shrinker, optimizer = started(teacher, {**CAPACITY, "gate_speed": 20.0})
    step(learner, shrinker, optimizer, 0.01)  # Adam's first step is the learning rate, 3e-3, up or down
    assert (shrinker.gates("decoder") - 1.0).abs().tolist() == pytest.approx([20.0 * 3e-3] * 4, rel=1e-3)


def test_layers_close_one_after_the_other_and_exactly_the_target_is_left(teacher: Any) -> None:
    learner, shrinker, optimizer = started(teacher, CAPACITY)
    opened = []
    for number in range(20):
        step(learner, shrinker, optimizer, (number + 1) / 20)
        opened.append(shrinker.values()["decoder_layers"])
    assert opened[:4] == [4.0] * 4 and opened[-4:] == [2.0] * 4
    assert opened == sorted(opened, reverse=True) and 3.0 in opened


def test_gates_learn_from_the_task(teacher: Any) -> None:
    learner, shrinker, optimizer = started(teacher, {**CAPACITY, "start": 0.9, "end": 1.0})
    for number in range(3):
        step(learner, shrinker, optimizer, number / 100)
    gates = shrinker.gates("decoder")
    assert (gates != 1.0).all() and len(set(gates.tolist())) == 4


@pytest.mark.parametrize("pruning", [{**ITERATIVE, "decoder_layers": 3}, CAPACITY], ids=["iterative", "capacity"])
def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(teacher: Any, tmp_path: Path, pruning: Any) -> None:
    whole, whole_shrinker, optimizer = started(teacher, pruning)
    for number in range(12):
        if number == 6:
            half = copy.deepcopy(whole.state_dict()), copy.deepcopy(optimizer.state_dict())
            save_file(whole_shrinker.state_dict(), tmp_path / "shrinker.safetensors")
        step(whole, whole_shrinker, optimizer, (number + 1) / 12)
    again, shrinker, optimizer = started(teacher, pruning)
    again.load_state_dict(half[0])
    optimizer.load_state_dict(half[1])
    shrinker.load_state_dict(load_file(tmp_path / "shrinker.safetensors"))
    for number in range(6, 12):
        step(again, shrinker, optimizer, (number + 1) / 12)
    ours, theirs = shrinker.finish(again).state_dict(), whole_shrinker.finish(whole).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_that_never_reached_the_end_still_ends_at_the_size(teacher: Any) -> None:
    for pruning, layers, width in (({**ITERATIVE, "decoder_layers": 1}, 1, 32), (CAPACITY, 2, 64)):
        learner, shrinker, _ = started(teacher, pruning)
        smaller = shrinker.finish(learner)
        assert (smaller.config.decoder_layers, smaller.config.decoder_ffn_dim) == (layers, width)


def test_an_average_of_the_student_keeps_its_gates(teacher: Any) -> None:
    learner, shrinker, _ = started(teacher, CAPACITY)
    with torch.no_grad():
        shrinker.get_parameter("decoder_moved").copy_(torch.tensor([0.3, 1.0, 0.6, 0.9]) - 1)
        assert torch.equal(logits(copy.deepcopy(learner).eval()), logits(learner.eval()))


@pytest.mark.parametrize(
    ("pruning", "changes", "said"),
    [
        (
            {**ITERATIVE, "encoder_ffn": 0.5},
            {},
            r"student\.pruning\.encoder_ffn: got 0\.5, but student\.freeze_encoder",
        ),
        (
            {**CAPACITY, "encoder_layers": 1},
            {},
            r"student\.pruning\.encoder_layers: got 1, but student\.freeze_encoder",
        ),
        ({**CAPACITY, "decoder_layers": 9}, {}, r"student\.pruning\.decoder_layers: got 9; the student starts with 4"),
        ({**CAPACITY, "decoder_layers": 4}, {}, r"student\.pruning: .* leave all 2 and 4 layers"),
        ({**ITERATIVE, "decoder_ffn": 1.0}, {}, r"student\.pruning: .* leave the student as it is"),
        (
            ITERATIVE,
            {"freeze": ["decoder.layers.1.fc1"]},
            r"student\.pruning: decoder\.layers\.1\.fc1\.weight is frozen",
        ),
        ({**ITERATIVE, "start": 0.9}, {}, r"student\.pruning: .*start \(0\.9\) must come before end \(0\.8\)"),
        ({**ITERATIVE, "decai": 0.9}, {}, r"student\.pruning\.decai: unknown 'decai'; did you mean 'decay'\?"),
        ({**ITERATIVE, "kind": "magic"}, {}, r"student\.pruning\.kind: unknown 'magic'; Have: capacity, iterative"),
    ],
)
def test_what_cannot_be_is_refused(teacher: Any, pruning: Any, changes: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        started(teacher, pruning, **changes)
