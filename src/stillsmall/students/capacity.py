"""Capacity-dynamic distillation: the student starts with more layers and loses them by gates that it learns.

Reconstructed; the paper's text was not available. Each layer has a gate g, 1 at first, that scales the last matrix of
each of its residual branches: at 0 the layer passes its input on. A schedule n(u) comes down along a cubic from the
layers at the start to the target. With gates ranked by |g|, rank r = 0 the largest, the compression loss
    weight * sum over r of max(0, |g_r| - d_r)^2,   d_r = min(1, max(0, n(u) - r))
presses only the gates that the schedule has no room for, most of all the weakest: the task's loss decides which those
are. A gate is 1 + gate_speed * a with a trained from 0: Adam moves any number by about the learning rate a step, and a
gate has to get from 1 to 0 within the run. Where n(u) reaches a whole number the weakest gates are closed for good, so
that exactly the target remains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stillsmall.config import CapacityDynamic, ConfigError
from stillsmall.students.layers import SIDES, rebuilt
from stillsmall.students.shrinking import Shrinker, branches, layers_of, lowest


class Capacity(Shrinker):
    """Gates on the layers of each side that is to shrink. The student computes through them until `finish`."""

    def __init__(self, config: CapacityDynamic, student: Any, path: str = "student.pruning") -> None:
        """Puts the gates on `student`. Raises ConfigError where no side shrinks."""
        super().__init__(config, student, path)
        self.weight, self.speed = config.weight, config.gate_speed
        self.sides = [side for side in SIDES if self.targets[side] < self.sizes[side]]
        if not self.sides:
            raise ConfigError(
                f"{path}: encoder_layers {config.encoder_layers} and decoder_layers {config.decoder_layers} leave all "
                f"{self.sizes['encoder']} and {self.sizes['decoder']} layers of the student; give a number below"
            )
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self._hooks: list[Any] = []
        for side in self.sides:
            moved = torch.nn.Parameter(torch.zeros(self.sizes[side], device=self.device))
            self.register_parameter(f"{side}_moved", moved)
            self.register_buffer(f"{side}_open", torch.ones(self.sizes[side], dtype=torch.bool, device=self.device))
            for number, layer in enumerate(layers_of(student, side)):
                hook = _scaled(moved, self.get_buffer(f"{side}_open"), self.speed, number)
                self._hooks += [matrix.register_forward_hook(hook) for matrix in branches(layer)]

    def penalty(self) -> Tensor:
        total = torch.zeros((), device=self.device)
        for side in self.sides:
            ranked = self.gates(side)[self.get_buffer(f"{side}_open")].abs().sort(descending=True).values
            ranks = torch.arange(len(ranked), device=self.device)
            room = (self.remaining(side, float(self.get_buffer("progress"))) - ranks).clamp(0.0, 1.0)
            total = total + (ranked - room).clamp(min=0.0).square().sum()
        return self.weight * total

    @torch.no_grad()
    def after_step(self, student: Any, optimizer: torch.optim.Optimizer, progress: float) -> None:
        self.get_buffer("progress").fill_(progress)
        for side in self.sides:
            self._close(side, progress)

    @torch.no_grad()
    def finish(self, student: Any) -> Any:
        for side in self.sides:
            self._close(side, 1.0)
        self.release()
        state = {name: value.clone() for name, value in student.state_dict().items()}
        layers = {side: list(range(self.sizes[side])) for side in SIDES}
        for side in self.sides:
            layers[side] = [int(i) for i in self.get_buffer(f"{side}_open").nonzero().flatten()]
            gates = self.gates(side)
            names = {module: name for name, module in student.named_modules()}
            for number in layers[side]:
                for matrix in branches(layers_of(student, side)[number]):
                    for part in ("weight", "bias"):
                        state[f"{names[matrix]}.{part}"] *= gates[number]
        return rebuilt(student, state, layers)

    def release(self) -> None:
        """Takes the gates off the student, which then computes as if all were 1."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def values(self) -> dict[str, float]:
        return {
            f"{side}_{name}": value
            for side in self.sides
            for name, value in (
                ("layers", float(self.get_buffer(f"{side}_open").sum())),
                ("gates", float(self.gates(side).detach().abs().sum())),
            )
        }

    def gates(self, side: str) -> Tensor:
        """(L,) the gates of a side that shrinks; 0 where closed."""
        return (1.0 + self.speed * self.get_parameter(f"{side}_moved")) * self.get_buffer(f"{side}_open")

    def _close(self, side: str, progress: float) -> None:
        """Closes the weakest gates for which the schedule has no room left, not even a part."""
        opened = self.get_buffer(f"{side}_open")
        opened.copy_(lowest(self.gates(side).abs(), opened, math.ceil(self.remaining(side, progress))))


def _scaled(moved: Tensor, opened: Tensor, speed: float, number: int) -> Callable[[Any, Any, Tensor], Tensor]:
    """A forward hook, output * gate. A plain function: copies of the student (an average of it) keep the same gates."""

    def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
        return output * ((1.0 + speed * moved[number]) * opened[number]).to(output.dtype)

    return hook
