"""Any audio to text with any model folder: what `stillsmall transcribe` does. Memory does not grow with length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillsmall import audio
from stillsmall.config import Run, Transcribe
from stillsmall.teachers.base import Clip, Failed, Teacher
from stillsmall.text import join

PIECE_S = 600.0  # a long file is heard in pieces of at most this, cut at quiet places


class TranscriptionError(RuntimeError):
    """Audio on which the model fails."""


def listener(model: str, language: str | None, timestamps: bool, device: str, threads: int | None = None) -> Teacher:
    """The model of a folder, Whisper or CTC, decoding greedily. ModelError for a folder that is no model."""
    import os

    from stillsmall.teachers.transformers import teacher

    config = Transcribe.model_validate(
        {"model": model, "revision": None, "backend": "transformers", "language": language or "per_utterance"}
        | {"task": "transcribe", "timestamps": timestamps, "num_beams": 1, "batch_size": 8, "max_new_tokens": None}
        | {"device": device, "dtype": "float32", "compute_type": "auto", "temperatures": [0.0]}
        | {"compression_ratio_threshold": None, "logprob_threshold": -1.0, "no_speech_threshold": 0.6}
        | {"window": "full", "clip_margin_s": 3.0}
        | {"long_form": "sequential", "condition_on_previous_text": False, "max_failed_share": 0.0}
        | {"executor": "local", "ray_address": None, "ray_actors": 1, "gpus_per_actor": 0.0}
    )
    return teacher(config, Run(seed=0, threads=threads or os.cpu_count() or 1), ".", "transcribe")


def transcribe_files(
    paths: list[Path], model: str, language: str | None, timestamps: bool, device: str, threads: int | None = None
) -> Iterator[tuple[Path, list[dict[str, Any]], str]]:
    """Per file: (path, segments with start and end in seconds, the whole text).

    `language` None lets the model detect it. Raises AudioError for a file that can't be read, ModelError for a
    folder that is no model.
    """
    heard_by = listener(model, language, timestamps, device, threads)
    for path in paths:
        segments: list[dict[str, Any]] = []
        heard = language or "en"
        for first, samples in audio.pieces(audio.stream(path), PIECE_S):
            start = first / audio.SAMPLE_RATE
            rows = heard_by.transcribe([Clip(str(path), samples, None)])[0]
            if isinstance(rows, Failed):
                raise TranscriptionError(f"{path}, from {start:.0f} s on: {rows.reason}: {rows.detail}")
            for row in rows:
                begin, heard = start + row.start_s, row.language
                segments += [
                    {"start": round(begin + s.start, 3), "end": round(begin + s.end, 3), "text": s.text}
                    for s in row.segments
                ]
        yield path, segments, join((s["text"] for s in segments), heard)
