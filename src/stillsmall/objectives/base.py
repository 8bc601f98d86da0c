"""What an objective sees and gives: signals in, one loss per unit out. The one reduction of all objectives is here.

A unit is a position of the text for a sequence-to-sequence model (Whisper) and a frame of the audio for a CTC model
(wav2vec2, HuBERT). Every objective is written for (B, U) units and so serves both families.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from stillsmall.config import Section

IGNORED = -100  # label of a position without loss


class ObjectiveError(ValueError):
    """Signals that an objective cannot work with: something it needs is absent, or shapes do not fit."""


class Models(Protocol):
    """The live models behind a micro-batch, for objectives that ask them again with other inputs.

    `inputs` are the (B, T) decoder inputs (None for CTC). Each call returns (B, U, V) logits; what is not given is the
    micro-batch's own. Gradients reach the student's weights, the teacher's where they are trainable, and `mels`.
    `states` are the student's (B, P, D) encoder states of the micro-batch, without gradients (None for CTC).
    """

    inputs: Tensor | None

    def mels(self) -> Tensor:
        """(B, M, F) log-mel features (CTC: the (B, samples) waveform), in memory of their own."""
        ...

    def student(self, inputs: Tensor | None = None, mels: Tensor | None = None) -> Tensor: ...

    def teacher(self, inputs: Tensor | None = None, mels: Tensor | None = None) -> Tensor: ...

    def states(self) -> Tensor | None: ...


@dataclass(frozen=True)
class Signals:
    """One micro-batch. B clips, U units, T label positions (T = U for sequence-to-sequence), V tokens, D features."""

    student_logits: Tensor  # (B, U, V)
    labels: Tensor  # (B, T): the token after each position; for CTC the text's tokens. IGNORED where there is none
    sample_ids: tuple[str, ...]  # B
    progress: float  # u = step / total steps, in [0, 1)
    teacher_logits: Tensor | None = None  # (B, U, V), on exactly the student's decoder inputs
    more_teacher_logits: tuple[Tensor, ...] = ()  # of further teachers, each (B, U, V)
    self_logits: Tensor | None = None  # (B, U, V), of an average or snapshot of the student
    student_hidden: tuple[Tensor, ...] | None = None  # one (B, U, D) per (decoder) layer, embedding first
    teacher_hidden: tuple[Tensor, ...] | None = None
    frames: Tensor | None = None  # CTC alone: (B, U) bool, frames of audio rather than padding
    blank: int = 0  # CTC alone: the blank's token
    models: Models | None = None

    @property
    def mask(self) -> Tensor:
        """(B, U) bool: units that have a loss."""
        return self.labels != IGNORED if self.frames is None else self.frames


@dataclass(frozen=True)
class TokenLoss:
    """(B, U) losses, zero where masked, and what is logged: parts by unit, values of the step, values by sample."""

    per_token: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)  # each (B, U), detached
    values: dict[str, float] = field(default_factory=dict)  # of the micro-batch: weights, schedules; an int is a count
    samples: dict[str, Tensor] = field(default_factory=dict)  # each (B,), detached: a column of the table by sample


class Objective(torch.nn.Module):
    """Base of all objectives. As a module, its buffers and parameters are part of the checkpoint.

    `needs` names the signals it must be given: what no objective needs is never loaded or computed.
    teacher: teacher_logits; teachers: more_teacher_logits too; self: self_logits; hidden: both hidden tuples;
    models: `models`, the teacher loaded and its cached outputs ruled out (teacher_logits only with "teacher").

    With "self" among the needs, `self_kind` (ema or snapshot), `self_decay` (of the average) and `self_from` (the
    progress from which self_logits are used; a snapshot is taken there) say how the self teacher is held.
    """

    Config: ClassVar[type[Section]] = Section
    needs: frozenset[str] = frozenset()
    self_kind: str | None = None
    self_decay: float | None = None
    self_from: float | None = None
    teacher_learns: bool = False  # then the teacher's own loss is part of per_token
    learning_rate_factor: float = 1.0  # of this objective's own trained parameters, on the student's learning rate

    def __init__(self, config: Any, path: str = "objectives") -> None:
        """`path` is the dotted path of the section, for errors. Wrappers build their inner objectives here."""
        super().__init__()
        self.config, self.path = config, path

    def forward(self, signals: Signals) -> TokenLoss:
        raise TypeError(f"{type(self).__name__} has no loss of its own")

    @property
    def temperature(self) -> float:
        """The temperature at which the teacher is heard: its own, that of the first one inside that hears it, or 1."""
        if hasattr(self.config, "temperature"):
            return float(self.config.temperature)
        return next((inner.temperature for inner in self.nested() if "teacher" in inner.needs), 1.0)

    def nested(self) -> Iterator[Objective]:
        """The objectives directly inside this one: the calls below reach them too, so an own version calls super's."""
        return (module for module in self.children() if isinstance(module, Objective))

    def attach(self, student: Any, teacher: Any | None) -> None:
        """Called once, before any checkpoint is read: may add modules to the models or look at their shapes.

        Raises ConfigError for models that the objective cannot work with, before training starts.
        """
        for objective in self.nested():
            objective.attach(student, teacher)

    def before_training(self, teacher_loss: TeacherLoss) -> None:
        """Called once at step 0 (not on resuming: what it finds belongs into buffers)."""
        for objective in self.nested():
            objective.before_training(teacher_loss)

    def after_step(self, student: Any, progress: float) -> None:
        """Called after each optimiser step, with the progress that the step ended at."""
        for objective in self.nested():
            objective.after_step(student, progress)

    def of_self(self) -> Objective | None:
        """The objective, this one or one inside, whose self_kind, self_decay and self_from hold; None without any."""
        found = (m for m in self.modules() if isinstance(m, Objective) and m.self_kind is not None)
        return next(found, None)

    def trained(self) -> Mapping[str, torch.nn.Parameter]:
        """Parameters besides the student's that the optimiser moves, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate of each of `trained`, by name: the innermost objective's that holds it."""
        found = {}
        for place, module in self.named_modules():  # outer before inner
            if isinstance(module, Objective):
                for name, _ in module.named_parameters(prefix=place):
                    found[name] = module.learning_rate_factor
        return {name: found[name] for name in self.trained()}

    def needs_at(self, progress: float) -> frozenset[str]:
        """The needs at a step's progress: signals of `needs` that aren't among them may be left out of the step."""
        return self.needs


class TeacherLoss(Protocol):
    """Asks the teacher for its own loss on training samples."""

    def __call__(self, most: int) -> Tensor:
        """(N,) mean nats per unit of at most `most` samples, spread over the data by the run's seed."""
        ...


def task_loss(signals: Signals, logits: Tensor | None = None) -> Tensor:
    """(B, U) task loss in nats, of the student or of `logits`: cross-entropy by token, or CTC over the frames."""
    given = signals.student_logits if logits is None else logits
    return token_cross_entropy(signals, given) if signals.frames is None else frame_ctc(signals, given)


def token_cross_entropy(signals: Signals, logits: Tensor | None = None) -> Tensor:
    """(B, T) cross-entropy in nats, zero where masked; computed in float32 (float64 stays)."""
    given = _at_least_float32(signals.student_logits if logits is None else logits)
    loss = torch.nn.functional.cross_entropy(
        given.flatten(0, 1), signals.labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return loss.view_as(signals.labels)


def frame_ctc(signals: Signals, logits: Tensor) -> Tensor:
    """(B, F): each frame of a clip holds the clip's CTC loss in nats per token (its loss over its label's length).

    So a clip's mean is that figure, and means over frames weigh clips by their length, as the KL over frames does.
    A label that no alignment fits (more tokens than frames) has an infinite loss: it is 0 here, as for an empty clip.
    """
    assert signals.frames is not None
    lengths = (signals.labels != IGNORED).sum(1)
    targets = signals.labels[signals.labels != IGNORED]
    log_probs = _at_least_float32(logits).log_softmax(-1).transpose(0, 1)
    total = torch.nn.functional.ctc_loss(
        log_probs, targets, signals.frames.sum(1), lengths, blank=signals.blank, reduction="none", zero_infinity=True
    )
    return (total / lengths.clamp(min=1)).unsqueeze(1) * signals.frames


def token_kl(target_logits: Tensor, student_logits: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """(B, U) T^2 * KL(softmax(target / T) || softmax(student / T)), nats, summed over the vocabulary; 0 where masked.

    Raises ObjectiveError where the vocabularies differ in size.
    """
    if target_logits.shape != student_logits.shape:
        raise ObjectiveError(
            f"teacher logits are {tuple(target_logits.shape)} and student logits {tuple(student_logits.shape)}; "
            "a distillation loss over tokens needs one vocabulary and the same positions"
        )
    p = (_at_least_float32(target_logits) / temperature).log_softmax(-1)
    q = (_at_least_float32(student_logits) / temperature).log_softmax(-1)
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    return temperature**2 * kl.masked_fill(~mask, 0.0)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def sample_mean(per_token: Tensor, mask: Tensor) -> Tensor:
    """(B,): the mean over a sample's unmasked units; 0 for a sample without any."""
    return (per_token * mask).sum(1) / mask.sum(1).clamp(min=1)


def reduce(per_token: Tensor, tokens: int) -> Tensor:
    """The step's loss from a micro-batch's: its sum over the unmasked units of the *whole* optimiser step."""
    return per_token.sum() / max(tokens, 1)


def require(signals: Signals, needs: frozenset[str], path: str) -> None:
    """ObjectiveError where a needed signal is not there."""
    given = {
        "teacher": signals.teacher_logits,
        "teachers": signals.more_teacher_logits or None,
        "self": signals.self_logits,
        "hidden": signals.teacher_hidden,
        "models": signals.models,
    }
    lacking = sorted(need for need in needs if given[need] is None)
    if lacking:
        raise ObjectiveError(f"{path} needs {', '.join(lacking)} signals, which were not given")
