"""What teachers say to a micro-batch. One seam: the loop does not know whether it is computed now or was kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from stillsmall.data import Batch
from stillsmall.encoder_states import EncoderStates
from stillsmall.families.base import Family, Output
from stillsmall.students.vocabulary import Trimmed


@dataclass(frozen=True)
class Said:
    """Of the first teacher, and the logits of further ones."""

    first: Output
    more: tuple[Tensor, ...] = ()


class TeacherOutputs(Protocol):
    """Where teacher outputs come from."""

    def __call__(self, batch: Batch, hidden: bool, student: Tensor | None = None) -> Said:
        """Outputs on exactly the student's decoder inputs, on the student's device; no gradients.

        `student` are the student's logits on them, for outputs that were not kept whole.
        """
        ...


@dataclass
class LiveTeachers:
    """Teachers that are loaded and asked. `states` are the encoder's where it never changes, else what is heard."""

    family: Family
    models: Sequence[Any]
    states: Sequence[EncoderStates | None]
    hear: Callable[[Batch], Tensor]
    kept: Trimmed | None = None  # the student's tokens, where they are fewer than the teachers'

    @torch.no_grad()
    def __call__(self, batch: Batch, hidden: bool, student: Tensor | None = None) -> Said:
        outputs = [self._ask(n, batch, hidden and n == 0) for n in range(len(self.models))]
        return Said(outputs[0], tuple(output.logits for output in outputs[1:]))

    def _ask(self, number: int, batch: Batch, hidden: bool) -> Output:
        states, heard = self.states[number], None
        if states is None:
            heard = self.hear(batch).to(batch.labels.device)
        if self.kept is not None and batch.inputs is not None:
            batch = replace(batch, inputs=self.kept.restored(batch.inputs))
        known = None if states is None else states(batch.index)
        said = self.family.forward(self.models[number], batch, heard, known, hidden)
        return said if self.kept is None else replace(said, logits=self.kept.project(said.logits))
