"""A teacher without a model, for tests and for trying a pipeline's plumbing: it says how long each clip is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stillsmall.config import Run, Transcribe
from stillsmall.metrics import compression_ratio
from stillsmall.teachers.base import Clip, Failed, Hypothesis, Segment

WINDOW_S = 30.0


class FakeTeacher:
    """Transcribes a clip as its number of tenths of a second; longer ones in chunks of a window."""

    window_s = WINDOW_S

    def __init__(self, config: Transcribe, run: Run, models_root: str | Path, path: str) -> None:
        self.revision = f"fake-{config.model}"

    def transcribe(self, clips: Sequence[Clip]) -> list[list[Hypothesis] | Failed]:
        return [self._one(clip) for clip in clips]

    def _one(self, clip: Clip) -> list[Hypothesis]:
        found, start = [], 0.0
        while start < clip.duration_s:
            end = min(start + WINDOW_S, clip.duration_s)
            text = f"{round((end - start) * 10)} tenths"
            whole = clip.duration_s <= WINDOW_S
            found.append(
                Hypothesis(
                    utt_id=clip.utt_id if whole else f"{clip.utt_id}#{round(start * 1000):08d}",
                    parent=clip.utt_id,
                    start_s=start,
                    end_s=end,
                    language=clip.language or "en",
                    text=text,
                    segments=(Segment(0.0, end - start, text),),
                    tokens=(),
                    mean_logprob=-0.1,
                    mean_entropy=0.1,
                    compression_ratio=compression_ratio(text),
                    no_speech_prob=0.0,
                )
            )
            start = end
        return found
