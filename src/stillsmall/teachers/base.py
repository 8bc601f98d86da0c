"""What a teacher takes and gives: clips in, hypotheses out, each with its measures of confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from stillsmall.audio import SAMPLE_RATE


@dataclass(frozen=True)
class Clip:
    """Audio to transcribe: float32, 16 kHz mono, any length. `language` None: detect it."""

    utt_id: str
    audio: np.ndarray  # (samples,)
    language: str | None

    @property
    def duration_s(self) -> float:
        return len(self.audio) / SAMPLE_RATE


@dataclass(frozen=True)
class Segment:
    """Text between two times, in seconds from the clip's start."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Hypothesis:
    """One transcript of at most one window of audio: the row of `manifest.HYPOTHESIS`.

    `tokens` are the generated ids up to and with the end of text; log-probabilities and entropies (nats) are theirs,
    from a teacher-forced pass, so that greedy, beam and long-form decoding are measured alike. The means leave
    timestamps out: those are unsure by nature, and a label is not worse for having them.
    """

    utt_id: str
    parent: str
    start_s: float
    end_s: float
    language: str
    text: str
    segments: tuple[Segment, ...]
    tokens: tuple[int, ...]
    token_logprob: tuple[float, ...] | None = None
    token_entropy: tuple[float, ...] | None = None
    mean_logprob: float | None = None
    mean_entropy: float | None = None
    compression_ratio: float | None = None
    no_speech_prob: float | None = None

    def as_row(self) -> dict[str, Any]:
        segments = [{"start": s.start, "end": s.end, "text": s.text} for s in self.segments]
        return {**self.__dict__, "segments": segments}


class Teacher(Protocol):
    """Transcribes; `revision` identifies the weights, `window_s` is the longest audio that it hears at once."""

    revision: str
    window_s: float

    def transcribe(self, clips: Sequence[Clip]) -> list[list[Hypothesis]]:
        """One list of hypotheses per clip, in order: one where the clip fits the window, chunks where it is longer."""
        ...


def chunk(segments: Sequence[Segment], window_s: float) -> list[list[Segment]]:
    """K2D's greedy chunking (2407.10603, section 3): append segments while the chunk stays within the window.

    The chunk's length runs from its first segment's start to its last one's end, pauses included. Segments of
    [10, 15, 6, 29, 1] s that touch give [10, 15], [6], [29, 1] for 30 s. A segment that alone is longer than the
    window, which the paper leaves open, stays a chunk of its own; distillation lists it as skipped, with the reason.
    """
    chunks: list[list[Segment]] = []
    for segment in segments:
        if chunks and segment.end - chunks[-1][0].start <= window_s + 1e-6:
            chunks[-1].append(segment)
        else:
            chunks.append([segment])
    return chunks


def shift(segments: Sequence[Segment], by: float) -> tuple[Segment, ...]:
    """The same segments on a clock that started `by` seconds earlier."""
    return tuple(replace(s, start=round(s.start + by, 3), end=round(s.end + by, 3)) for s in segments)
