"""What the loop needs to know of a family of models: how it is loaded, what it hears, what it says, how it is saved.

Whisper and CTC models differ in their targets (decoder inputs and labels, or a label per clip), in what they hear
(log-mel windows, or waveforms) and in their units of loss (text positions, or frames). All of that is here; the loop,
the objectives and the teacher's outputs are written once, for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stillsmall.compute import ModelError
from stillsmall.config import Params, Student
from stillsmall.data import Batch, TargetMaker
from stillsmall.families import TABLE
from stillsmall.plugins import nearest, resolve
from stillsmall.students.shrinking import Shrinker
from stillsmall.students.vocabulary import Label, Trimmed


@dataclass(frozen=True)
class Output:
    """Logits (B, U, V) and, where they were asked for, hidden states: one (B, U, D) per layer, embedding first."""

    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None


class Family(Protocol):
    """One family. Its objects hold nothing: models and processors are given to each call."""

    name: str

    def processor(self, source: str, revision: str | None) -> Any:
        """Its tokenizer and feature extractor alone."""
        ...

    def load(self, source: str, revision: str | None, path: str) -> tuple[Any, Any]:
        """(model in float32 and evaluation mode, processor) of a folder or hub id; ModelError under `path`."""
        ...

    def build(self, base: Any, config: Student) -> Any:
        """A student made of some layers of `base`; what is frozen has no gradients."""
        ...

    def trim(
        self, student: Any, processor: Any, config: Student, labels: Iterable[Label]
    ) -> tuple[Any, Any, Trimmed | None]:
        """(student, processor, how ids moved) with the vocabulary that `config` asks for; None: with all of it."""
        ...

    def shrinker(self, student: Any, config: Student) -> Shrinker | None:
        """What makes the student smaller while it trains, attached to it."""
        ...

    def save(
        self, student: Any, processor: Any, folder: Path, dtype: torch.dtype, kept: Trimmed | None = None
    ) -> None: ...

    def targets(self, params: Params, model: Any, processor: Any) -> TargetMaker:
        """Token sequences from labels, as this model learns them."""
        ...

    def features(self, processor: Any, clips: Sequence[np.ndarray]) -> Tensor:
        """What the model hears of (samples,) clips, float32: (B, mels, frames), or (B, samples) zero-padded."""
        ...

    def encoder(self, model: Any) -> Any | None:
        """The part whose states are worth keeping where it never changes: (B, mels, frames) in. None: there is none."""
        ...

    def blank(self, model: Any) -> int:
        """The CTC blank's token; 0 where there is none."""
        ...

    def forward(
        self, model: Any, batch: Batch, heard: Tensor | None, states: Tensor | None, hidden: bool = False
    ) -> Output:
        """The model's output on a batch, from encoder `states` or from what is `heard`, on the model's device."""
        ...

    def transcribe(
        self, model: Any, processor: Any, heard: Tensor, languages: Sequence[str], params: Params
    ) -> list[str]:
        """Greedy text of what is `heard`, one language a clip; for error rates during training."""
        ...

    def vocabulary(self, processor: Any) -> dict[str, int]:
        """Token to id; two models share logits only where these are equal."""
        ...


def family_of(source: str, revision: str | None, path: str) -> Family:
    """The family of a model folder or hub id, by its config's `model_type`; ModelError for one that is not known."""
    from transformers import AutoConfig

    kind = AutoConfig.from_pretrained(source, **({"revision": revision} if revision else {})).model_type
    if kind not in TABLE:
        raise ModelError(f"{path}.model: {source} is a model of type '{kind}'; {nearest(kind, TABLE)}")
    family: Family = resolve(TABLE, kind, path)()
    return family
