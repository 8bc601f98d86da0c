"""What teacher and student hear of examples: clean or augmented, now or ahead of time, or as kept encoder states."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from stillsmall.augmentation import Augmentation, at_speed
from stillsmall.config import Params
from stillsmall.data import Audio, Batch
from stillsmall.encoder_states import EncoderStates
from stillsmall.families.base import Family
from stillsmall.multi_process import Team
from stillsmall.progress import progress

ENCODED_AT_ONCE = 32  # clips; whatever the micro-batch is, so that the kept bits are the same
Kind = tuple[bool, bool]  # whether by the teacher's own processor, and whether augmented
Key = tuple[Kind, int, tuple[int, ...]]  # with the epoch and the clips


@dataclass(frozen=True)
class Hearing:
    """What teacher and student hear of examples, and encoder states wherever an encoder does not change."""

    params: Params
    family: Family
    processor: Any
    clips: Audio
    audio: str  # its digest
    augmentation: Augmentation
    teacher_processor: Any | None = None  # where it isn't the student's
    wanted: set[Kind] = field(default_factory=set)  # what models hear in training, other than by kept encoder states
    held: dict[Key, Tensor] = field(default_factory=dict)  # heard ahead of time

    def __call__(self, index: tuple[int, ...]) -> Tensor:
        """Clean clips as they were said, for the student."""
        return self._clean((False, False), index)

    def _clean(self, kind: Kind, index: tuple[int, ...]) -> Tensor:
        found = None if self.augmentation.moves else self.held.get((kind, 0, index))
        return self._features(kind, [self.clips(i) for i in index]) if found is None else found

    def _features(self, kind: Kind, clips: list[np.ndarray]) -> Tensor:
        return self.family.features(self.teacher_processor if kind[0] else self.processor, clips)

    def student(self, batch: Batch) -> Tensor:
        return self._heard(batch, self.kind(teacher=False))

    def teacher(self, batch: Batch) -> Tensor:
        return self._heard(batch, self.kind(teacher=True))

    def kind(self, teacher: bool) -> Kind:
        return teacher and self.teacher_processor is not None, self.changed(teacher)

    def changed(self, teacher: bool) -> bool:
        """Whether it is in a room, noise or masks that teacher or student hear."""
        return self.augmentation.changes and (not teacher or self.params.augment.teacher_hears == "same")

    def unchanging(self, teacher: bool) -> bool:
        """Whether a clip sounds the same in every epoch, so that encoder states can be kept."""
        return not self.changed(teacher) and not self.augmentation.moves

    def _key(self, batch: Batch, kind: Kind) -> Key:
        return kind, batch.epoch if kind[1] or self.augmentation.moves else 0, batch.index

    def _heard(self, batch: Batch, kind: Kind) -> Tensor:
        found = self.held.get(self._key(batch, kind))
        return self._hear(batch, kind) if found is None else found

    def _hear(self, batch: Batch, kind: Kind) -> Tensor:
        """A micro-batch at its speed in this epoch; augmented, in its room, with noise and masks."""
        examples = [self.augmentation.example(self.clips.found[i], batch.epoch) for i in batch.index]
        clips = [at_speed(self.clips(i), e.speed, e.samples) for i, e in zip(batch.index, examples, strict=True)]
        if not kind[1]:
            return self._features(kind, clips)
        clips = [self.augmentation.clip(c, e.utt_id, batch.epoch) for c, e in zip(clips, examples, strict=True)]
        return self.augmentation.masks(self._features(kind, clips), examples, batch.epoch)

    def prepare(self, batch: Batch) -> None:
        """Hears ahead of time, in the loader's thread, what the models will ask for."""
        for kind in self.wanted:
            self.held[self._key(batch, kind)] = self._hear(batch, kind)

    def forget(self, batch: Batch) -> None:
        for kind in self.wanted:
            self.held.pop(self._key(batch, kind), None)

    def states(self, model: Any, team: Team, teacher: bool = False) -> EncoderStates | None:
        """Of a frozen encoder, computed once by the first process; None where there is none, or it hears new things."""
        encoder = self.family.encoder(model)
        if encoder is None:
            return None
        if not self.unchanging(teacher):
            if team.first and self.params.distill.encoder_cache_gb:
                who = "teacher" if teacher else "student"
                print(f"augment: the {who} hears clips anew in each epoch: encoder states are live", file=sys.stderr)
            return None
        kind = (self.kind(teacher)[0], False)
        hear = functools.partial(self._clean, kind)
        made = EncoderStates(encoder, hear, self.clips, self.audio, self.params.distill.encoder_cache_gb)
        if team.first:
            with progress("encode", len(self.clips.found)) as advance:
                made.fill(ENCODED_AT_ONCE, advance)
        team.wait()
        if not team.first:  # finds it filled
            made.fill(ENCODED_AT_ONCE, lambda by: None)
        if not made.cached:
            self.wanted.add(kind)
        return made
