"""What teachers say to a micro-batch. One seam: the loop does not know whether it is computed now or was kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from stillsmall.data import Batch
from stillsmall.encoder_states import EncoderStates
from stillsmall.families.base import Family, Output


@dataclass(frozen=True)
class Said:
    """Of the first teacher, and the logits of further ones."""

    first: Output
    more: tuple[Tensor, ...] = ()


class TeacherOutputs(Protocol):
    """Where teacher outputs come from."""

    def __call__(self, batch: Batch, hidden: bool) -> Said:
        """Outputs on exactly the student's decoder inputs, on the student's device; no gradients."""
        ...


@dataclass
class LiveTeachers:
    """Teachers that are loaded and asked. `states` are the encoder's where it never changes, else what is heard."""

    family: Family
    models: Sequence[Any]
    states: Sequence[EncoderStates | None]
    hear: Callable[[Batch], Tensor]

    @torch.no_grad()
    def __call__(self, batch: Batch, hidden: bool) -> Said:
        outputs = [self._ask(n, batch, hidden and n == 0) for n in range(len(self.models))]
        return Said(outputs[0], tuple(output.logits for output in outputs[1:]))

    def _ask(self, number: int, batch: Batch, hidden: bool) -> Output:
        states = self.states[number]
        if states is not None:
            return self.family.forward(self.models[number], batch, None, states(batch.index), hidden)
        heard = self.hear(batch).to(batch.labels.device)
        return self.family.forward(self.models[number], batch, heard, None, hidden)
