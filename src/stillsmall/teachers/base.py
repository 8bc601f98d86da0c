"""What a teacher takes and gives: clips in, hypotheses out, each with its measures of confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from stillsmall.audio import SAMPLE_RATE
from stillsmall.metrics import compression_ratio
from stillsmall.text import join


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
class Failed:
    """Audio without a hypothesis: `reason` is one word for counting, `detail` is for people (`manifest.FAILED`)."""

    utt_id: str
    reason: str
    detail: str

    def as_row(self) -> dict[str, Any]:
        return dict(self.__dict__)


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
    before any token is ruled out, so that greedy, beam and long-form decoding are measured alike. The means leave
    timestamps out: those are unsure by nature, and a label is not worse for having them. What a backend cannot
    measure is None (docs/labelling.md).
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
    heard_language: str | None = None  # the likeliest by the model's ear, whatever it was told
    heard_language_prob: float | None = None  # among its languages

    def as_row(self) -> dict[str, Any]:
        segments = [{"start": s.start, "end": s.end, "text": s.text} for s in self.segments]
        return {**self.__dict__, "segments": segments}


class Teacher(Protocol):
    """Transcribes; `revision` identifies the weights, `window_s` is the longest audio that it hears at once."""

    revision: str
    window_s: float

    def transcribe(self, clips: Sequence[Clip]) -> list[list[Hypothesis] | Failed]:
        """Per clip, in order: one hypothesis where it fits the window, chunks where it is longer, or why none."""
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


UNCOVERED_S = 1.0  # a stretch without text that is listed, if it is loud
FRAME_S = 0.5
LOUD = 10 ** (-40 / 20)  # root mean square of half a second; -40 dB below full scale: speech, not a room's noise


def uncovered(clip: Clip, rows: Sequence[Hypothesis]) -> list[Failed]:
    """Stretches of a long recording that are loud and that no hypothesis covers, under ids as chunks have them."""
    if len(rows) == 1 and rows[0].utt_id == clip.utt_id:
        return []
    found, at = [], 0.0
    for start, end in [*sorted((row.start_s, row.end_s) for row in rows), (clip.duration_s, clip.duration_s)]:
        if start - at >= UNCOVERED_S and _loud(clip.audio[round(at * SAMPLE_RATE) : round(start * SAMPLE_RATE)]):
            name = f"{clip.utt_id}#{round(at * 1000):08d}"
            found.append(Failed(name, "uncovered", f"no text from {at:.2f} to {start:.2f} s, where it is not silent"))
        at = max(at, end)
    if not rows and not found:
        found.append(Failed(clip.utt_id, "silent", "a recording in which nothing was heard"))
    return found


def _loud(samples: np.ndarray) -> bool:
    frame = round(FRAME_S * SAMPLE_RATE)
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    return bool((np.sqrt(np.square(frames, dtype=np.float64).mean(1)) > LOUD).any())


def merged(clip: Clip, rows: Sequence[Hypothesis]) -> Hypothesis:
    """One hypothesis of a whole clip, also where its window made several: their text joined, their means weighted."""
    if len(rows) == 1:
        return replace(rows[0], utt_id=clip.utt_id, parent=clip.utt_id, start_s=0.0, end_s=clip.duration_s)
    language = rows[0].language if rows else (clip.language or "en")
    segments = tuple(s for row in rows for s in shift(row.segments, row.start_s))
    text = join((row.text for row in rows), language)

    def mean(name: str) -> float | None:
        known = [(getattr(row, name), len(row.tokens)) for row in rows if getattr(row, name) is not None]
        weight = sum(n for _, n in known)
        return sum(v * n for v, n in known) / weight if weight else None

    made = Hypothesis(clip.utt_id, clip.utt_id, 0.0, clip.duration_s, language, text, segments, ())
    return replace(
        made,
        mean_logprob=mean("mean_logprob"),
        mean_entropy=mean("mean_entropy"),
        no_speech_prob=mean("no_speech_prob"),
        compression_ratio=compression_ratio(text),
        heard_language=rows[0].heard_language if rows else None,
        heard_language_prob=rows[0].heard_language_prob if rows else None,
    )
