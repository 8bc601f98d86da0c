"""The student: a teacher with fewer layers, saved so that it reloads and generates with every Whisper field."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration

from stillsmall.config import ConfigError, Student


def evenly_spaced(teacher_layers: int, student_layers: int) -> list[int]:
    """Which teacher layers a student of so many layers copies: evenly spaced, first and last kept.

    32 -> 2 gives [0, 31], 32 -> 3 gives [0, 15, 31] (2406.04512, section 3; Shleifer & Rush 2020). One: the first.
    """
    if student_layers == 1:
        return [0]
    return [i * (teacher_layers - 1) // (student_layers - 1) for i in range(student_layers)]


def chosen_layers(wanted: int | list[int] | None, teacher_layers: int, path: str) -> list[int]:
    """The teacher layers that `wanted` means: None all, a number evenly spaced, a list as it stands.

    Raises ConfigError where the teacher does not have them.
    """
    if wanted is None:
        return list(range(teacher_layers))
    if isinstance(wanted, int):
        if wanted > teacher_layers:
            raise ConfigError(f"{path}: got {wanted}; the teacher has {teacher_layers} layers to copy")
        return evenly_spaced(teacher_layers, wanted)
    if not wanted or any(not 0 <= layer < teacher_layers for layer in wanted):
        raise ConfigError(f"{path}: got {wanted}; expected numbers from 0 to {teacher_layers - 1}")
    return wanted


def build(teacher: Any, config: Student) -> Any:
    """A WhisperForConditionalGeneration made of the teacher's layers; encoder gradients off where it is frozen.

    The generation config is the teacher's own (a config alone would lose `lang_to_id` and its like).
    """
    encoder = chosen_layers(config.encoder_layers, teacher.config.encoder_layers, "student.encoder_layers")
    decoder = chosen_layers(config.decoder_layers, teacher.config.decoder_layers, "student.decoder_layers")
    shape = copy.deepcopy(teacher.config)
    shape.encoder_layers, shape.decoder_layers = len(encoder), len(decoder)
    if getattr(shape, "num_hidden_layers", None) is not None:
        shape.num_hidden_layers = len(encoder)
    with torch.random.fork_rng(devices=[]):  # the random start is overwritten; it must not move anyone's seed
        student: Any = WhisperForConditionalGeneration(shape)
    student.load_state_dict(_copied(teacher.state_dict(), encoder, decoder))
    student.generation_config = copy.deepcopy(teacher.generation_config)
    student.to(next(teacher.parameters()).device)
    if config.freeze_encoder:
        student.model.encoder.requires_grad_(False)
    return student


def _copied(state: dict[str, torch.Tensor], encoder: list[int], decoder: list[int]) -> dict[str, torch.Tensor]:
    """The teacher's state with only the chosen layers, numbered anew."""
    kept = {name: value for name, value in state.items() if ".layers." not in name}
    for side, layers in (("model.encoder.layers.", encoder), ("model.decoder.layers.", decoder)):
        for new, old in enumerate(layers):
            prefix = f"{side}{old}."
            kept |= {f"{side}{new}.{n[len(prefix) :]}": v for n, v in state.items() if n.startswith(prefix)}
    return kept


def shares_encoder(config: Student, teacher_layers: int) -> bool:
    """Whether teacher and student hear through the very same, unchanging encoder."""
    return config.freeze_encoder and config.encoder_layers in (None, teacher_layers, list(range(teacher_layers)))


def save(student: Any, processor: Any, folder: Path, dtype: torch.dtype) -> None:
    """Weights as safetensors, both configs, and the processor: a folder that `from_pretrained` takes."""
    shadow = copy.deepcopy(student).to("cpu", dtype)
    shadow.save_pretrained(folder)
    processor.save_pretrained(folder)
