"""Iterative pruning: the student starts as the teacher and loses its least important parts while it is distilled.

HomoDistil (Liang et al. 2023, 2302.09632). Importance of a part, an exponential average over steps:
    I <- decay * I + (1 - decay) * sum over the part's weights of |theta * dL/dtheta|
and the kept fraction comes down along a cubic from 1 to its target between `start` and `end` of training. Parts are the
feed-forward units (a row of fc1, its bias, a column of fc2), ranked within their layer because Whisper has one width a
side; and whole layers, ranked within their side.

Not the attention heads: Whisper takes a head's width from d_model / heads, so that a layer with fewer heads of the same
width is a model that transformers cannot load. d_model stays too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stillsmall.config import ConfigError, IterativePruning
from stillsmall.students.layers import SIDES, rebuilt
from stillsmall.students.shrinking import Shrinker, branches, layers_of, lowest


class Iterative(Shrinker):
    """Zeroes what is pruned after each step and holds it there; `finish` takes it out of the matrices.

    A pruned unit computes 0 (gelu(0) = 0), a pruned layer passes its input on, and neither has a gradient, so what is
    gone stays gone and `finish` changes no output.
    """

    def __init__(self, config: IterativePruning, student: Any, path: str = "student.pruning") -> None:
        """Raises ConfigError where a side that is to shrink is frozen, or has fewer layers than asked for."""
        super().__init__(config, student, path)
        self.decay = config.decay
        self.widths = {side: int(getattr(student.config, f"{side}_ffn_dim")) for side in SIDES}
        shares = {side: float(getattr(config, f"{side}_ffn")) for side in SIDES}
        self.kept_units = {side: max(1, round(shares[side] * self.widths[side])) for side in SIDES}
        self.sides = [s for s in SIDES if self.kept_units[s] < self.widths[s] or self.targets[s] < self.sizes[s]]
        if not self.sides:
            raise ConfigError(
                f"{path}: encoder_ffn {config.encoder_ffn}, decoder_ffn {config.decoder_ffn} and these layers leave "
                "the student as it is; give a share below 1 or a number of layers below its own"
            )
        for side in self.sides:
            _require_gradients(student, side, path)
            for name, shape in (("units", (self.sizes[side], self.widths[side])), ("layers", (self.sizes[side],))):
                self.register_buffer(f"{side}_{name}_importance", torch.zeros(shape, device=self.device))
                self.register_buffer(f"{side}_{name}", torch.ones(shape, dtype=torch.bool, device=self.device))

    @torch.no_grad()
    def after_backward(self, student: Any) -> None:
        for side in self.sides:
            layers = layers_of(student, side)
            units = torch.stack([unit_importance(layer) for layer in layers])
            whole = torch.stack([layer_importance(layer) for layer in layers])
            for name, now in (("units", units), ("layers", whole)):
                self.get_buffer(f"{side}_{name}_importance").lerp_(now.float(), 1.0 - self.decay)

    @torch.no_grad()
    def after_step(self, student: Any, optimizer: torch.optim.Optimizer, progress: float) -> None:
        for side in self.sides:
            self._rank(side, progress)
            for number, layer in enumerate(layers_of(student, side)):
                self._zero(layer, side, number, optimizer)

    def finish(self, student: Any) -> Any:
        with torch.no_grad():  # a run that ended early, or never stepped, still ends at the size asked for
            for side in self.sides:
                self._rank(side, 1.0)
                for number, layer in enumerate(layers_of(student, side)):
                    self._zero(layer, side, number, None)
        layers = {side: self._alive(side) for side in SIDES}
        columns = {
            side: [self.get_buffer(f"{side}_units")[layer].nonzero().flatten() for layer in layers[side]]
            for side in self.sides
        }
        return rebuilt(student, student.state_dict(), layers, columns)

    def values(self) -> dict[str, float]:
        left = {f"{side}_units": float(self.get_buffer(f"{side}_units").float().mean()) for side in self.sides}
        return left | {f"{side}_layers": float(len(self._alive(side))) for side in self.sides}

    def _alive(self, side: str) -> list[int]:
        if side not in self.sides:
            return list(range(self.sizes[side]))
        return [int(i) for i in self.get_buffer(f"{side}_layers").nonzero().flatten()]

    def _rank(self, side: str, progress: float) -> None:
        """Takes the least important out of the masks until as many are left as the schedule says."""
        keep = self.kept_units[side] + (self.widths[side] - self.kept_units[side]) * self.to_go(progress)
        units, scores = self.get_buffer(f"{side}_units"), self.get_buffer(f"{side}_units_importance")
        for number in range(self.sizes[side]):
            units[number] = lowest(scores[number], units[number], round(keep))
        layers = self.get_buffer(f"{side}_layers")
        kept = round(self.remaining(side, progress))
        layers.copy_(lowest(self.get_buffer(f"{side}_layers_importance"), layers, kept))

    def _zero(self, layer: Any, side: str, number: int, optimizer: torch.optim.Optimizer | None) -> None:
        """Zeroes weights of what is pruned, and the optimiser's moments of them, which would move them again."""
        gone = ~self.get_buffer(f"{side}_units")[number]
        for tensor in _with_moments(layer.fc1.weight, optimizer):
            tensor[gone] = 0
        for tensor in _with_moments(layer.fc1.bias, optimizer):
            tensor[gone] = 0
        for tensor in _with_moments(layer.fc2.weight, optimizer):
            tensor[:, gone] = 0
        if not self.get_buffer(f"{side}_layers")[number]:
            for matrix in branches(layer):
                for parameter in (matrix.weight, matrix.bias):
                    for tensor in _with_moments(parameter, optimizer):
                        tensor.zero_()


def unit_importance(layer: Any) -> Tensor:
    """(F,) sum of |theta * dL/dtheta| over each feed-forward unit: row of fc1, its bias, column of fc2."""
    rows = (layer.fc1.weight * layer.fc1.weight.grad).abs().sum(1)
    return rows + (layer.fc1.bias * layer.fc1.bias.grad).abs() + (layer.fc2.weight * layer.fc2.weight.grad).abs().sum(0)


def layer_importance(layer: Any) -> Tensor:
    """() the same over all weights of a layer."""
    terms = [(p * p.grad).abs().sum() for p in layer.parameters() if p.grad is not None]
    return torch.stack(terms).sum()


def _with_moments(parameter: Tensor, optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    state = optimizer.state.get(parameter, {}) if optimizer else {}
    return [parameter, *(t for t in state.values() if isinstance(t, Tensor) and t.shape == parameter.shape)]


def _require_gradients(student: Any, side: str, path: str) -> None:
    for name, parameter in layers_of(student, side).named_parameters():
        if not parameter.requires_grad:
            raise ConfigError(
                f"{path}: {side}.layers.{name} is frozen (student.freeze), and importance is read from gradients; "
                f"leave the {side}'s layers free or do not shrink them"
            )
