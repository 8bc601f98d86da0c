"""AdaKD (2405.08019): how much a sample is distilled follows from how hard the teacher finds it, and from progress.

    d = exp(-k (x - t)),  alpha = exp(-1 / sqrt(d)) = exp(-exp(k (x - t) / 2))
    L = (1 - alpha) * task + alpha * distillation

x is the teacher's own task loss of the sample, in nats per token and without gradient; t its mean over the data. k goes
from above 0 (easy samples lean on the teacher) to below 0 (hard ones do): 15 to -10 in third-party code. The published
text gives alpha; the schedule of k, the standardised difficulty (x - t) / std with k from 4 to -4, and the safeguards
are reconstructed. The arms are the ablation that takes progression, difficulty and the amount of distillation apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any, Literal

import torch
from torch import Tensor

from stillsmall.config import Positive, Section
from stillsmall.objectives.base import (
    Objective,
    ObjectiveError,
    Signals,
    TeacherLoss,
    TokenLoss,
    require,
    sample_mean,
    task_loss,
)
from stillsmall.objectives.build import weighed
from stillsmall.objectives.schedules import Schedule

Arm = Literal["progressive", "shuffled", "frozen", "mean_matched", "constant"]
LIMIT = 60.0  # of |z|: exp(30) is far from any float's end, and alpha is 0 or 1 to all digits long before
CONSTANT = math.exp(-1.0)  # alpha at z = 0
POINTS = 1000  # of the schedule, for its average
BISECTIONS = 60  # halvings of an interval of at most 60: to the last digits of a float64


class AdaptiveDistillation(Objective):
    """`arm` says which alpha; a fixed or a reversed k is a matter of its schedule.

    progressive: as above. shuffled: x permuted among the samples of a micro-batch, from their ids and the progress.
    frozen: a sample's alpha is its average over the whole schedule. mean_matched: exp(-exp(z / 2 + c)) with the c that
    makes the mean over the micro-batch 1/e (so a micro-batch of one sample has 1/e). constant: 1/e for all.
    """

    class Config(Section):
        task: dict[str, Any]  # any objective, by its kind: what a hard (at first) sample learns from
        distillation: dict[str, Any]
        k: Schedule
        difficulty: Literal["raw", "standardised"]
        arm: Arm
        most: Positive  # samples for t and std

    t: Tensor
    std: Tensor

    def __init__(self, config: Any, path: str = "objectives.adakd") -> None:
        super().__init__(config, path)
        self.task = weighed(config.task, f"{path}.task")
        self.distillation = weighed(config.distillation, f"{path}.distillation")
        self.needs = frozenset({"teacher"}) | self.task.needs | self.distillation.needs
        self.register_buffer("t", torch.tensor(math.nan, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(math.nan, dtype=torch.float64))

    def before_training(self, teacher_loss: TeacherLoss) -> None:
        """Sets t and std (of the population) from finite losses of at most `most` samples.

        Raises ObjectiveError where the teacher has no finite loss.
        """
        super().before_training(teacher_loss)
        losses = teacher_loss(self.config.most).double()
        losses = losses[losses.isfinite()]
        if not len(losses):
            raise ObjectiveError(f"{self.path}: the teacher's loss is not finite on any sample; look at the teacher")
        self.t.fill_(losses.mean())
        self.std.fill_(losses.std(correction=0))

    def forward(self, signals: Signals) -> TokenLoss:
        require(signals, self.needs, self.path)
        broken, signals = without_broken(signals)
        x = teacher_difficulty(signals).masked_fill(broken, math.nan)
        real = signals.mask.any(1)
        alpha = self.alpha(x, real & ~broken, signals).masked_fill(broken, 0.0)
        task, distillation = self.task(signals), self.distillation(signals)
        share = alpha.to(task.per_token.dtype).unsqueeze(1)
        loss = (1 - share) * task.per_token + share * distillation.per_token
        values = {
            "k": self.config.k(signals.progress),
            "alpha": float(alpha[real].mean()) if real.any() else 0.0,
            "difficulty_not_finite": int((real & ~x.isfinite()).sum()),
            "teacher_not_finite": int((real & broken).sum()),
        }
        both = {"task": task, "distillation": distillation}
        return TokenLoss(
            loss,
            {name: out.per_token.detach() for name, out in both.items()} | _named(both, "parts"),
            values | _named(both, "values"),
            {"difficulty": x, "alpha": alpha} | _named(both, "samples"),
        )

    def alpha(self, x: Tensor, usable: Tensor, signals: Signals) -> Tensor:
        """(B,) float64: each sample's share of the distillation loss, from its difficulty x (NaN: z = 0).

        `usable` (B,) are the samples that shuffling and matching look at.
        """
        if self.config.arm == "constant":
            return torch.full_like(x, CONSTANT)
        if self.config.arm == "shuffled":
            x = shuffled(x, usable & x.isfinite(), signals)
        distance = self._distance(x)
        if self.config.arm == "frozen":
            return frozen_alpha(distance, self.config.k)
        z = clamped(self.config.k(signals.progress) * distance)
        if self.config.arm == "mean_matched":
            return torch.exp(-torch.exp(z / 2 + matching(z[usable])))
        return torch.exp(-torch.exp(z / 2))

    def _distance(self, x: Tensor) -> Tensor:
        """(B,): x - t, over std where standardised; 0 where x is not finite or the data have no spread."""
        t, std = float(self.t), float(self.std)
        if math.isnan(t):
            raise ObjectiveError(f"{self.path}: the teacher's mean loss is not known; before_training was not called")
        distance = x - t if self.config.difficulty == "raw" else (x - t) / std
        return distance.nan_to_num(0.0, 0.0, 0.0)


def teacher_difficulty(signals: Signals) -> Tensor:
    """(B,) float64, without gradient: the teacher's mean task loss of each sample.

    NaN where it has none: CTC gives 0 where no alignment fits the label, which would make it the easiest of all.
    """
    with torch.no_grad():
        x = sample_mean(task_loss(signals, signals.teacher_logits), signals.mask).double()
    return x if signals.frames is None else x.masked_fill(x == 0, math.nan)


def without_broken(signals: Signals) -> tuple[Tensor, Signals]:
    """(B,) bool: samples with a teacher logit that is not finite on a unit with loss; and signals without any.

    Zeros stand in for them: a NaN times an alpha of 0 is still NaN, in the loss and in the gradient.
    """
    assert signals.teacher_logits is not None
    low, high = signals.teacher_logits.detach().aminmax(dim=-1)
    fine = low.isfinite() & high.isfinite()
    broken = (~fine & signals.mask).any(1)
    if fine.all():
        return broken, signals
    hidden = signals.teacher_hidden
    if hidden is not None:
        hidden = tuple(layer.masked_fill(~fine.unsqueeze(-1), 0.0) for layer in hidden)
    clean = signals.teacher_logits.masked_fill(~fine.unsqueeze(-1), 0.0)
    return broken, dataclasses.replace(signals, teacher_logits=clean, teacher_hidden=hidden)


def clamped(z: Tensor) -> Tensor:
    return z.clamp(-LIMIT, LIMIT)


def shuffled(x: Tensor, usable: Tensor, signals: Signals) -> Tensor:
    """x permuted among the usable samples; the same for the same samples in the same order at the same progress."""
    text = "\n".join([*signals.sample_ids, repr(signals.progress)])
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    places = usable.nonzero().squeeze(1)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).to(places.device)
    x = x.clone()
    x[places] = x[places[order]]
    return x


def frozen_alpha(distance: Tensor, k: Schedule) -> Tensor:
    """(B,): alpha averaged over progress from 0 to 1, by the midpoint rule."""
    ks = torch.tensor([k((i + 0.5) / POINTS) for i in range(POINTS)], dtype=torch.float64, device=distance.device)
    return torch.exp(-torch.exp(clamped(distance.unsqueeze(1) * ks) / 2)).mean(1)


def matching(z: Tensor) -> float:
    """c with mean(exp(-exp(z / 2 + c))) = 1/e, by bisection: the mean falls as c grows. 0 for no samples.

    At c = -max(z) / 2 every alpha is at least 1/e, at -min(z) / 2 at most: the root lies between.
    """
    if not len(z):
        return 0.0
    half = z.double().cpu() / 2  # one transfer, not one a step
    low, high = -float(half.max()), -float(half.min())
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if float(torch.exp(-torch.exp(half + middle)).mean()) > CONSTANT:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _named(both: dict[str, TokenLoss], kind: str) -> dict[str, Any]:
    """What the objectives inside log, under their place: `distillation.kl`."""
    return {f"{place}.{name}": v for place, out in both.items() for name, v in getattr(out, kind).items()}
