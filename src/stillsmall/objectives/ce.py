"""Fine-tuning on (pseudo-)labels: the task's own loss. The baseline of every paper here; it needs no teacher."""

from __future__ import annotations

from stillsmall.config import Section
from stillsmall.objectives.base import Objective, Signals, TokenLoss, task_loss


class CrossEntropy(Objective):
    """Cross-entropy by token for sequence-to-sequence models, CTC for CTC models."""

    class Config(Section):
        pass

    def forward(self, signals: Signals) -> TokenLoss:
        loss = task_loss(signals)
        return TokenLoss(loss, {"ce": loss.detach()})
