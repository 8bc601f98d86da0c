"""A student that teaches itself: an average of its weights over the steps, or a snapshot of one step.

Only what training changes is held twice; frozen parameters (a frozen encoder, positions) are the student's own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

TAKEN = "self_teacher.taken"
STEPS = "self_teacher.steps"


class SelfTeacherError(ValueError):
    """A self teacher that does not fit the student or the checkpoint that it is asked to follow."""


class SelfTeacher:
    """Holds `model`, a frozen copy of the student in evaluation mode, which the trainer asks for self_logits.

    ema: w <- decay * w + (1 - decay) * student after each step; snapshot: the student as it was at progress `begins`,
    taken once. `ready` says whether `model` is that yet; until then it is the student as it was given.
    """

    def __init__(self, student: Any, kind: Literal["ema", "snapshot"], decay: float | None, begins: float) -> None:
        """SelfTeacherError for a kind or decay that cannot be."""
        if kind not in ("ema", "snapshot"):
            raise SelfTeacherError(f"self teacher: unknown kind '{kind}'; have: ema, snapshot")
        if kind == "ema" and (decay is None or not 0 <= decay < 1):
            raise SelfTeacherError(f"self teacher: an average needs a decay in [0, 1), got {decay}")
        self.kind, self.decay, self.begins = kind, decay, begins
        self._steps, self._taken = torch.tensor(0), torch.tensor(kind == "snapshot" and begins <= 0)  # the copy is it
        self.held = [name for name, p in student.named_parameters() if p.requires_grad]
        self.model = _shadow(student)

    @property
    def steps(self) -> int:
        return int(self._steps)

    @property
    def taken(self) -> bool:
        return bool(self._taken)

    @property
    def ready(self) -> bool:
        return self.kind == "ema" or self.taken

    def follow(self, student: Any, step: int, progress: float) -> None:
        """Call after each optimiser step, with the number of steps and the progress that it ended at.

        The average moves; the snapshot is taken when `progress` first reaches `begins`.
        """
        if self.kind == "ema":
            self.update(student, step)
        elif not self.taken and progress >= self.begins:
            self.snapshot(student)

    @torch.no_grad()
    def update(self, student: Any, step: int) -> None:
        """The average after `step` steps; a step that it has seen (on resuming) is not counted again."""
        if step <= self.steps:
            return
        assert self.decay is not None
        for mine, theirs in self._pairs(student):
            if mine.is_floating_point():
                mine.lerp_(theirs.to(mine.dtype), 1.0 - self.decay)
            else:
                mine.copy_(theirs)
        self._steps.fill_(step)

    @torch.no_grad()
    def snapshot(self, student: Any) -> None:
        """The student as it is now. SelfTeacherError if there is one already: it is taken exactly once."""
        if self.taken:
            raise SelfTeacherError("self teacher: the snapshot has been taken already")
        for mine, theirs in self._pairs(student):
            mine.copy_(theirs)
        self._taken.fill_(True)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint holds: weights of its own, how many steps it has seen, whether the snapshot was taken."""
        return {name: value.detach().clone().contiguous() for name, value in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """The same, not copied: what is written into them is what it holds."""
        return {**self._own(self.model), STEPS: self._steps, TAKEN: self._taken}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Bit for bit what `state_dict` gave. SelfTeacherError where names or shapes differ."""
        own = self._own(self.model)
        if set(state) != {*own, STEPS, TAKEN}:
            differ = sorted(set(state) ^ {*own, STEPS, TAKEN})
            raise SelfTeacherError(f"self teacher: the checkpoint is of another student; differing: {differ[:5]}")
        for name, mine in own.items():
            if mine.shape != state[name].shape:
                raise SelfTeacherError(
                    f"self teacher: {name} is {tuple(state[name].shape)} in the checkpoint, {tuple(mine.shape)} here"
                )
            mine.copy_(state[name])
        self._steps.copy_(state[STEPS])
        self._taken.copy_(state[TAKEN])

    def _own(self, model: Any) -> dict[str, Tensor]:
        """The tensors that are held twice: trained parameters and buffers (a normalisation's running means)."""
        parameters = dict(model.named_parameters())
        buffers = {f"buffer.{name}": value for name, value in model.named_buffers()}
        return {**{name: parameters[name] for name in self.held if name in parameters}, **buffers}

    def _pairs(self, student: Any) -> list[tuple[Tensor, Tensor]]:
        if new := [name for name, p in student.named_parameters() if p.requires_grad and name not in self.held]:
            raise SelfTeacherError(f"self teacher: {new[0]} is trained now, but was frozen when the student was copied")
        mine, theirs = self._own(self.model), self._own(student)
        changed = sorted(n for n in mine.keys() | theirs.keys() if n not in mine or n not in theirs)
        changed += [n for n in mine.keys() & theirs.keys() if mine[n].shape != theirs[n].shape]
        if changed:
            raise SelfTeacherError(
                f"self teacher: the student's shape has changed since it was copied ({changed[0]}); a student that is "
                "pruned while it learns cannot be averaged with itself"
            )
        return [(mine[name], theirs[name]) for name in mine]


def _shadow(student: Any) -> Any:
    """A copy of the modules, of trained parameters and of buffers; frozen parameters are shared, none is trained."""
    shared = {id(p): p for p in student.parameters() if not p.requires_grad}
    model = copy.deepcopy(student, shared)
    model.requires_grad_(False)
    return model.eval()
