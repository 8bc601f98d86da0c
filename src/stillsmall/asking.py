"""What an objective is given of a micro-batch: the student, its teachers and its own past are asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stillsmall.data import Batch
from stillsmall.encoder_states import EncoderStates
from stillsmall.families.base import Family
from stillsmall.live_models import LiveModels
from stillsmall.loading import Ears
from stillsmall.objectives.base import Objective, Signals
from stillsmall.optimisation import autocast
from stillsmall.self_teacher import SelfTeacher
from stillsmall.students.vocabulary import Trimmed
from stillsmall.teacher_outputs import TeacherOutputs

TAUGHT = {"teacher", "teachers", "hidden"}


@dataclass
class Asker:
    """Builds `Signals`; asks nobody for what the objective does not need at that moment.

    `student_states` are the student's encoder states where its encoder never changes; None: it hears for itself.
    `teacher_model` is there for objectives that ask it themselves.
    """

    family: Family
    student: Any
    objective: Objective
    ears: Ears
    dtype: str
    teacher: TeacherOutputs | None = None
    student_states: EncoderStates | None = None
    teacher_model: Any | None = None
    teacher_states: EncoderStates | None = None
    own_past: SelfTeacher | None = None
    kept: Trimmed | None = None  # the student's tokens, where they are fewer than the teacher's

    def __call__(self, batch: Batch, progress: float) -> Signals:
        """Of one micro-batch at a step's progress."""
        device = self.device
        clips, needs = batch.to(device), self.objective.needs_at(progress)
        heard = self.ears.student(batch).to(device) if self.student_states is None else None
        with autocast(device, self.dtype):
            states = self.student_states(batch.index) if self.student_states else None
            own = self.family.forward(self.student, clips, heard, states, "hidden" in needs)
            said = self.teacher(clips, "hidden" in needs, own.logits) if self.teacher and TAUGHT & needs else None
            past = self._past(clips, heard, states) if "self" in needs else None
        frames, width = clips.frames, own.logits.shape[1]
        return Signals(
            student_logits=own.logits,
            labels=clips.labels,
            sample_ids=clips.sample_ids,
            progress=progress,
            teacher_logits=said.first.logits if said else None,
            more_teacher_logits=said.more if said else (),
            self_logits=past,
            student_hidden=own.hidden,
            teacher_hidden=said.first.hidden if said else None,
            frames=None if frames is None else torch.arange(width, device=device)[None] < frames[:, None],
            blank=self.family.blank(self.student),
            models=self._models(batch, clips, heard) if "models" in needs else None,
        )

    def _past(self, clips: Batch, heard: Tensor | None, states: Tensor | None) -> Tensor | None:
        if self.own_past is None:
            return None
        with torch.no_grad():
            return self.family.forward(self.own_past.model, clips, heard, states).logits

    def _models(self, batch: Batch, clips: Batch, heard: Tensor | None) -> LiveModels:
        def ask(model: Any, inputs: Tensor | None, mels: Tensor | None, states: Tensor | None) -> Tensor:
            of_teacher = self.kept if model is self.teacher_model else None
            if of_teacher is not None and inputs is not None:
                inputs = of_teacher.restored(inputs)
            logits = self.family.forward(model, replace(clips, inputs=inputs), mels, states).logits
            return logits if of_teacher is None else of_teacher.project(logits)

        own, taught = self.student_states, self.teacher_states
        return LiveModels(
            self.student,
            self.teacher_model,
            clips.inputs,
            heard=lambda: self.ears.student(batch).to(self.device) if heard is None else heard,
            student_states=None if own is None else lambda: own(batch.index),
            teacher_states=None if taught is None else lambda: taught(batch.index),
            context=lambda: autocast(self.device, self.dtype),
            ask=ask,
            taught=lambda: self.ears.teacher(batch).to(self.device),
        )

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.student.parameters()).device
        return device
