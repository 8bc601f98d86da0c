"""OKD, online knowledge distillation (Rao et al. 2024, 2409.12512): small modules on a frozen teacher learn along.

Reconstructed from the abstract. The online modules are low-rank adapters (LoRA, 2106.09685) on linear maps of the
teacher's last `layers` layers (of the decoder; of the encoder for CTC). Both learn in the same step:

    online:  CE(y, online) + student_weight * T^2 KL(stopgrad(student) || online)
    student: the inner objective (kd), its teacher being stopgrad(online)

Adapters start at zero, so the first step is exactly the inner objective with the teacher as it was given; with
student_weight = 0 the student never reaches the teacher.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field

from stillsmall import compute
from stillsmall.config import ConfigError
from stillsmall.objectives.base import Signals, TokenLoss, require, task_loss, token_kl
from stillsmall.objectives.trainable_teacher import TrainableTeacher, side
from stillsmall.plugins import nearest


class OnlineTeacher(TrainableTeacher):
    class Config(TrainableTeacher.Config):
        layers: Annotated[int, Field(gt=0)]
        modules: Annotated[list[str], Field(min_length=1)]
        rank: Annotated[int, Field(gt=0)]
        alpha: Annotated[float, Field(gt=0)]
        student_weight: Annotated[float, Field(ge=0)]
        temperature: Annotated[float, Field(gt=0)]

    def attach(self, student: Any, teacher: Any | None) -> None:
        """Adds the adapters to the teacher, in place; the same ones each time, so that a checkpoint fits them."""
        super().attach(student, teacher)
        model = self.require_teacher(teacher)
        from peft import LoraConfig, inject_adapter_in_model

        device = next(model.parameters()).device
        config = LoraConfig(
            r=self.config.rank, lora_alpha=self.config.alpha, target_modules=self._targets(model), lora_dropout=0.0
        )
        with torch.random.fork_rng(devices=[]):  # a start of its own, that moves nobody's seed
            torch.manual_seed(compute.seed("okd", self.config.rank, self.config.layers))
            inject_adapter_in_model(config, model, adapter_name="online")
        model.to(device).eval()
        self.hold((name, p) for name, p in model.named_parameters() if ".online." in name)

    def _targets(self, model: Any) -> list[str]:
        """The full names of the linear maps in the last layers."""
        decodes = getattr(model.config, "is_encoder_decoder", False)
        place, stack = side(model, "decoder" if decodes else "encoder")
        count = len(stack.layers)
        if self.config.layers > count:
            raise ConfigError(f"{self.path}.layers: got {self.config.layers}; the teacher has {count} there")
        found = dict[str, str]()
        for number in range(count - self.config.layers, count):
            for name, module in stack.layers[number].named_modules():
                if isinstance(module, torch.nn.Linear):
                    found[f"{place}.layers.{number}.{name}"] = name.split(".")[-1]
        for wanted in self.config.modules:
            if wanted not in found.values():
                raise ConfigError(f"{self.path}.modules: got '{wanted}'; {nearest(wanted, set(found.values()))}")
        return [full for full, last in found.items() if last in self.config.modules]

    def forward(self, signals: Signals) -> TokenLoss:
        require(signals, self.needs_at(signals.progress), self.path)
        online = self.live_logits(signals)
        out = self.inner.forward(replace(signals, teacher_logits=online.detach()))
        ce = task_loss(signals, online)
        own, parts = ce, {"online_ce": ce.detach()}
        if self.config.student_weight:
            kl = token_kl(signals.student_logits.detach(), online, signals.mask, self.config.temperature)
            own, parts["online_kl"] = own + self.config.student_weight * kl, kl.detach()
        return replace(out, per_token=out.per_token + own, parts={**out.parts, **parts})
