"""What an objective sees and gives: signals in, one loss per token out. The one reduction of all objectives is here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from pydantic import BaseModel
from torch import Tensor

IGNORED = -100  # label of a position without loss


class ObjectiveError(ValueError):
    """Signals that an objective cannot work with: something it needs is absent, or shapes do not fit."""


@dataclass(frozen=True)
class Signals:
    """One micro-batch. B clips, T target positions, V tokens, D features."""

    student_logits: Tensor  # (B, T, V)
    labels: Tensor  # (B, T), the token after each position; IGNORED where there is none
    sample_ids: tuple[str, ...]  # B
    progress: float  # u = step / total steps, in [0, 1)
    teacher_logits: Tensor | None = None  # (B, T, V), on exactly the student's decoder inputs
    self_logits: Tensor | None = None  # (B, T, V), of an average or snapshot of the student
    student_hidden: tuple[Tensor, ...] | None = None  # one (B, T, D) per decoder layer, embedding first
    teacher_hidden: tuple[Tensor, ...] | None = None

    @property
    def mask(self) -> Tensor:
        """(B, T) bool: positions that have a loss."""
        return self.labels != IGNORED


@dataclass(frozen=True)
class TokenLoss:
    """(B, T) losses, zero where masked, and the parts that are logged (each (B, T), detached)."""

    per_token: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """`needs` names the signals it must be given ("teacher", "self", "hidden"): what none needs is never loaded."""

    Config: ClassVar[type[BaseModel]]
    needs: ClassVar[frozenset[str]]

    def forward(self, signals: Signals) -> TokenLoss: ...


def token_cross_entropy(signals: Signals) -> Tensor:
    """(B, T) cross-entropy in nats, zero where masked; computed in float32."""
    logits = signals.student_logits.float().flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, signals.labels.flatten(), ignore_index=IGNORED, reduction="none")
    return loss.view_as(signals.labels)


def token_kl(target_logits: Tensor, student_logits: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """(B, T) T^2 * KL(softmax(target / T) || softmax(student / T)), nats, summed over the vocabulary; 0 where masked.

    Raises ObjectiveError where the vocabularies differ in size.
    """
    if target_logits.shape != student_logits.shape:
        raise ObjectiveError(
            f"teacher logits are {tuple(target_logits.shape)} and student logits {tuple(student_logits.shape)}; "
            "a distillation loss over tokens needs one vocabulary and the same positions"
        )
    p = (target_logits.float() / temperature).log_softmax(-1)
    q = (student_logits.float() / temperature).log_softmax(-1)
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    return temperature**2 * kl.masked_fill(~mask, 0.0)


def reduce(per_token: Tensor, tokens: int) -> Tensor:
    """The step's loss from a micro-batch's: its sum over the unmasked tokens of the *whole* optimiser step."""
    return per_token.sum() / max(tokens, 1)


def require(signals: Signals, needs: frozenset[str], name: str) -> None:
    """ObjectiveError where a needed signal is not there."""
    given = {"teacher": signals.teacher_logits, "self": signals.self_logits, "hidden": signals.teacher_hidden}
    lacking = sorted(need for need in needs if given[need] is None)
    if lacking:
        raise ObjectiveError(f"distill.objective '{name}' needs {', '.join(lacking)} signals, which were not given")
