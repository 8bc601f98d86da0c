"""Joint ("real-time") distillation: teacher and student train at the same time. Reconstructed from an abstract.

    teacher: teacher_weight * CE(y, z_t)
    student: the inner objective (kd), its teacher being stopgrad(z_t), the distribution of this very step

The teacher moves at `learning_rate_factor` times the student's rate: its decoder (`trains: decoder`, its encoder stays
as it was) or all of it. It is asked without dropout. Nothing of the student's loss reaches it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from stillsmall.config import ConfigError
from stillsmall.objectives.base import Signals, TokenLoss, require, task_loss
from stillsmall.objectives.trainable_teacher import TrainableTeacher, side


class JointTraining(TrainableTeacher):
    class Config(TrainableTeacher.Config):
        teacher_weight: Annotated[float, Field(gt=0)]
        trains: Literal["decoder", "all"]

    def attach(self, student: Any, teacher: Any | None) -> None:
        super().attach(student, teacher)
        model = self.require_teacher(teacher)
        if self.config.trains == "all":
            trained = list(model.named_parameters())
        else:
            try:
                place, decoder = side(model, "decoder")
            except LookupError:
                raise ConfigError(f"{self.path}.trains: got 'decoder', which a CTC teacher has not; use all") from None
            trained = [(f"{place}.{name}", p) for name, p in decoder.named_parameters()]
        fixed = "encoder.embed_positions.weight"  # sinusoids, which Whisper never trains
        self.hold((name, p) for name, p in trained if not name.endswith(fixed))

    def forward(self, signals: Signals) -> TokenLoss:
        require(signals, self.needs_at(signals.progress), self.path)
        live = self.live_logits(signals)
        out = self.inner.forward(replace(signals, teacher_logits=live.detach()))
        ce = task_loss(signals, live)
        loss = out.per_token + self.config.teacher_weight * ce
        return replace(out, per_token=loss, parts={**out.parts, "teacher_ce": ce.detach()})
