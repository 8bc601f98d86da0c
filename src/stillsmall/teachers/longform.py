"""Recordings longer than a window: Whisper's sequential reading, window after window, or quiet cuts in one batch.

Only the window in hand is turned into features, so that memory does not grow with the recording.
Sequential: Radford et al. 2022 (arXiv 2212.04356), section 3.8 and their published `transcribe`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stillsmall.audio import SAMPLE_RATE, pieces
from stillsmall.teachers.base import Clip, Segment
from stillsmall.whisper_tokens import TIME_STEP_S, WhisperTokens

STEP = round(TIME_STEP_S * SAMPLE_RATE)  # samples of one timestamp
FORGET_ABOVE = 0.5  # text sampled at a higher temperature is no context for what follows (Whisper's rule)


@dataclass
class Recording:
    """A recording and how far it has been heard. `at` is the first sample of the next window."""

    clip: Clip
    language: str | None
    at: int = 0
    segments: list[Segment] = field(default_factory=list)
    previous: list[int] = field(default_factory=list)  # text tokens heard so far, for the next window's prompt

    @property
    def done(self) -> bool:
        return self.at >= len(self.clip.audio)

    def window(self, samples: int) -> np.ndarray:
        return self.clip.audio[self.at : self.at + samples]

    def hear(self, tokens: Sequence[int], words: WhisperTokens, samples: int, temperature: float) -> None:
        """Takes in what was decoded from the window in hand, and moves on to where the next one starts."""
        length = min(samples, len(self.clip.audio) - self.at)
        parts, advance = closed(tokens, words, length)
        for start, end, ids in parts:
            text, last = words.text(ids), self.segments[-1].end if self.segments else 0.0
            begin, stop = (round(min(self.at + s, len(self.clip.audio)) / SAMPLE_RATE, 3) for s in (start, end))
            begin = max(begin, last)
            if text and stop > begin:
                self.segments.append(Segment(begin, stop, text))
            self.previous += [t for t in ids if t < words.end]
        if temperature > FORGET_ABOVE:
            self.previous.clear()
        self.at += advance

    def skip(self, samples: int) -> None:
        """Moves on by a window in which nobody speaks."""
        self.at += min(samples, len(self.clip.audio) - self.at)


def closed(tokens: Sequence[int], words: WhisperTokens, length: int) -> tuple[list[tuple[int, int, list[int]]], int]:
    """([(start, end, text ids)] in samples from the window's start, samples to move on) of one window's tokens.

    Segments that both timestamps close are taken. If another one has begun, the next window starts with it; otherwise
    the window is done. Without two timestamps in a row the whole window is one segment. Never moves on by nothing.
    """
    ids = [t for t in tokens if t != words.end]
    time = [t >= words.timestamp_begin for t in ids]
    turns = [i for i in range(1, len(ids)) if time[i] and time[i - 1]]
    complete = len(ids) >= 2 and time[-1] and not time[-2]
    if not turns:
        stamps = [_samples(t, words) for t, is_time in zip(ids, time, strict=True) if is_time]
        start = stamps[0] if len(stamps) > 1 else 0
        end = stamps[-1] if stamps and stamps[-1] > start else length
        return [(start, min(end, length), [t for t in ids if t < words.end])], length
    ends = [*turns, len(ids)] if complete else turns
    found, begin = [], 0
    for end in ends:
        part = ids[begin:end]
        found.append((_samples(part[0], words), min(_samples(part[-1], words), length), part))
        begin = end
    advance = length if complete else min(_samples(ids[turns[-1] - 1], words), length)
    return found, advance if advance >= STEP else length


def _samples(token: int, words: WhisperTokens) -> int:
    return max(0, token - words.timestamp_begin) * STEP


def cuts(clip: Clip, samples: int) -> list[tuple[int, np.ndarray]]:
    """(first sample, audio) of windows that follow each other, cut where it is quietest; nothing is lost."""
    return list(pieces([clip.audio], samples / SAMPLE_RATE))
