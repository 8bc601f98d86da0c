"""Label smoothing (1512.00567): a share of every target goes to all tokens alike. Needs no teacher.

    L = (1 - epsilon) * task + epsilon * mean over the vocabulary of -log q

For text this is the cross-entropy against the mixture m = (1 - epsilon) * label + epsilon * uniform, so
KL(m || q) and a constant, the entropy of m. CTC has no label by frame to mix: there the second term stands next to
the CTC loss, frame by frame, after 1711.02212, which draws CTC's frames towards uniform (the exact form of the term
is reconstructed).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from stillsmall.config import Section
from stillsmall.objectives.base import Objective, Signals, TokenLoss, task_loss


class LabelSmoothing(Objective):
    class Config(Section):
        epsilon: Annotated[float, Field(ge=0, le=1)]  # the paper's: 0.1

    def forward(self, signals: Signals) -> TokenLoss:
        epsilon = self.config.epsilon
        task, uniform = task_loss(signals), uniform_cross_entropy(signals.student_logits, signals.mask)
        loss = (1 - epsilon) * task + epsilon * uniform
        return TokenLoss(loss, {"ce": task.detach(), "uniform": uniform.detach()})


def uniform_cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """(B, U) nats: -log q averaged over the vocabulary; zero where masked."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -logits.log_softmax(-1).mean(-1).masked_fill(~mask, 0.0)
