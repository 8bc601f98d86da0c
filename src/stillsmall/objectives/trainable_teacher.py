"""Teachers that learn as well: by low-rank adapters (okd) or with weights of their own (joint)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from stillsmall.config import ConfigError
from stillsmall.objectives.base import Signals
from stillsmall.objectives.teaching import Teaching


class TrainableTeacher(Teaching):
    """Base of them: what the teacher trains is part of this module, so of the optimiser and of the checkpoint.

    The teacher's logits are asked for live, with gradients; the inner objective hears them detached.
    """

    class Config(Teaching.Config):
        learning_rate_factor: Annotated[float, Field(gt=0)]

    own = frozenset({"models"})
    teacher_learns = True
    gives = frozenset({"teacher"})

    def __init__(self, config: Any, path: str = "objectives") -> None:
        super().__init__(config, path)
        self.learning_rate_factor = config.learning_rate_factor
        self.of_teacher = torch.nn.ParameterDict()

    def require_teacher(self, teacher: Any | None) -> Any:
        if teacher is None:
            raise ConfigError(f"{self.path}: its teacher learns too, so a teacher must be given")
        return teacher

    def hold(self, parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
        """Makes the teacher's parameters (the same objects) trained parameters of this objective."""
        for name, parameter in parameters:
            self.of_teacher[name.replace(".", "/")] = parameter.requires_grad_(True)  # a module's names hold no dot

    def live_logits(self, signals: Signals) -> Tensor:
        assert signals.models is not None
        return signals.models.teacher()


def side(model: Any, part: Literal["decoder", "encoder"]) -> tuple[str, Any]:
    """(name, module) of a model's decoder or encoder, wherever it keeps it: the shortest name that ends so."""
    found = [(name, module) for name, module in model.named_modules() if name.split(".")[-1] == part]
    if not found:
        raise LookupError(part)
    return min(found, key=lambda entry: len(entry[0]))
