"""Audio seconds labelled in a second: our backends and windows beside transformers' pipeline and faster-whisper.

    python benchmarks/labelling.py                                              # the embedded teacher, its own speech
    python benchmarks/labelling.py --model MODELS/whisper-tiny-l2en --audio FOLDER --clips 48

Same weights, same clips of mixed lengths, same language and greedy decoding, on a CPU; float32 where nothing else is
said. The systems take turns in every round of one run; the figures are medians over the rounds, the ratios medians of
ratios within a round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
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
SILENCE = {"window": "silence"}
OURS: dict[str, dict[str, Any]] = {
    "transformers": {"backend": "transformers", "window": "full"},
    "transformers, silence": {"backend": "transformers", **SILENCE},
    "transformers, clip": {"backend": "transformers", "window": "clip"},
    "transformers bfloat16, silence": {"backend": "transformers", "dtype": "bfloat16", **SILENCE},
    "ctranslate2": {"backend": "ctranslate2", "window": "full"},
    "ctranslate2, silence": {"backend": "ctranslate2", **SILENCE},
    "ctranslate2 int8": {"backend": "ctranslate2", "compute_type": "int8", "window": "full"},
    "ctranslate2 int8, silence": {"backend": "ctranslate2", "compute_type": "int8", **SILENCE},
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}  # cpu: with one thread, where others use the machine
PEERS = {PEER: "float32", f"{PEER}, int8": "int8"}


def clips_of(folder: Path | None, count: int) -> list[Clip]:
    """`count` clips of mixed lengths: of a folder of audio, or of the embedded speech lab."""
    if folder is None:
        from stillsmall.speech_lab.corpus import clips

        return [Clip(f"{i:04d}", clip.audio, "en") for i, clip in enumerate(clips("en-us", "test", count, seed=7))]
    paths = sorted(p for p in folder.rglob("*") if p.suffix in audio.SUFFIXES)
    chosen = paths[:: max(1, len(paths) // count)][:count]
    return [Clip(p.stem, audio.decode(p), "en") for p in chosen]


def ours(changes: dict[str, Any], at: argparse.Namespace) -> Callable[[list[Clip]], list[str]]:
    from stillsmall.plugins import resolve
    from stillsmall.teachers import TABLE

    common = {"model": at.model.name, "language": "en", "timestamps": False, "batch_size": at.batch, "device": "cpu"}
    section = config.load(Path(__file__).resolve().parents[1] / "params.yaml").pseudo_label.model_copy(
        update={**common, "dtype": "float32", "compute_type": "float32", "num_beams": 1, **changes}
    )
    run = Run(seed=1, threads=at.threads)
    made = resolve(TABLE, section.backend, "backend")(section, run, at.model.parent, "benchmark")
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


def peer(folder: Path, kind: str, batch: int, threads: int) -> Callable[[list[Clip]], list[str]]:
    """faster-whisper's own batched pipeline on our conversion: all clips as one recording, a window per clip."""
    import faster_whisper

    model = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type=kind, cpu_threads=threads)
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
    parser.add_argument("--margin", type=float, default=3.0, help="clip_margin_s, where the window is not full")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--systems", nargs="+", choices=[*OURS, PIPELINE, *PEERS], help="these alone")
    at = parser.parse_args()
    clips = clips_of(at.audio, at.clips)
    with tempfile.TemporaryDirectory() as store:
        cache.ROOT = Path(store)
        measured = rounds(systems(at), clips, at.rounds, CLOCKS[at.clock])
    print(json.dumps(summary(*measured, clips, at), indent=2))


def systems(at: argparse.Namespace) -> dict[str, Callable[[list[Clip]], list[str]]]:
    """Those asked for; the peers' CTranslate2 model is our conversion to float32."""
    import torch
    from transformers import WhisperProcessor

    from stillsmall import compute
    from stillsmall.teachers.ctranslate2 import converted

    wanted = at.systems or [*OURS, PIPELINE, *PEERS]
    made = {name: ours({**changes, "clip_margin_s": at.margin}, at) for name, changes in OURS.items() if name in wanted}
    torch.set_num_threads(at.threads)
    if PIPELINE in wanted:
        made[PIPELINE] = pipeline(at.model, at.batch)
    for name, kind in PEERS.items():
        if name in wanted:
            source, revision = compute.locate(at.model.parent, at.model.name, None, "benchmark")
            folder = converted(source, revision, "float32", WhisperProcessor.from_pretrained(source), {})
            made[name] = peer(folder, kind, at.batch, at.threads)
    return made


def rounds(
    made: dict[str, Callable[[list[Clip]], list[str]]], clips: list[Clip], count: int, clock: Callable[[], float]
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
            start = clock()
            texts[name] = made[name](clips)
            took.setdefault(name, []).append(clock() - start)
            print(f"round {turn + 1}: {name}: {took[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return took, texts, faults


def summary(
    took: dict[str, list[float]], texts: dict[str, list[str]], faults: dict[str, str], clips: list[Clip], at: Any
) -> dict[str, Any]:
    seconds = sum(clip.duration_s for clip in clips)

    def ratio(one: str, other: str) -> float | None:
        if one not in took or other not in took:
            return None
        return round(statistics.median(b / a for a, b in zip(took[one], took[other], strict=True)), 2)

    first = next(iter(texts))

    def alike(name: str) -> float | None:
        same = [a == b for a, b in zip(texts[name], texts[first], strict=False)]
        return round(sum(same) / len(same), 4) if len(texts[name]) == len(texts[first]) else None

    return {
        "model": at.model.name,
        "clips": len(clips),
        "audio_s": round(seconds, 1),
        "longest_s": round(max(clip.duration_s for clip in clips), 2),
        "shortest_s": round(min(clip.duration_s for clip in clips), 2),
        "batch": at.batch,
        "threads": at.threads,
        "clock": at.clock,
        "times_real_time": {name: round(seconds / statistics.median(t), 2) for name, t in took.items()},
        "seconds": {name: [round(x, 2) for x in t] for name, t in took.items()},
        f"same_text_as_{first}": {name: alike(name) for name in took},
        **{f"times_as_fast_as_{other}": {name: ratio(name, other) for name in took} for other in (PIPELINE, *PEERS)},
        "could_not": faults,
    }


if __name__ == "__main__":
    main()
