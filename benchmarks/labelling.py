"""Audio seconds labelled in a second: our two backends beside transformers' pipeline and faster-whisper.

    python benchmarks/labelling.py                                              # the embedded teacher, its own speech
    python benchmarks/labelling.py --model MODELS/whisper-tiny-l2en --audio FOLDER --clips 48

Same weights, same clips of mixed lengths, same language and greedy decoding, float32 on a CPU. The systems take turns
in every round of one run; the figures are medians over the rounds, the ratios medians of ratios within a round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stillsmall import audio, cache, config
from stillsmall.config import Run
from stillsmall.teachers.base import Clip

PIPELINE, PEER = "transformers pipeline", "faster-whisper batched"


def clips_of(folder: Path | None, count: int) -> list[Clip]:
    """`count` clips of mixed lengths: of a folder of audio, or of the embedded speech lab."""
    if folder is None:
        from stillsmall.speech_lab.corpus import clips

        return [Clip(f"{i:04d}", clip.audio, "en") for i, clip in enumerate(clips("en-us", "test", count, seed=7))]
    paths = sorted(p for p in folder.rglob("*") if p.suffix in audio.SUFFIXES)
    chosen = paths[:: max(1, len(paths) // count)][:count]
    return [Clip(p.stem, audio.decode(p), "en") for p in chosen]


def ours(backend: str, model: Path, batch: int, threads: int) -> Callable[[list[Clip]], list[str]]:
    from stillsmall.plugins import resolve
    from stillsmall.teachers import TABLE

    section = config.load(Path(__file__).resolve().parents[1] / "params.yaml").pseudo_label.model_copy(
        update={"model": model.name, "language": "en", "timestamps": False, "batch_size": batch, "device": "cpu"}
        | {"dtype": "float32", "compute_type": "float32", "num_beams": 1}
    )
    made = resolve(TABLE, backend, "backend")(section, Run(seed=1, threads=threads), model.parent, "benchmark")
    return lambda clips: [rows[0].text for rows in made.transcribe(clips)]


def pipeline(model: Path, batch: int) -> Callable[[list[Clip]], list[str]]:
    import torch
    from transformers import pipeline as build

    made: Any = build("automatic-speech-recognition", model=str(model), dtype=torch.float32, batch_size=batch)
    options = {"language": "en", "task": "transcribe", "num_beams": 1}

    def run(clips: list[Clip]) -> list[str]:
        given = [{"raw": clip.audio, "sampling_rate": audio.SAMPLE_RATE} for clip in clips]
        return [found["text"].strip() for found in made(given, generate_kwargs=options)]

    return run


def peer(folder: Path, batch: int, threads: int) -> Callable[[list[Clip]], list[str]]:
    """faster-whisper's own batched pipeline on our conversion: all clips as one recording, a window per clip."""
    import faster_whisper

    model = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=threads)
    batched = faster_whisper.BatchedInferencePipeline(model)

    def run(clips: list[Clip]) -> list[str]:
        starts = np.cumsum([0, *(len(clip.audio) for clip in clips)])
        windows = [
            {"start": a / audio.SAMPLE_RATE, "end": b / audio.SAMPLE_RATE} for a, b in itertools.pairwise(starts)
        ]
        segments, _ = batched.transcribe(
            np.concatenate([clip.audio for clip in clips]), language="en", batch_size=batch, beam_size=1,
            without_timestamps=True, temperature=0.0, vad_filter=False, clip_timestamps=windows,
        )  # fmt: skip
        return [segment.text.strip() for segment in segments]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/demo/teacher"))
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    at = parser.parse_args()
    clips = clips_of(at.audio, at.clips)
    with tempfile.TemporaryDirectory() as store:
        cache.ROOT = Path(store)
        measured = rounds(systems(at), clips, at.rounds)
    print(json.dumps(summary(*measured, clips, at), indent=2))


def systems(at: argparse.Namespace) -> dict[str, Callable[[list[Clip]], list[str]]]:
    import torch

    made = {name: ours(name, at.model, at.batch, at.threads) for name in ("transformers", "ctranslate2")}
    torch.set_num_threads(at.threads)
    made[PIPELINE] = pipeline(at.model, at.batch)
    (converted,) = (cache.ROOT / "ctranslate2").iterdir()
    return made | {PEER: peer(converted, at.batch, at.threads)}


def rounds(
    made: dict[str, Callable[[list[Clip]], list[str]]], clips: list[Clip], count: int
) -> tuple[dict[str, list[float]], dict[str, list[str]], dict[str, str]]:
    """(seconds per round, texts, faults) by system; a system that cannot do it is reported and left out."""
    took: dict[str, list[float]] = {}
    texts: dict[str, list[str]] = {}
    faults: dict[str, str] = {}
    for name, run in made.items():
        try:
            texts[name] = run(clips[:4])
        except Exception as error:  # a peer's own limits are a finding of this benchmark
            faults[name] = f"{type(error).__name__}: {error}"[:300]
    for turn in range(count):
        names = [name for name in made if name not in faults]
        for name in names if turn % 2 == 0 else names[::-1]:
            start = time.perf_counter()
            texts[name] = made[name](clips)
            took.setdefault(name, []).append(time.perf_counter() - start)
    return took, texts, faults


def summary(
    took: dict[str, list[float]], texts: dict[str, list[str]], faults: dict[str, str], clips: list[Clip], at: Any
) -> dict[str, Any]:
    seconds = sum(clip.duration_s for clip in clips)

    def ratio(one: str, other: str) -> float | None:
        if one not in took or other not in took:
            return None
        return round(statistics.median(b / a for a, b in zip(took[one], took[other], strict=True)), 2)

    def alike(name: str) -> float | None:
        same = [a == b for a, b in zip(texts[name], texts["transformers"], strict=False)]
        return round(sum(same) / len(same), 4) if len(texts[name]) == len(texts["transformers"]) else None

    return {
        "model": at.model.name,
        "clips": len(clips),
        "audio_s": round(seconds, 1),
        "longest_s": round(max(clip.duration_s for clip in clips), 2),
        "shortest_s": round(min(clip.duration_s for clip in clips), 2),
        "batch": at.batch,
        "threads": at.threads,
        "times_real_time": {name: round(seconds / statistics.median(t), 2) for name, t in took.items()},
        "seconds": {name: [round(x, 2) for x in t] for name, t in took.items()},
        "same_text_as_transformers_backend": {name: alike(name) for name in took},
        "times_as_fast_as_the_pipeline": {name: ratio(name, PIPELINE) for name in ("transformers", "ctranslate2")},
        "times_as_fast_as_faster_whisper": {name: ratio(name, PEER) for name in ("transformers", "ctranslate2")},
        "could_not": faults,
    }


if __name__ == "__main__":
    main()
