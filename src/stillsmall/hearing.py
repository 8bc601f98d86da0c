"""What teacher and student hear of examples: clean or augmented, now or ahead of time, or as kept encoder states."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from stillsmall.augmentation import Augmentation, at_speed
from stillsmall.config import Params
from stillsmall.data import Audio, Batch
from stillsmall.encoder_states import EncoderStates
from stillsmall.families.base import Family
from stillsmall.multi_process import Team
from stillsmall.progress import progress

Key = tuple[bool, int, tuple[int, ...]]  # whether it is augmented, the epoch, the clips


@dataclass(frozen=True)
class Hearing:
    """What teacher and student hear of examples, and encoder states wherever an encoder does not change."""

    params: Params
    family: Family
    processor: Any
    clips: Audio
    audio: str  # its digest
    augmentation: Augmentation
    wanted: set[bool] = field(default_factory=set)  # what models hear in training: augmented clips, clean ones, neither
    held: dict[Key, Tensor] = field(default_factory=dict)  # heard ahead of time

    def __call__(self, index: tuple[int, ...]) -> Tensor:
        """Clean clips, as they were said."""
        if not self.augmentation.moves and (False, 0, index) in self.held:
            return self.held[(False, 0, index)]
        return self.family.features(self.processor, [self.clips(i) for i in index])

    def student(self, batch: Batch) -> Tensor:
        return self._heard(batch, self.changed(teacher=False))

    def teacher(self, batch: Batch) -> Tensor:
        return self._heard(batch, self.changed(teacher=True))

    def changed(self, teacher: bool) -> bool:
        """Whether it is in a room, noise or masks that teacher or student hear."""
        return self.augmentation.changes and (not teacher or self.params.augment.teacher_hears == "same")

    def unchanging(self, teacher: bool) -> bool:
        """Whether a clip sounds the same in every epoch, so that encoder states can be kept."""
        return not self.changed(teacher) and not self.augmentation.moves

    def _key(self, batch: Batch, changed: bool) -> Key:
        return (changed, batch.epoch if changed or self.augmentation.moves else 0, batch.index)

    def _heard(self, batch: Batch, changed: bool) -> Tensor:
        found = self.held.get(self._key(batch, changed))
        return self._hear(batch, changed) if found is None else found

    def _hear(self, batch: Batch, changed: bool) -> Tensor:
        """A micro-batch at its speed in this epoch, with its room, noise and masks where it is `changed`."""
        examples = [self.augmentation.example(self.clips.found[i], batch.epoch) for i in batch.index]
        clips = [at_speed(self.clips(i), e.speed, e.duration_s) for i, e in zip(batch.index, examples, strict=True)]
        if not changed:
            return self.family.features(self.processor, clips)
        clips = [self.augmentation.clip(c, e.utt_id, batch.epoch) for c, e in zip(clips, examples, strict=True)]
        return self.augmentation.masks(self.family.features(self.processor, clips), examples, batch.epoch)

    def prepare(self, batch: Batch) -> None:
        """Hears ahead of time, in the loader's thread, what the models will ask for."""
        for changed in self.wanted:
            self.held[self._key(batch, changed)] = self._hear(batch, changed)

    def forget(self, batch: Batch) -> None:
        for changed in self.wanted:
            self.held.pop(self._key(batch, changed), None)

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
        made = EncoderStates(encoder, self, self.clips, self.audio, self.params.distill.encoder_cache_gb)
        for turn in (True, False):
            if team.first is turn:
                with progress("encode", len(self.clips.found)) as advance:
                    made.fill(self.params.distill.micro_batch, advance)
            team.wait()
        if not made.cached:
            self.wanted.add(False)
        return made
