"""Student and teacher of one micro-batch, to be asked again with other inputs or audio (objectives.base.Models)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput


def whisper_logits(model: Any, inputs: Tensor | None, mels: Tensor | None, states: Tensor | None) -> Tensor:
    """(B, T, V) of a Whisper model on decoder inputs, from what it hears or from encoder states."""
    given = {"input_features": mels} if states is None else {"encoder_outputs": BaseModelOutput(states)}
    logits: Tensor = model(decoder_input_ids=inputs, **given).logits
    return logits


@dataclass
class LiveModels:
    """Two models on the micro-batch that `inputs` (B, T) and `heard` (its log-mels, made when asked) are of.

    `student_states` and `teacher_states` give (B, P, D) encoder states that are known already; they are used for the
    micro-batch's own audio where the encoder is frozen, and never where it learns. `context` is the arithmetic of a
    call (autocast), `ask` (model, inputs, heard, states) how one of the family is asked. Nothing is under no_grad: a
    frozen model builds no graph unless `mels` asks for gradients. `taught` is what the teacher hears, where that is
    something else than the student does (clean audio, a processor of its own).
    """

    student_model: Any
    teacher_model: Any | None
    inputs: Tensor | None
    heard: Callable[[], Tensor]
    student_states: Callable[[], Tensor] | None = None
    teacher_states: Callable[[], Tensor] | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    ask: Callable[[Any, Tensor | None, Tensor | None, Tensor | None], Tensor] = whisper_logits
    taught: Callable[[], Tensor] | None = None

    def mels(self) -> Tensor:
        """(B, M, F), a new tensor at each call."""
        return self.heard().detach().clone()

    def student(self, inputs: Tensor | None = None, mels: Tensor | None = None) -> Tensor:
        return self._logits(self.student_model, inputs, mels, self.student_states, self.heard)

    def teacher(self, inputs: Tensor | None = None, mels: Tensor | None = None) -> Tensor:
        """RuntimeError where no teacher was loaded: the objective does not need one."""
        if self.teacher_model is None:
            raise RuntimeError("no teacher was loaded; an objective that asks it must have 'models' among its needs")
        return self._logits(self.teacher_model, inputs, mels, self.teacher_states, self.taught or self.heard)

    def states(self) -> Tensor:
        with torch.no_grad(), self.context():
            known = self._known(self.student_model, self.student_states)
            return known if known is not None else self._encode(self.student_model, self.heard())

    def _logits(
        self,
        model: Any,
        inputs: Tensor | None,
        mels: Tensor | None,
        states: Callable[[], Tensor] | None,
        heard: Callable[[], Tensor],
    ) -> Tensor:
        tokens = self.inputs if inputs is None else inputs
        with self.context():
            known = self._known(model, states) if mels is None else None
            if known is None:  # by the model's own forward pass, which masks features where it is configured to
                return self.ask(model, tokens, heard() if mels is None else mels, None)
            return self.ask(model, tokens, None, known)

    def _known(self, model: Any, states: Callable[[], Tensor] | None) -> Tensor | None:
        if states is None or any(p.requires_grad for p in model.model.encoder.parameters()):
            return None
        return states()

    def _encode(self, model: Any, mels: Tensor) -> Tensor:
        states: Tensor = model.model.encoder(mels).last_hidden_state
        return states
