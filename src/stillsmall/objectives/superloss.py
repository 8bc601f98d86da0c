"""SuperLoss (Castells, Weinzaepfel, Revaud: "SuperLoss: A Generic Loss for Robust Curriculum Learning", NeurIPS 2020).

    SL(l) = (l - tau) * sigma + lam * (ln sigma)^2      at the sigma that makes it least:
    sigma* = exp(-W(max(-2/e, beta) / 2)),  beta = (l - tau) / lam,  W: Lambert's function, principal branch

Easy units (l < tau) count for more (up to e), hard ones for less. sigma* is the minimum, so dSL/dl = sigma*: its own
gradient is not needed, and W is taken of detached values.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.special import lambertw
from torch import Tensor

from stillsmall.config import Section
from stillsmall.objectives.base import Objective, Signals, TokenLoss, sample_mean
from stillsmall.objectives.build import weighed

BRANCH = -1.0 / math.e  # W's branch point, W = -1; scipy can give NaN there


class SuperLoss(Objective):
    """Wraps any inner objective. By sample, l is a sample's mean, and each of its units holds the sample's SL.

    tau is ln V (V tokens: the loss of knowing nothing) or a running mean of l, which moves once an optimiser step:
    mean <- momentum * mean + (1 - momentum) * the step's mean. Before the first step it is the micro-batch's own.
    """

    class Config(Section):
        lam: Annotated[float, Field(gt=0, allow_inf_nan=False)]
        by: Literal["token", "sample"]
        tau: Literal["log_classes", "running_mean"]
        momentum: Annotated[float, Field(ge=0, lt=1)]
        inner: dict[str, Any]  # any objective, by its kind

    mean: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, config: Any, path: str = "objectives.superloss") -> None:
        super().__init__(config, path)
        self.inner = weighed(config.inner, f"{path}.inner")
        self.needs = self.inner.needs
        for name, value in (("mean", math.nan), ("total", 0.0), ("count", 0.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def forward(self, signals: Signals) -> TokenLoss:
        inner: TokenLoss = self.inner(signals)
        mask = signals.mask
        by_sample = self.config.by == "sample"
        loss = sample_mean(inner.per_token, mask).unsqueeze(1) if by_sample else inner.per_token
        counted = mask.any(1, keepdim=True) if by_sample else mask
        tau = self._tau(loss.detach(), counted, signals.student_logits.shape[-1])
        sigma = best_sigma((loss.detach() - tau) / self.config.lam)
        value = ((loss - tau) * sigma + self.config.lam * sigma.log() ** 2) * mask
        weight = sigma * mask
        return dataclasses.replace(
            inner,
            per_token=value,
            parts={**inner.parts, "inner": inner.per_token.detach(), "sigma": weight},
            values={**inner.values, "tau": tau},
            samples={**inner.samples, "sigma": sample_mean(weight, mask)},
        )

    def after_step(self, student: Any, progress: float) -> None:
        super().after_step(student, progress)
        if float(self.count):
            new = self.total / self.count
            share = self.config.momentum if self.mean.isfinite() else 0.0
            self.mean.copy_(new if share == 0.0 else share * self.mean + (1 - share) * new)
        self.total.zero_()
        self.count.zero_()

    def _tau(self, loss: Tensor, counted: Tensor, classes: int) -> float:
        if self.config.tau == "log_classes":
            return math.log(classes)
        total, count = float((loss * counted).double().sum()), float(counted.sum())
        if self.training:
            self.total += total
            self.count += count
        return float(self.mean) if self.mean.isfinite() else total / max(count, 1.0)


def best_sigma(beta: Tensor) -> Tensor:
    """sigma* of each beta, of the same shape, device and kind, without gradient; e from -2/e downwards."""
    half = beta.detach().double().cpu().numpy() / 2
    inside = half > BRANCH
    w = np.where(inside, lambertw(np.where(inside, half, 0.0)).real, -1.0)
    w = np.where(np.isnan(w) & ~np.isnan(half), -1.0, w)
    return torch.from_numpy(np.exp(-w)).to(beta.device, beta.dtype)
