"""Heaps of speech for the tests of preparing: noise in files, folders of it, and what a run makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from stillsmall import manifest
from stillsmall.audio import SAMPLE_RATE, decode_flac
from stillsmall.preparation import prepare
from stillsmall.sources import load
from stillsmall.sources.base import Clip, Place

STAGE = Path(__file__).parents[1] / "stages/prepare.py"
LIMITS: dict[str, Any] = {
    "shard_utterances": 4,
    "min_duration_s": 0.1,
    "max_piece_s": 600.0,
    "silence_dbfs": -70.0,
    "max_broken_share": 0.05,
    "workers": 1,
}


def noise(seconds: float, seed: int = 0, rate: int = SAMPLE_RATE) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * rate)).astype(np.float32)


def speak(path: Path, seconds: float = 1.0, seed: int = 0, rate: int = SAMPLE_RATE, **form: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, noise(seconds, seed, rate), rate, **form)
    return path


def heap(root: Path, name: str, count: int, seed: int = 0, **columns: Any) -> dict[str, Any]:
    """A folder of `count` clips with a metadata.csv; the source that it is."""
    for number in range(count):
        speak(root / f"data/{name}/{number:02d}.wav", 0.5 + 0.1 * number, seed * 1000 + number)
    rows = [["file_name", "text", *columns]]
    rows += [[f"{n:02d}.wav", f"text {n}", *(value(n) for value in columns.values())] for n in range(count)]
    (root / f"data/{name}/metadata.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    return {"name": name, "kind": "audiofolder", "split": "train", "path": name, "language": "en"}


def params(root: Path, *sources: dict[str, Any], **limits: Any) -> Path:
    path = root / "params.yaml"  # JSON is YAML, too
    text = {"data": {"root": str(root / "data")}, "prepare": {"sources": list(sources)} | LIMITS | limits}
    path.write_text(json.dumps(text))
    return path


def run(root: Path, *sources: dict[str, Any], out: str = "out", **limits: Any) -> dict[str, Any]:
    return prepare(params(root, *sources, **limits), root / out, root / f"{out}.json")


def rows(root: Path, split: str = "train", out: str = "out") -> list[dict[str, Any]]:
    return manifest.rows(root / out / split / "manifest.parquet", manifest.UTTERANCE)


def audio(root: Path, split: str = "train", out: str = "out") -> dict[str, np.ndarray]:
    return {
        utt_id: decode_flac(content)
        for _, held in manifest.audio(root / out / split)
        for utt_id, content in held
    }  # fmt: skip


def quarantine(root: Path) -> dict[str, str]:
    return {row["item"]: row["reason"] for row in manifest.rows(root / "out/quarantine.parquet", manifest.QUARANTINE)}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def clips(root: Path, batch: int = 256, **section: Any) -> list[Clip]:
    """The clips that a source plans, before anything is decoded."""
    (source,) = load([{"name": "s", "split": "train", **section}])
    plan = source.plan(Place(root, "prepare.sources[0]", batch))
    return [clip for part in plan.batches for clip in part.clips()]
