"""The student: a teacher with fewer layers, saved so that it reloads and generates with every Whisper field."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from stillsmall.config import ConfigError, Student
from stillsmall.students.freezing import freeze
from stillsmall.students.languages import mix
from stillsmall.students.layers import chosen_layers, evenly_spaced, rebuilt
from stillsmall.students.shrinking import Shrinker
from stillsmall.students.vocabulary import Label, Trimmed, counted, trimmed
from stillsmall.whisper_tokens import WhisperTokens

__all__ = [
    "Label",
    "Trimmed",
    "build",
    "check",
    "chosen_layers",
    "evenly_spaced",
    "save",
    "shares_encoder",
    "shrinker",
    "trim",
]


def check(config: Student) -> None:
    """ConfigError for values that are valid one by one and impossible together."""
    pruning = config.pruning
    if pruning is None or not config.freeze_encoder:
        return
    for name in ("encoder_layers", "encoder_ffn"):
        value = getattr(pruning, name, None)
        if value is not None and (name == "encoder_layers" or value < 1.0):
            raise ConfigError(
                f"student.pruning.{name}: got {value}, but student.freeze_encoder is true, and a frozen encoder does "
                "not shrink; set one of the two"
            )


def build(teacher: Any, config: Student) -> Any:
    """A WhisperForConditionalGeneration made of the teacher's layers; gradients off where it is frozen.

    Raises ConfigError for layers, languages or parts that the teacher does not have.
    """
    check(config)
    layers = {
        side: chosen_layers(getattr(config, name), getattr(teacher.config, name), f"student.{name}")
        for side, name in (("encoder", "encoder_layers"), ("decoder", "decoder_layers"))
    }
    student = rebuilt(teacher, teacher.state_dict(), layers)
    mix(student, config.language_embedding or [])
    if config.freeze_encoder:
        student.model.encoder.requires_grad_(False)
    freeze(student, config.freeze)
    return student


def trim(student: Any, processor: Any, config: Student, labels: Iterable[Label]) -> tuple[Any, Any, Trimmed | None]:
    """(student, processor, how ids moved) with only the tokens that the kept labels need; as given for `full`.

    A new student and processor. From here on targets are made with *this* processor's tokenizer and *this* student's
    generation config; the teacher hears `Trimmed.restored(inputs)` and its logits go through `Trimmed.project`.
    """
    if config.vocabulary == "full":
        return student, processor, None
    counts = counted(WhisperTokens.of(processor.tokenizer, student.generation_config), labels)
    return trimmed(student, processor, counts, config.vocabulary_min_count)


def shares_encoder(config: Student, teacher_layers: int) -> bool:
    """Whether teacher and student hear through the very same, unchanging encoder."""
    chosen = chosen_layers(config.encoder_layers, teacher_layers, "student.encoder_layers")
    return config.freeze_encoder and chosen == list(range(teacher_layers))


def shrinker(student: Any, config: Student) -> Shrinker | None:
    """What makes `student` smaller while it trains, attached to it; None without `student.pruning`.

    Raises ConfigError where the student cannot be shrunk so.
    """
    if config.pruning is None:
        return None
    if config.pruning.kind == "iterative":
        from stillsmall.students.pruning import Iterative

        return Iterative(config.pruning, student)
    from stillsmall.students.capacity import Capacity

    return Capacity(config.pruning, student)


def save(student: Any, processor: Any, folder: Path, dtype: torch.dtype, kept: Trimmed | None = None) -> None:
    """Weights as safetensors, both configs, and the processor: a folder that `from_pretrained` takes.

    With a trimmed vocabulary also which of the teacher's tokens were kept (`kept_tokens.json`).
    """
    shadow = copy.deepcopy(student).to("cpu", dtype)
    shadow.save_pretrained(folder)
    processor.save_pretrained(folder)
    if kept is not None:
        kept.write(folder)
