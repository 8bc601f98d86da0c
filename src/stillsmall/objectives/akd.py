"""AKD, adversarial distillation: the student says on attacked audio what the teacher says on clean audio.

Reconstructed from an abstract; the attack is FGSM (Goodfellow et al. 2015, 1412.6572) on the log-mel input x (on the
waveform for CTC), against the student's own agreement with the teacher:

    x' = x + epsilon * sign(d KL(teacher(x) || student(x)) / dx)
    L = (1 - share) inner(x) + share * T^2 KL(teacher(x) || student(x'))

With epsilon = 0 nothing is asked twice, and kd inside is kd: its weights times (1 - share), and share more of the KL.
Costs two more passes of the student, and one backward pass to its input, a step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from stillsmall.objectives.base import Models, Signals, TokenLoss, require, token_kl
from stillsmall.objectives.teaching import Teaching


class AdversarialDistillation(Teaching):
    class Config(Teaching.Config):
        share: Annotated[float, Field(ge=0, le=1)]
        epsilon: Annotated[float, Field(ge=0)]
        temperature: Annotated[float, Field(gt=0)]

    own = frozenset({"teacher", "models"})

    def forward(self, signals: Signals) -> TokenLoss:
        require(signals, self.needs_at(signals.progress), self.path)
        assert signals.models is not None and signals.teacher_logits is not None
        out, share = self.inner.forward(signals), self.config.share
        student = signals.student_logits
        if self.config.epsilon and share:
            student = signals.models.student(mels=self.attacked(signals.models, signals))
        kl = token_kl(signals.teacher_logits.detach(), student, signals.mask, self.config.temperature)
        loss = (1.0 - share) * out.per_token + share * kl
        return replace(out, per_token=loss, parts={**out.parts, "attacked_kl": kl.detach()})

    def attacked(self, models: Models, signals: Signals) -> Tensor:
        """The input moved by epsilon, in each value, where the KL grows; no gradient is left on any weight."""
        assert signals.teacher_logits is not None
        heard = models.mels().requires_grad_(True)
        with torch.enable_grad():
            kl = token_kl(
                signals.teacher_logits.detach(), models.student(mels=heard), signals.mask, self.config.temperature
            )
            (gradient,) = torch.autograd.grad(kl.sum(), heard)
        return (heard + self.config.epsilon * gradient.sign()).detach()
