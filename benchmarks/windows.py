"""What `window: silence` and `window: clip` cost and save: words and speed by margin, beside the model's whole window.

    python benchmarks/windows.py                                                # the embedded teacher, its own speech
    python benchmarks/windows.py --model MODELS/whisper-tiny-l2en --audio FOLDER --clips 600

FOLDER has a metadata.csv with file_name and text. For every setting: the word error rate against the transcripts, how
many texts are those of the whole window, the word error rate between the two, hypotheses whose mean log-probability
is worse, and audio seconds per processor second (times real time with one thread). CTranslate2's number types are
compared with its float32 in the same way.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from stillsmall import audio, cache, config, metrics
from stillsmall.config import Run
from stillsmall.plugins import resolve
from stillsmall.teachers import TABLE
from stillsmall.teachers.base import Clip, Hypothesis

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
DOMAINS = ("en-us", "en-gb", "en-noisy", "en-room")


def spoken(folder: Path | None, count: int) -> tuple[list[Clip], list[str]]:
    """Clips spread evenly over a folder with metadata.csv, or of the speech lab, and their transcripts."""
    if folder is None:
        from stillsmall.speech_lab.corpus import clips

        made = [clip for domain in DOMAINS for clip in clips(domain, "test", count // len(DOMAINS), seed=7)]
        return [Clip(clip.clip_id, clip.audio, "en") for clip in made], [clip.text for clip in made]
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = rows[:: max(1, len(rows) // count)][:count]
    return [Clip(row["file_name"], audio.decode(folder / row["file_name"]), "en") for row in rows], [
        row["text"] for row in rows
    ]


def settings(at: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name to changes of `pseudo_label`; the first of each backend is what the others are compared with."""
    made: dict[str, dict[str, Any]] = {}
    for backend, kinds in (("transformers", [at.dtype]), ("ctranslate2", at.compute_types)):
        if backend not in at.backends:
            continue
        for kind in kinds:
            which = {"backend": backend, "dtype" if backend == "transformers" else "compute_type": kind}
            made[f"{backend} {kind}, full"] = which
            for window, margin in itertools.product(at.windows, at.margins):
                made[f"{backend} {kind}, {window} + {margin:g} s"] = which | {"window": window, "clip_margin_s": margin}
    return made


def heard(changes: dict[str, Any], clips: list[Clip], at: argparse.Namespace) -> tuple[list[Hypothesis], float]:
    """(hypotheses, seconds) of one setting."""
    common = {"model": at.model.name, "language": "en", "timestamps": at.timestamps, "batch_size": at.batch}
    section = config.load(PARAMS).pseudo_label.model_copy(update={**common, "device": at.device, **changes})
    run = Run(seed=1, threads=at.threads)
    teacher = resolve(TABLE, section.backend, "backend")(section, run, at.model.parent, "benchmark")
    teacher.transcribe(clips[:2])
    start = time.process_time()
    found = teacher.transcribe(clips)
    return [rows[0] for rows in found], time.process_time() - start


def compared(rows: list[Hypothesis], whole: list[Hypothesis], references: list[str]) -> dict[str, Any]:
    pairs = list(zip(rows, whole, strict=True))

    def rate(these: list[str]) -> float | None:
        counts = (metrics.wer(a, b.text, "en", "normalised") for a, b in zip(these, rows, strict=True))
        found = metrics.total(counts).rate
        return None if found is None else round(100 * found, 2)

    return {
        "wer_percent": rate(references),
        "same_text_percent": round(100 * sum(a.text == b.text for a, b in pairs) / len(pairs), 1),
        "wer_against_whole_percent": rate([row.text for row in whole]),
        "looping": sum((row.compression_ratio or 0) > 2.4 for row in rows),
        "less_sure_by_0.1": sum((a.mean_logprob or 0) < (b.mean_logprob or 0) - 0.1 for a, b in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/demo/teacher"))
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--margins", type=float, nargs="*", default=[0.0, 0.5, 1.0, 2.0, 3.0])
    parser.add_argument("--windows", nargs="*", default=["silence", "clip"])
    parser.add_argument("--backends", nargs="+", default=["transformers", "ctranslate2"])
    parser.add_argument("--compute-types", nargs="+", default=["float32", "int8"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--timestamps", action="store_true")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    at = parser.parse_args()
    clips, references = spoken(at.audio, at.clips)
    seconds = sum(clip.duration_s for clip in clips)
    print(json.dumps({"model": at.model.name, "clips": len(clips), "audio_s": round(seconds, 1)}))
    whole: dict[str, list[Hypothesis]] = {}
    with tempfile.TemporaryDirectory() as store:
        cache.ROOT = Path(store)
        for name, changes in settings(at).items():
            rows, took = heard(changes, clips, at)
            base = whole.setdefault(changes["backend"], rows)
            found = {"setting": name, **compared(rows, base, references), "audio_s_per_cpu_s": round(seconds / took, 1)}
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
