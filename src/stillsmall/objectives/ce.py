"""Fine-tuning on (pseudo-)labels: token cross-entropy. The baseline of every paper here; it needs no teacher."""

from __future__ import annotations

from typing import ClassVar

from stillsmall.config import Section
from stillsmall.objectives.base import Signals, TokenLoss, token_cross_entropy


class CrossEntropy:
    class Config(Section):
        pass

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: Config) -> None:
        self.config = config

    def forward(self, signals: Signals) -> TokenLoss:
        loss = token_cross_entropy(signals)
        return TokenLoss(loss, {"ce": loss.detach()})
