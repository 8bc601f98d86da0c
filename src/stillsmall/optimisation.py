"""How weights move: AdamW, the learning rate's schedule, clipping, and float16's loss scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stillsmall import compute
from stillsmall.config import Distill


def autocast(device: torch.device, dtype: str) -> Any:
    """bf16/fp16 arithmetic over float32 weights where it is asked for."""
    return torch.autocast(device.type, compute.dtype(dtype), enabled=dtype != "float32")


def learning_rate_factor(config: Distill, step: int) -> float:
    """The schedule's factor at a step: warm-up from 1/w, then linear or half a cosine to 0 at `steps`, or constant."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    u = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return {"linear": 1.0 - u, "cosine": 0.5 * (1.0 + math.cos(math.pi * u)), "constant": 1.0}[config.schedule]


class Optimiser:
    """AdamW (1711.05101) over float32 weights; a step that is not taken leaves weights and moments as they were.

    float16 has few exponents: its loss is multiplied by a scale that gradients are divided by before they are looked
    at (1710.03740). Where they overflow, the step is skipped and the scale halved.
    """

    def __init__(
        self, config: Distill, parameters: Sequence[Tensor], device: torch.device, factors: Sequence[float] = ()
    ) -> None:
        """`factors` are on the learning rate of each parameter; none: they are all 1."""
        self.config, self.parameters = config, list(parameters)
        given = list(factors) or [1.0] * len(self.parameters)
        pairs = list(zip(self.parameters, given, strict=True))
        self.factors = list(dict.fromkeys(given))  # one group of parameters each
        self.adam = torch.optim.AdamW(
            [{"params": [p for p, own in pairs if own == factor]} for factor in self.factors],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(config.betas[0], config.betas[1]),
            eps=config.eps,
            fused=device.type == "cuda",
        )
        self.scaler = torch.amp.GradScaler(device.type) if config.dtype == "float16" else None

    def rate(self, step: int) -> float:
        """Sets the learning rates of a step (from 0); the student's."""
        rate = self.config.learning_rate * learning_rate_factor(self.config, step)
        for group, factor in zip(self.adam.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        return rate

    def backward(self, loss: Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def unscale(self) -> None:
        """Divides the gradients by the loss scale; once a step, when all of them are there."""
        if self.scaler is not None:
            self.scaler.unscale_(self.adam)

    def norm(self) -> float:
        """The L2 norm of all gradients, as it was before they are clipped to `clip_norm`."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm))

    def step(self) -> None:
        if self.scaler is None:
            self.adam.step()
        else:
            self.scaler.step(self.adam)
            self.scaler.update()
        self.adam.zero_grad(set_to_none=True)

    def skip(self) -> bool:
        """Forgets the gradients; whether they may have been float16's overflow, which a smaller scale mends."""
        self.adam.zero_grad(set_to_none=True)
        if self.scaler is None:
            return False
        mendable = self.scaler.get_scale() > 1.0
        self.scaler.update()
        return mendable

    def state(self) -> dict[str, Any] | None:
        """The loss scale, for a checkpoint's memory; None where there is none."""
        return None if self.scaler is None else self.scaler.state_dict()

    def restore(self, state: dict[str, Any] | None) -> None:
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)
