"""Focal loss (1708.02002): units that the student gets right already count for less.

    L = (1 - p_y)^gamma * inner,  p_y = exp(-task loss of the unit)

With `inner: {kind: ce}` it is the paper's; around another objective, it weighs that one. The gradient goes through the
weight too. For CTC p_y is a clip's probability per token (the geometric mean): its frames weigh alike.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from stillsmall.config import Section
from stillsmall.objectives.base import Objective, Signals, TokenLoss, task_loss
from stillsmall.objectives.build import weighed

SMALLEST = 1e-12  # of 1 - p_y: below it a power under 1 has a gradient without bound


class Focal(Objective):
    class Config(Section):
        gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # the paper's best: 2
        inner: dict[str, Any]  # any objective, by its kind

    def __init__(self, config: Any, path: str = "objectives.focal") -> None:
        super().__init__(config, path)
        self.inner = weighed(config.inner, f"{path}.inner")
        self.needs = self.inner.needs

    def forward(self, signals: Signals) -> TokenLoss:
        inner: TokenLoss = self.inner(signals)
        weight = self.weight(task_loss(signals)) * signals.mask
        return dataclasses.replace(
            inner,
            per_token=weight * inner.per_token,
            parts={**inner.parts, "inner": inner.per_token.detach(), "focal_weight": weight.detach()},
        )

    def weight(self, loss: Tensor) -> Tensor:
        """(1 - exp(-loss))^gamma, of the shape of `loss` (nats, from 0 on); 1 for gamma = 0."""
        if self.config.gamma == 0:
            return torch.ones_like(loss)
        wrong: Tensor = (-torch.expm1(-loss)).clamp(min=SMALLEST)
        return wrong**self.config.gamma
