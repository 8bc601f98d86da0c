"""Several teachers at once, weighed per sample (Yuan et al. 2021, 2012.06048); reconstructed from summaries of it.

The inner objective hears one teacher, the mixture p(v) = sum_k w_k softmax(z_k)(v), as its logarithm. The weights w_k
of a sample sum to 1:
mean: 1/K; agreement: softmax over k of sharpness * a_k, where a_k = -KL(p_k || mean of all p), averaged over the
sample's units (nats); learned: a policy selects each teacher with probability sigmoid(weight . (CE of the teacher on
the label, a_k) + bias), and the selected share the weight; none selected -> mean. The policy is trained by REINFORCE
with -(the sample's inner loss) as the reward and a running mean of it as the baseline; draws depend on the sample's id
and the progress alone. One teacher is the inner objective exactly.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from stillsmall import compute
from stillsmall.objectives.base import ObjectiveError, Signals, TokenLoss, require, sample_mean, task_loss
from stillsmall.objectives.teaching import Teaching


class MultiTeacher(Teaching):
    class Config(Teaching.Config):
        combine: Literal["mean", "agreement", "learned"]
        sharpness: Annotated[float, Field(ge=0)]
        learning_rate_factor: Annotated[float, Field(gt=0)]
        baseline_decay: Annotated[float, Field(ge=0, lt=1)]

    own = frozenset({"teacher", "teachers"})
    baseline: Tensor

    def __init__(self, config: Any, path: str = "objectives") -> None:
        super().__init__(config, path)
        if config.combine == "learned":
            self.learning_rate_factor = config.learning_rate_factor
            self.policy = torch.nn.Linear(2, 1)
            torch.nn.init.zeros_(self.policy.weight)  # a coin at first, and no draw from anyone's seed
            torch.nn.init.zeros_(self.policy.bias)
            self.register_buffer("baseline", torch.tensor(math.nan))  # of the reward; nan: none yet

    def forward(self, signals: Signals) -> TokenLoss:
        # one teacher alone is a case of it, so that an ablation over their number has its first point
        require(signals, self.needs_at(signals.progress) - {"teachers"}, self.path)
        assert signals.teacher_logits is not None
        teachers = (signals.teacher_logits, *signals.more_teacher_logits)
        if any(z.shape != teachers[0].shape for z in teachers):
            shapes = [tuple(z.shape) for z in teachers]
            raise ObjectiveError(f"{self.path}: teachers of different vocabularies or positions: {shapes}")
        log_p = torch.stack([_wide(z.detach()).log_softmax(-1) for z in teachers])  # (K, B, U, V)
        agreement = _agreement(log_p, signals.mask)
        if self.config.combine != "learned":
            sharpness = self.config.sharpness if self.config.combine == "agreement" else 0.0
            weights = (sharpness * agreement).softmax(0)
            return self._inner(signals, log_p, weights)
        return self._selected(signals, log_p, agreement)

    def _inner(self, signals: Signals, log_p: Tensor, weights: Tensor) -> TokenLoss:
        mixture = (weights.log()[:, :, None, None] + log_p).logsumexp(0) if len(log_p) > 1 else log_p[0]
        out = self.inner.forward(replace(signals, teacher_logits=mixture))
        samples = {f"teacher_{k + 1}_weight": weight for k, weight in enumerate(weights)}
        return replace(out, samples={**out.samples, **samples})

    def _selected(self, signals: Signals, log_p: Tensor, agreement: Tensor) -> TokenLoss:
        losses = torch.stack([sample_mean(task_loss(signals, z), signals.mask) for z in log_p])  # (K, B)
        logits = self.policy(torch.stack([losses, agreement], -1).to(self.policy.weight.dtype)).squeeze(-1)
        chosen = (_draws(signals, len(log_p), logits) < logits.detach().sigmoid()).to(logits.dtype)
        counts = chosen.sum(0)
        weights = torch.where(counts > 0, chosen / counts.clamp(min=1), 1.0 / len(log_p))
        out = self._inner(signals, log_p, weights.to(log_p.dtype))
        reward = -sample_mean(out.per_token.detach(), signals.mask).to(logits.dtype)
        advantage = self._advantage(reward, signals.mask.any(1))
        chance = -torch.nn.functional.binary_cross_entropy_with_logits(logits, chosen, reduction="none").sum(0)
        policy = (-advantage * chance).unsqueeze(1) * signals.mask
        values = {**out.values, "selected": float(chosen.mean())}
        parts = {**out.parts, "policy": policy.detach()}
        # its gradient reaches the policy alone; its value is no loss of the student's, so it adds nothing to the sum
        return replace(out, per_token=out.per_token + policy - policy.detach(), parts=parts, values=values)

    def _advantage(self, reward: Tensor, real: Tensor) -> Tensor:
        """(B,) reward over the baseline so far, which then moves towards this micro-batch's mean."""
        if not real.any():
            return torch.zeros_like(reward)
        mean = reward[real].mean()
        baseline = mean if self.baseline.isnan() else self.baseline.to(mean)
        decay = self.config.baseline_decay
        self.baseline.copy_(decay * baseline + (1.0 - decay) * mean)
        return reward - baseline


def _agreement(log_p: Tensor, mask: Tensor) -> Tensor:
    """(K, B) minus the mean KL in nats of each teacher to the mean of all."""
    mean = log_p.logsumexp(0) - math.log(len(log_p))
    kl = (log_p.exp() * (log_p - mean)).sum(-1)  # (K, B, U)
    return -torch.stack([sample_mean(k, mask) for k in kl])


def _draws(signals: Signals, teachers: int, like: Tensor) -> Tensor:
    """(K, B) numbers in [0, 1), each a function of the sample's id, the progress and the teacher's number."""
    rows = [
        [compute.seed("multi_teacher", name, signals.progress, k) / (1 << 63) for name in signals.sample_ids]
        for k in range(teachers)
    ]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
