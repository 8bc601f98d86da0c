"""Sequence-level distillation (Kim & Rush 2016, 1606.07947, section 3.2): the teacher's text is the label.

    L = -log p_s(y_t | x),    y_t = the teacher's best transcript (beam or greedy), one a clip

The sum over all texts in KL(p_t(y|x) || p_s(y|x)) is put on its mode y_t. By its numbers it is `ce` on pseudo-labels;
what the name says is that nothing but text is asked of the teacher: no teacher is loaded, no vocabulary is shared, so
the labels may come from CTranslate2, a remote service or a teacher of another family. On transcripts by people `ce`
is the name. Works for CTC too.
"""

from __future__ import annotations

from stillsmall.config import Section
from stillsmall.objectives.base import Objective, Signals, TokenLoss, task_loss


class SequenceLevel(Objective):
    class Config(Section):
        pass

    def forward(self, signals: Signals) -> TokenLoss:
        loss = task_loss(signals)
        return TokenLoss(loss, {"ce": loss.detach()})
