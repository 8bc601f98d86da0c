"""ASKD, adaptive self-knowledge distillation (FastWhisper, 2601.19919): lean on the teacher less and less, then on
oneself. Reconstructed: the paper's equations were not available, and its two abstracts differ (self-distillation *and*
/ *subsequently*), so both modes are here.

    L = (1 - lam - mu) CE(y) + lam T^2 KL(teacher || student) + mu T^2 KL(stopgrad(self) || student)

`lam` falls from lam0 <= 1 to exactly 0 at its `until` u1 (0.7); `mu` rises from 0 to mu_max <= 0.5. mode subsequent:
mu begins where lam has ended; concurrent: before. The self teacher is an average of the student (decay 0.999) or its
snapshot at mu's `begin`. Limits: lam constant and no mu is kd with weights (1 - lam, lam); no lam and no mu is ce.

self_target smoothed is the control for what the self teacher knows: its distribution gives way to the label mixed with
uniform, at each position with just its entropy. What is left is label smoothing, as strong where the student is unsure.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from stillsmall.config import Section
from stillsmall.objectives.base import Objective, Signals, TokenLoss, require, task_loss, token_kl
from stillsmall.objectives.schedules import Schedule
from stillsmall.objectives.teaching import refuse_frames, require_text_positions

HIGHEST_MU = 0.5
HALVINGS = 50  # of [0, 1]: beyond float32, and enough for float64
GRID = 1000  # points at which the sum of the two schedules is looked at


class SelfDistillation(Objective):
    class Config(Section):
        lam: Schedule
        mu: Schedule
        mode: Literal["subsequent", "concurrent"]
        self_teacher: Literal["ema", "snapshot"]
        self_target: Literal["distribution", "smoothed"]
        ema_decay: Annotated[float, Field(ge=0, lt=1)]
        temperature: Annotated[float, Field(gt=0)]

        @model_validator(mode="after")
        def _fits(self) -> SelfDistillation.Config:
            lam, mu = self.lam, self.mu
            if not 0 <= lam.end <= lam.start <= 1:
                raise ValueError(f"lam falls within [0, 1], but goes from {lam.start} to {lam.end}")
            if not 0 <= mu.start <= mu.end <= HIGHEST_MU:
                raise ValueError(f"mu rises within [0, {HIGHEST_MU}], but goes from {mu.start} to {mu.end}")
            if mu.end and self.mode == "subsequent" and (lam.end or (lam.start and mu.begin < lam.until)):
                raise ValueError(
                    "subsequent: the teacher has gone before self-distillation begins, so lam.end must be 0 "
                    f"(is {lam.end}) and mu.begin ({mu.begin}) not before lam.until ({lam.until})"
                )
            most = max(range(GRID + 1), key=lambda i: lam(i / GRID) + self.weight(i / GRID))
            if lam(most / GRID) + self.weight(most / GRID) > 1 + 1e-12:
                raise ValueError(f"lam + mu is above 1 at progress {most / GRID}; nothing is left for the labels")
            return self

        def weight(self, progress: float) -> float:
            """mu; 0 before its `begin`, whatever its start."""
            return self.mu(progress) if progress >= self.mu.begin else 0.0

    def __init__(self, config: Any, path: str = "objectives") -> None:
        super().__init__(config, path)
        both = {"teacher": config.lam.start, "self": config.mu.end}
        self.needs = frozenset(need for need, weight in both.items() if weight > 0)
        if "self" in self.needs:
            self.self_kind, self.self_from = config.self_teacher, config.mu.begin
            self.self_decay = config.ema_decay if config.self_teacher == "ema" else None

    def attach(self, student: Any, teacher: Any | None) -> None:
        super().attach(student, teacher)
        if "self" in self.needs and self.config.self_target == "smoothed":
            require_text_positions(student, f"{self.path}.self_target", "a smoothed label is one of a position of text")

    def needs_at(self, progress: float) -> frozenset[str]:
        both = {"teacher": self.config.lam(progress), "self": self.config.weight(progress)}
        return frozenset(need for need, weight in both.items() if weight > 0)

    def forward(self, signals: Signals) -> TokenLoss:
        lam, mu = self.config.lam(signals.progress), self.config.weight(signals.progress)
        require(signals, self.needs_at(signals.progress), self.path)
        ce = task_loss(signals)
        loss, parts = (1.0 - lam - mu) * ce, {"ce": ce.detach()}
        own = signals.self_logits
        if mu > 0 and self.config.self_target == "smoothed" and own is not None:
            refuse_frames(signals, f"{self.path}.self_target")
            own = smoothed(own, signals.labels, self.config.temperature)
        for name, weight, logits in (("kl", lam, signals.teacher_logits), ("self_kl", mu, own)):
            if weight > 0 and logits is not None:
                kl = token_kl(logits.detach(), signals.student_logits, signals.mask, self.config.temperature)
                loss, parts[name] = loss + weight * kl, kl.detach()
        return TokenLoss(loss, parts, {"lam": lam, "mu": mu})


@torch.no_grad()
def smoothed(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """(B, T, V) logits whose softmax at `temperature` is (1 - e) * label + e * uniform, e from its entropy.

    e is such that each position has the entropy of softmax(logits / temperature); it grows with e, so halving finds it.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    log_p = (wide / temperature).log_softmax(-1)
    wanted, size = -(log_p.exp() * log_p).sum(-1), wide.shape[-1]
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    for _ in range(HALVINGS):
        e = (low + high) / 2
        label, other = 1 - e + e / size, e / size
        below = -torch.xlogy(label, label) - (size - 1) * torch.xlogy(other, other) < wanted
        low, high = torch.where(below, e, low), torch.where(below, high, e)
    e = ((low + high) / 2).clamp(min=torch.finfo(wide.dtype).tiny * size).unsqueeze(-1)
    mixed = (e / size).expand_as(wide).scatter(-1, labels.clamp(min=0).unsqueeze(-1), 1 - e + e / size)
    return mixed.log() * temperature
