"""Which of the teacher's layers a student copies, and the smaller model that holds them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from stillsmall.config import ConfigError, Layers

SIDES = ("encoder", "decoder")
State = dict[str, Tensor]


def evenly_spaced(teacher_layers: int, student_layers: int) -> list[int]:
    """Which teacher layers a student of so many layers copies: evenly spaced, first and last kept.

    32 -> 2 gives [0, 31], 32 -> 3 gives [0, 15, 31] (2406.04512, section 3; Shleifer & Rush 2020). One: the first.
    """
    if student_layers == 1:
        return [0]
    return [i * (teacher_layers - 1) // (student_layers - 1) for i in range(student_layers)]


def chosen_layers(wanted: Layers, teacher_layers: int, path: str) -> list[int]:
    """The teacher layers that `wanted` means: None all, n evenly spaced, {first: n}, {last: n}, a list as it stands.

    Raises ConfigError where the teacher does not have them.
    """
    if wanted is None:
        return list(range(teacher_layers))
    if isinstance(wanted, list):
        if not wanted or any(not 0 <= layer < teacher_layers for layer in wanted):
            raise ConfigError(f"{path}: got {wanted}; expected numbers from 0 to {teacher_layers - 1}")
        return wanted
    end, count = next(iter(wanted.items())) if isinstance(wanted, dict) else ("even", wanted)
    if count > teacher_layers:
        raise ConfigError(f"{path}: got {wanted}; the teacher has {teacher_layers} layers to copy")
    if end == "even":
        return evenly_spaced(teacher_layers, count)
    return list(range(count)) if end == "first" else list(range(teacher_layers - count, teacher_layers))


def rebuilt(
    model: Any,
    state: Mapping[str, Tensor],
    layers: Mapping[str, Sequence[int]],
    columns: Mapping[str, Sequence[Tensor]] | None = None,
) -> Any:
    """A new model of `model`'s kind with `state`'s values, only `layers` of each side, numbered anew.

    `columns`: for a side, the feed-forward units that each of its remaining layers keeps, equally many in each (Whisper
    has one width a side). The generation config is the model's own: a config alone would lose `lang_to_id` and such.
    """
    shape, kept = copy.deepcopy(model.config), _copied(state, layers)
    for side in SIDES:
        setattr(shape, f"{side}_layers", len(layers[side]))
    if getattr(shape, "num_hidden_layers", None) is not None:
        shape.num_hidden_layers = len(layers["encoder"])
    # what transformers would draw while training is off: masks of its own come from a generator that no seed reaches,
    # and a layer that was left out of a step has no gradient
    shape.apply_spec_augment, shape.encoder_layerdrop, shape.decoder_layerdrop = False, 0.0, 0.0
    for side, units in (columns or {}).items():
        setattr(shape, f"{side}_ffn_dim", len(units[0]))
        for number, index in enumerate(units):
            _narrow(kept, f"model.{side}.layers.{number}.", index)
    made = like(model, shape, kept)
    _renumber_alignment(made.generation_config, layers["decoder"])
    return made


def like(model: Any, shape: Any, state: Mapping[str, Tensor]) -> Any:
    """A new model of config `shape` with the weights `state`, and `model`'s generation config and device."""
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten; it must not move anyone's seed
        made: Any = WhisperForConditionalGeneration(shape)
    made.load_state_dict(state)
    made.generation_config = copy.deepcopy(model.generation_config)
    return made.to(next(model.parameters()).device)


def _copied(state: Mapping[str, Tensor], layers: Mapping[str, Sequence[int]]) -> State:
    """A state with only the chosen layers, numbered anew."""
    kept = {name: value for name, value in state.items() if ".layers." not in name}
    for side in SIDES:
        for new, old in enumerate(layers[side]):
            prefix = f"model.{side}.layers.{old}."
            moved = {n[len(prefix) :]: v for n, v in state.items() if n.startswith(prefix)}
            kept |= {f"model.{side}.layers.{new}.{name}": value for name, value in moved.items()}
    return kept


def _narrow(state: State, layer: str, units: Tensor) -> None:
    for name in ("fc1.weight", "fc1.bias"):
        state[layer + name] = state[layer + name][units]
    state[f"{layer}fc2.weight"] = state[f"{layer}fc2.weight"][:, units]


def _renumber_alignment(generation: Any, decoder: Sequence[int]) -> None:
    """Heads that align words with time are named by (layer, head): those of the copied layers stay, renumbered.

    Without any left the field goes, so that word timestamps are refused in words rather than with a wrong index.
    """
    heads = getattr(generation, "alignment_heads", None)
    if heads is None:
        return
    left = [[new, head] for new, old in enumerate(decoder) for layer, head in heads if layer == old]
    if left:
        generation.alignment_heads = left
    else:
        del generation.alignment_heads
