"""Hidden states of the teacher as targets: the "dense representation level" of 2406.04512, as in Distil-Whisper.

    L = inner + weight * mean over layer pairs and features of (P h_s - h_t)^2

by unit, so the step's value is the mean over unmasked units and features. (Distil-Whisper's public code divides once
more by the number of tokens, which all but removes the term.) P is a learnt projection where the widths differ.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from stillsmall.config import ConfigError, Section
from stillsmall.objectives.base import Objective, ObjectiveError, Signals, TokenLoss, require
from stillsmall.objectives.build import inline

Pairs = list[tuple[int, int]]  # (student layer, teacher layer), from 0; a layer's states are those that it puts out


class HiddenStates(Objective):
    """`layers`: even (equal parts of the teacher: 2 of 4 follow 1 and 3), last, or [student, teacher] pairs from 0."""

    class Config(Section):
        weight: Annotated[float, Field(gt=0, allow_inf_nan=False)]
        layers: Any
        project: bool  # widths that differ: learn a projection, or refuse
        inner: dict[str, Any]  # any objective, by its kind

        @field_validator("layers")
        @classmethod
        def _known(cls, given: Any) -> Any:
            pairs = isinstance(given, list) and given
            if given in ("even", "last") or (pairs and all(_is_pair(pair) for pair in given)):
                return given
            raise ValueError("expected even, last, or a list of [student, teacher] layers such as [[0, 1], [1, 3]]")

    def __init__(self, config: Any, path: str = "objectives.hidden") -> None:
        super().__init__(config, path)
        self.inner = inline(config.inner, f"{path}.inner")
        self.needs = frozenset({"hidden"}) | self.inner.needs
        self.projections = torch.nn.ModuleDict()  # by the student's layer and the teacher's: "1-3"

    def attach(self, student: Any, teacher: Any | None) -> None:
        """Makes the projections. Raises ConfigError for layers that are not there, or widths without a projection."""
        super().attach(student, teacher)
        if teacher is None:
            raise ConfigError(f"{self.path}: needs a teacher, for its hidden states")
        chosen = pairs(self.config.layers, depth(student), depth(teacher), f"{self.path}.layers")
        ours, theirs = student.config.hidden_size, teacher.config.hidden_size
        if ours == theirs:
            return
        if not self.config.project:
            raise ConfigError(
                f"{self.path}.project: got False, but the student is {ours} features wide and the teacher {theirs}; "
                "set it to true to learn a projection"
            )
        with torch.random.fork_rng():
            for place, (mine, its) in enumerate(chosen):
                torch.manual_seed(place)  # the same weights whatever was drawn before
                made = torch.nn.Linear(ours, theirs, bias=False)
                self.projections[f"{mine}-{its}"] = made.to(next(student.parameters()).device)

    def forward(self, signals: Signals) -> TokenLoss:
        require(signals, self.needs, self.path)
        inner: TokenLoss = self.inner(signals)
        assert signals.student_hidden is not None and signals.teacher_hidden is not None
        ours, theirs = signals.student_hidden[1:], signals.teacher_hidden[1:]  # without the embedding
        chosen = pairs(self.config.layers, len(ours), len(theirs), f"{self.path}.layers")
        losses = [self._squared(mine, its, ours[mine], theirs[its].detach()) for mine, its in chosen]
        mse = torch.stack(losses).mean(0).masked_fill(~signals.mask, 0.0)
        return dataclasses.replace(
            inner,
            per_token=inner.per_token + self.config.weight * mse,
            parts={**inner.parts, "hidden": mse.detach()},
        )

    def _squared(self, mine: int, its: int, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, U): the mean over features of the squared difference, from (B, U, D) each."""
        student, teacher = (h.to(torch.promote_types(h.dtype, torch.float32)) for h in (student, teacher))
        name = f"{mine}-{its}"
        if name in self.projections:
            student = self.projections[name](student)
        if student.shape != teacher.shape:
            raise ObjectiveError(
                f"{self.path}: states of student layer {mine} are {tuple(student.shape)} and of teacher layer {its} "
                f"{tuple(teacher.shape)}; they need the same units, and attach makes projections for widths"
            )
        return (student - teacher).square().mean(-1)


def pairs(layers: Any, ours: int, theirs: int, path: str) -> Pairs:
    """Which student layer follows which of the teacher's, of so many. ConfigError for a layer that is not there."""
    if layers == "last":
        return [(ours - 1, theirs - 1)]
    if layers == "even":
        if ours > theirs:
            raise ConfigError(f"{path}: even needs a teacher of {ours} layers at least; it has {theirs}. Give pairs")
        return [(layer, (layer + 1) * theirs // ours - 1) for layer in range(ours)]
    chosen: Pairs = []
    for place, (mine, its) in enumerate(layers):
        if mine >= ours:
            raise ConfigError(f"{path}[{place}]: student layer {mine}; it has {ours}, from 0 to {ours - 1}")
        if its >= theirs:
            raise ConfigError(f"{path}[{place}]: teacher layer {its}; it has {theirs}, from 0 to {theirs - 1}")
        chosen.append((mine, its))
    return chosen


def depth(model: Any) -> int:
    """Layers of the part that puts out units: the decoder, or an encoder with a CTC head."""
    return int(getattr(model.config, "decoder_layers", None) or model.config.num_hidden_layers)


def _is_pair(given: Any) -> bool:
    return isinstance(given, list) and len(given) == 2 and all(type(n) is int and n >= 0 for n in given)
