"""ImitKD (Lin et al. 2020, 2009.07253, algorithm 1): the student is taught on prefixes that it writes itself.

A sample keeps the data's prefix with probability beta(u), else it gets the student's own greedy prefix. At each
position t of the prefix y_<t so chosen, with the teacher's distribution or its most probable token as the target:

    distribution: L_t = ce_weight * CE(label) + kl_weight * T^2 KL(p_t(. | y_<t) || p_s(. | y_<t))
    argmax:       L_t = ce_weight * CE(label) + kl_weight * -log p_s(argmax p_t(. | y_<t) | y_<t)

beta falls from 1: geometric (200^-u, the authors'), linear or a reverse sigmoid. beta = 1 is kd on the data's prefixes.
CE is on the data's prefix in any case (the paper has none: ce_weight 0).

The student's roll-out keeps the forced prefix (prompt, start, language, task, no-timestamps mark) and the label's
positions with a loss: it is as long as the label at most, and has no loss past its own end of text. Not for CTC.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from stillsmall import compute
from stillsmall.config import Section
from stillsmall.objectives.base import (
    IGNORED,
    Models,
    Objective,
    ObjectiveError,
    Signals,
    TokenLoss,
    require,
    task_loss,
    token_kl,
)
from stillsmall.objectives.schedules import Schedule
from stillsmall.objectives.teaching import refuse_frames, require_text_positions


class Imitation(Objective):
    class Config(Section):
        ce_weight: Annotated[float, Field(ge=0)]
        kl_weight: Annotated[float, Field(gt=0)]
        temperature: Annotated[float, Field(gt=0)]
        target: Literal["distribution", "argmax"]
        beta: Schedule

        @model_validator(mode="after")
        def _a_probability(self) -> Imitation.Config:
            if not 0 <= self.beta.end <= self.beta.start == 1:
                raise ValueError(f"beta falls from 1 within [0, 1], but goes from {self.beta.start} to {self.beta.end}")
            return self

    needs = frozenset({"models"})
    _student: tuple[Any, ...] = ()  # in a tuple: as an attribute it would become a part of this module

    def attach(self, student: Any, teacher: Any | None) -> None:
        require_text_positions(student, self.path, "imitkd writes prefixes of a text")
        self._student = (student,)

    def forward(self, signals: Signals) -> TokenLoss:
        require(signals, self.needs, self.path)
        refuse_frames(signals, self.path)
        assert signals.models is not None
        beta = self.config.beta(signals.progress)
        own = self._own(signals, beta)
        inputs, mask, student = None, signals.mask, signals.student_logits
        if own.any():
            inputs, mask = self._prefixes(signals.models, own, mask)
            student = signals.models.student(inputs=inputs)
        with torch.no_grad():
            teacher = signals.models.teacher(inputs=inputs)
        imitation = self._imitation(teacher, student, mask)
        ce = task_loss(signals)
        loss = self.config.ce_weight * ce + self.config.kl_weight * imitation
        parts = {"ce": ce.detach(), "imitation": imitation.detach()}
        return TokenLoss(loss, parts, {"beta": beta, "own_prefixes": float(own.float().mean())})

    def _own(self, signals: Signals, beta: float) -> Tensor:
        """(B,) bool: samples that get a prefix of the student's; a function of their ids and the progress."""
        draws = [compute.seed("imitkd", name, signals.progress) / (1 << 63) for name in signals.sample_ids]
        return torch.tensor([draw >= beta for draw in draws], device=signals.labels.device)

    def _prefixes(self, models: Models, own: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(inputs with the student's prefixes where `own`, the mask without what lies past their ends)."""
        if not self._student or models.inputs is None:
            raise ObjectiveError(f"{self.path}: attach(student, teacher) comes before the first loss")
        (model,) = self._student
        states = models.states()
        assert states is not None
        given, forced = models.inputs, forced_lengths(models.inputs, model.generation_config)
        written = given.clone()
        written[own] = roll_out(model, states[own], given[own], forced[own])
        chosen = torch.arange(given.shape[1], device=given.device) >= forced.unsqueeze(1)
        ends = torch.as_tensor(model.generation_config.eos_token_id, device=given.device)
        ended = (torch.isin(written, ends) & chosen).cumsum(1) > 0
        return written, mask & ~(ended & own.unsqueeze(1))

    def _imitation(self, teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
        if self.config.target == "distribution":
            return token_kl(teacher, student, mask, self.config.temperature)
        labels = teacher.argmax(-1).masked_fill(~mask, IGNORED)
        wide = student if student.dtype == torch.float64 else student.float()
        return torch.nn.functional.cross_entropy(
            wide.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(labels)


def forced_lengths(inputs: Tensor, generation: Any) -> Tensor:
    """(B,): how many tokens of each row the student does not choose: up to the last mark of Whisper's prefix."""
    marks = [generation.decoder_start_token_id, getattr(generation, "no_timestamps_token_id", None)]
    for table in ("lang_to_id", "task_to_id"):
        marks += (getattr(generation, table, None) or {}).values()
    known = torch.tensor([mark for mark in marks if mark is not None], device=inputs.device)
    is_mark = torch.isin(inputs, known)
    places = torch.arange(1, inputs.shape[1] + 1, device=inputs.device)
    return (is_mark * places).amax(1).clamp(min=1)


@torch.no_grad()
def roll_out(model: Any, states: Tensor, inputs: Tensor, forced: Tensor) -> Tensor:
    """(B, T) decoder inputs whose first `forced` tokens are the given ones and whose others the model writes greedily.

    `states` are (B, P, D) encoder states. One pass over the shortest forced prefix, then one token at a time with the
    cache of keys and values: T decoder steps, whatever T. Without dropout; the model's modes are as before afterwards.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        written, begin, cache = inputs.clone(), int(forced.min()), None
        encoded = BaseModelOutput(last_hidden_state=states.to(next(model.parameters()).dtype))
        step = written[:, :begin]
        for place in range(begin, inputs.shape[1]):
            out = model(encoder_outputs=encoded, decoder_input_ids=step, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            written[:, place] = torch.where(forced > place, inputs[:, place], out.logits[:, -1].argmax(-1))
            step = written[:, place : place + 1]
    finally:
        for module, training in modes:
            module.training = training
    return written
