"""DR-KD: a teacher that is wrong about a token is put right before it is listened to.

Where argmax z_t != y, the two logits z_t[argmax] and z_t[y] change places, on a copy, so that the label is the most
probable token and all other probabilities stay; then the inner objective (kd). Nothing changes where the teacher is
right. (As in the authors' code; the same swap is "probability shift" in Wen et al. 2019, 1911.07471, section 3.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from stillsmall.objectives.base import Signals, TokenLoss, require
from stillsmall.objectives.teaching import Teaching, refuse_frames, require_text_positions


class RightedTeacher(Teaching):
    class Config(Teaching.Config):
        pass

    def attach(self, student: Any, teacher: Any | None) -> None:
        require_text_positions(student, self.path, "drkd compares the teacher with the label of each position")
        super().attach(student, teacher)

    def forward(self, signals: Signals) -> TokenLoss:
        require(signals, self.needs_at(signals.progress), self.path)
        refuse_frames(signals, self.path)
        if signals.teacher_logits is None:  # an inner objective that has done with its teacher
            return self.inner.forward(signals)
        righted, wrong = right(signals.teacher_logits, signals.labels, signals.mask)
        out = self.inner.forward(replace(signals, teacher_logits=righted))
        return replace(out, parts={**out.parts, "righted": wrong.to(out.per_token.dtype)})


def right(logits: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(logits with the label on top, (B, T) bool: where they were changed); the logits given stay as they are."""
    best = logits.argmax(-1, keepdim=True)
    label = labels.clamp(min=0).unsqueeze(-1)
    wrong = mask.unsqueeze(-1) & (best != label)
    label = label.where(wrong, best)  # where nothing is wrong, a place changes with itself
    swapped = logits.clone()
    swapped.scatter_(-1, best, logits.gather(-1, label)).scatter_(-1, label, logits.gather(-1, best))
    return swapped, wrong.squeeze(-1)
