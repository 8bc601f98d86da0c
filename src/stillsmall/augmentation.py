"""What the student hears in place of a clean clip: faster or slower, in a room, in noise, with parts of it masked.

Every draw is a function of seed, utterance and epoch: a resumed run hears what it would have heard.
Speed is a change of the clip itself: labels' times move with it, and a teacher hears it, too. All else is the student's
alone unless `teacher_hears` is `same`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from stillsmall import audio, cache, compute
from stillsmall.config import Augment, ConfigError
from stillsmall.data import Example

MEL_STEP_S = 0.01  # between two frames of a log-mel spectrogram
NOISES_IN_MEMORY = 256


@dataclass(frozen=True)
class Augmentation:
    """The section `augment` at work. `fits` says whether the model can take an example whole."""

    config: Augment
    seed: int
    noises: tuple[Path, ...]
    fits: Callable[[Example], bool]

    @property
    def moves(self) -> bool:
        """Whether clips change in length, for student and teacher."""
        return self.config.speed_probability > 0

    @property
    def changes(self) -> bool:
        """Whether the student hears anything but the clean clip (at whatever speed)."""
        at = self.config
        return any((at.reverb_probability, at.noise_probability, at.mask_probability))

    def _dice(self, kind: str, utt_id: str, epoch: int) -> np.random.Generator:
        return np.random.default_rng(compute.seed(self.seed, "augment", kind, epoch, utt_id))

    def example(self, example: Example, epoch: int) -> Example:
        """The example at the speed of this epoch; as it is where the slower one would not fit the model."""
        if not self.moves:
            return example
        dice = self._dice("speed", example.utt_id, epoch)
        if dice.random() >= self.config.speed_probability:
            return example
        factor = float(dice.choice(self.config.speed_factors))
        segments = tuple((start / factor, end / factor, text) for start, end, text in example.segments)
        changed = replace(example, speed=factor, segments=segments)
        return changed if self.fits(changed) else example

    def clip(self, clean: np.ndarray, utt_id: str, epoch: int) -> np.ndarray:
        """(samples,) at its speed, with this epoch's room and noise; its length does not change."""
        from stillsmall.speech_lab.rooms import add_noise

        at = self.config
        dice = self._dice("reverb", utt_id, epoch)
        if clean.size and dice.random() < at.reverb_probability:
            clean = reverberated(clean, _within(at.reverb_rt60_s, dice), _within(at.reverb_wet, dice), dice)
        dice = self._dice("noise", utt_id, epoch)
        if clean.size and dice.random() < at.noise_probability:
            clean = add_noise(clean, self._noise(clean.size, dice), _within(at.noise_snr_db, dice))
        return clean

    def _noise(self, samples: int, dice: np.random.Generator) -> np.ndarray:
        from stillsmall.speech_lab import rooms

        if not self.noises:
            kinds = {"white": rooms.white, "pink": rooms.pink}
            return kinds[str(dice.choice(self.config.noise_kinds))](samples, dice)
        found = _recorded(self.noises[int(dice.integers(len(self.noises)))])
        return np.resize(np.roll(found, -int(dice.integers(found.size))), samples)

    def mask(self, features: Tensor, example: Example, epoch: int) -> Tensor:
        """(mels, frames) with SpecAugment's masks (1904.08779, section 2, without warping) in the clip's own frames.

        A mask holds the clip's mean, which is the paper's zero of a normalised spectrogram.
        """
        dice = self._dice("mask", example.utt_id, epoch)
        if dice.random() >= self.config.mask_probability:
            return features
        at, (mels, frames) = self.config, features.shape
        heard = max(1, min(frames, round(example.duration_s / MEL_STEP_S)))
        masked = features.clone()
        mean = features[:, :heard].mean()
        for _ in range(at.frequency_masks):
            width = int(dice.integers(0, min(at.frequency_mask_bins, mels) + 1))
            begin = int(dice.integers(0, mels - width + 1))
            masked[begin : begin + width, :heard] = mean
        longest = min(round(at.time_mask_s / MEL_STEP_S), int(at.time_mask_share * heard))
        for _ in range(at.time_masks):
            width = int(dice.integers(0, longest + 1))
            begin = int(dice.integers(0, heard - width + 1))
            masked[:, begin : begin + width] = mean
        return masked

    def masks(self, features: Tensor, examples: list[Example], epoch: int) -> Tensor:
        """`mask` of each of (B, mels, frames)."""
        if not self.config.mask_probability:
            return features
        return torch.stack([self.mask(f, e, epoch) for f, e in zip(features, examples, strict=True)])


def _within(bounds: list[float], dice: np.random.Generator) -> float:
    return float(dice.uniform(bounds[0], bounds[1]))


def at_speed(clean: np.ndarray, factor: float, samples: int) -> np.ndarray:
    """(samples,): the clip played `factor` times as fast, pitch and all (Ko et al. 2015)."""
    if factor == 1.0:
        return clean
    made = soxr.resample(clean, audio.SAMPLE_RATE * factor, audio.SAMPLE_RATE)
    return np.pad(made, (0, max(0, samples - made.size)))[:samples].astype(np.float32)


def reverberated(clean: np.ndarray, rt60: float, wet: float, dice: np.random.Generator) -> np.ndarray:
    """In a synthetic room whose sound falls by 60 dB in `rt60` seconds, as loud as before."""
    from stillsmall.speech_lab.rooms import reverberate, rms

    made = reverberate(clean, rt60, wet, dice)
    return (made * (rms(clean) / max(rms(made), 1e-12))).astype(np.float32)


@functools.lru_cache(NOISES_IN_MEMORY)
def _recorded(path: Path) -> np.ndarray:
    return audio.decode(path)


def noise_files(root: str, folder: str | None) -> tuple[Path, ...]:
    """The recordings of `augment.noise_folder` under `data.root`; ConfigError where there are none."""
    if folder is None:
        return ()
    found = sorted(p for p in (Path(root) / folder).rglob("*") if p.suffix.lower() in audio.SUFFIXES)
    if not found:
        raise ConfigError(f"augment.noise_folder: no audio file in {Path(root) / folder} (it is under data.root)")
    return tuple(found)


def identity(config: Augment, noises: tuple[Path, ...]) -> list[object]:
    """What the student's hearing depends on, for the name of a run's checkpoints."""
    return [config.model_dump(), [(path.name, cache.file_digest(path)) for path in noises]]
