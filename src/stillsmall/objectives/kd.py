"""Knowledge distillation as in Distil-Whisper (2311.00430, section 3):

    L = ce_weight * CE(y) + kl_weight * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))

The public code weighs 0.8 (CE) and 1.0 (KL) with T = 2, as K2D (2407.10603) does; the paper's text says 1.0 and 0.8.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from stillsmall.config import Section
from stillsmall.objectives.base import Objective, Signals, TokenLoss, require, task_loss, token_kl


class KnowledgeDistillation(Objective):
    class Config(Section):
        ce_weight: Annotated[float, Field(ge=0)]
        kl_weight: Annotated[float, Field(ge=0)]
        temperature: Annotated[float, Field(gt=0)]

        @model_validator(mode="after")
        def _some_weight(self) -> KnowledgeDistillation.Config:
            if self.ce_weight == self.kl_weight == 0:
                raise ValueError("ce_weight and kl_weight are both 0: there would be nothing to learn from")
            return self

    needs = frozenset({"teacher"})

    def forward(self, signals: Signals) -> TokenLoss:
        require(signals, self.needs, self.path)
        assert signals.teacher_logits is not None
        ce = task_loss(signals)
        kl = token_kl(signals.teacher_logits.detach(), signals.student_logits, signals.mask, self.config.temperature)
        loss = self.config.ce_weight * ce + self.config.kl_weight * kl
        return TokenLoss(loss, {"ce": ce.detach(), "kl": kl.detach()})
