"""What a student that shrinks while it trains asks of the training loop; one interface for every kind.

Of each optimiser step the loop calls, in this order:

    loss = ... + shrinker.penalty()                     once a step, not once a micro-batch
    loss.backward()
    shrinker.after_backward(student)                    all gradients of the step are there, not yet clipped
    optimizer.step()
    shrinker.after_step(student, optimizer, progress)   progress = (step + 1) / steps: 1 after the last

and at the end `smaller = shrinker.finish(student)`. The optimiser moves `trained()` as well as the student. A shrinker
is a module: its buffers and parameters (`state_dict`) are part of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stillsmall.config import ConfigError, Shrinking
from stillsmall.students.layers import SIDES


def cubic(progress: float, start: float, end: float) -> float:
    """How much is still to go: 1 until `start`, (1 - x)^3 between, 0 from `end` on (Zhu & Gupta 2017; HomoDistil)."""
    x = min(1.0, max(0.0, (progress - start) / (end - start)))
    return (1.0 - x) ** 3


class Shrinker(torch.nn.Module):
    """Base of all: how many layers each side has (`sizes`) and is to have (`targets`)."""

    def __init__(self, config: Shrinking, student: Any, path: str = "student.pruning") -> None:
        """Raises ConfigError for more layers than the student starts with."""
        super().__init__()
        self.path, self.device = path, next(student.parameters()).device
        self.start, self.end = config.start, config.end
        self.sizes = {side: len(student.get_submodule(f"model.{side}.layers")) for side in SIDES}
        self.targets = {side: getattr(config, f"{side}_layers") or self.sizes[side] for side in SIDES}
        for side in SIDES:
            if self.targets[side] > self.sizes[side]:
                raise ConfigError(
                    f"{path}.{side}_layers: got {self.targets[side]}; the student starts with {self.sizes[side]} "
                    f"(student.{side}_layers)"
                )

    def remaining(self, side: str, progress: float) -> float:
        """How many layers of a side the schedule leaves, as a real number that comes down from all to the target."""
        return self.targets[side] + (self.sizes[side] - self.targets[side]) * self.to_go(progress)

    def to_go(self, progress: float) -> float:
        return cubic(progress, self.start, self.end)

    def trained(self) -> Mapping[str, torch.nn.Parameter]:
        """Parameters besides the student's that the optimiser moves, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def penalty(self) -> Tensor:
        """() nats to add to the step's loss, as of the progress that the last step ended at; 0 here."""
        return torch.zeros((), device=self.device)

    def after_backward(self, student: Any) -> None:
        """Looks at the gradients of a whole step."""

    def after_step(self, student: Any, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Takes away what the schedule has come to."""

    def finish(self, student: Any) -> Any:
        """A new, smaller model that computes what `student` computes; has exactly the size asked for."""
        raise TypeError(f"{type(self).__name__} has no way to shrink")

    def values(self) -> dict[str, float]:
        """What is left, for the log."""
        return {}


def layers_of(model: Any, side: str) -> Any:
    """The layers of one side, in order."""
    return model.get_submodule(f"model.{side}.layers")


def branches(layer: Any) -> list[torch.nn.Linear]:
    """The last matrices of a layer's residual branches: with all of them zero, a layer passes its input on."""
    attentions = [layer.self_attn, *([layer.encoder_attn] if hasattr(layer, "encoder_attn") else [])]
    return [*(attention.out_proj for attention in attentions), layer.fc2]


def lowest(scores: Tensor, alive: Tensor, keep: int) -> Tensor:
    """`alive` without its lowest scores, `keep` of them left; equal scores go from the end."""
    order = scores.masked_fill(~alive, -torch.inf).sort(descending=True, stable=True).indices
    left = torch.zeros_like(alive)
    left[order[:keep]] = True
    return left & alive
