"""Speakers of the lab: an espeak accent, a variant of the voice, a rate and a pitch, with a stable name.

Variants, not accents, keep the splits apart: every accent is spoken in every split, but never by the same voice.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import numpy as np

from stillsmall.speech_lab import espeak

MEN = ("m1", "m2", "m3", "m7")
WOMEN = ("f1", "f2", "f4")
PEOPLE = ("Annie", "Alex", "steph", "max", "rob", "adam", "linda", "Mario", "Michael")
LEARNING = MEN + WOMEN + PEOPLE
# The teacher may have heard the voices that a student trains on, as a large recogniser has; none of `test`.
VARIANTS = {
    "teacher": LEARNING,
    "train": LEARNING,
    "dev": ("m5", "f5", "john", "Gene"),
    "test": ("m4", "m6", "m8", "f3", "belinda", "Mike"),
}
RATES = (145, 155, 165, 175, 185, 195)  # words per minute
PITCHES = (36, 43, 50, 57, 64)  # espeak's 0..99
PITCH_RANGES = (40, 50, 60)
ENGLISH = re.compile(r"[A-Za-z]+(?: [A-Za-z]+)*")


@dataclass(frozen=True)
class Voice:
    """One speaker, e.g. en-us+f2-r165-p43-v50."""

    accent: str
    variant: str
    rate: int
    pitch: int
    pitch_range: int

    @property
    def name(self) -> str:
        """Stable id of the speaker."""
        return f"{self.accent}+{self.variant}-r{self.rate}-p{self.pitch}-v{self.pitch_range}"

    def speak(self, text: str) -> np.ndarray:
        """Samples of `text` without the silence around it; English in Mandarin is spoken by the same variant."""
        ssml = self.accent == "cmn" and ENGLISH.search(text) is not None
        if ssml:
            text = ENGLISH.sub(lambda run: f'<voice name="en-us+{self.variant}">{run.group(0)}</voice>', text)
            text = f"<speak>{text}</speak>"
        return trim(espeak.speak(text, f"{self.accent}+{self.variant}", self.rate, self.pitch, self.pitch_range, ssml))


def choose(accents: tuple[str, ...], split: str, chance: random.Random) -> Voice:
    """One random speaker of a split."""
    accent, variant = chance.choice(accents), chance.choice(VARIANTS[split])
    return Voice(accent, variant, chance.choice(RATES), chance.choice(PITCHES), chance.choice(PITCH_RANGES))


def trim(audio: np.ndarray) -> np.ndarray:
    """Without the leading and trailing samples 46 dB below the peak: segment times then mean speech."""
    if not audio.size:
        return audio
    loud = np.flatnonzero(np.abs(audio) > 0.005 * np.abs(audio).max())
    return audio[loud[0] : loud[-1] + 1] if loud.size else audio[:0]
