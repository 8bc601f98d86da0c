"""Transcribing a prepared split, shard by shard, so that a kill loses one shard and nothing is computed twice.

A shard of labels is named by the digest of what made it: the audio shard, the model's revision, the decoding
parameters, the seed and threads, and the code. It is written whole or not at all; a restart skips what exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillsmall import audio, cache, manifest
from stillsmall.config import ConfigError, Run, Transcribe
from stillsmall.plugins import resolve
from stillsmall.progress import progress
from stillsmall.teachers import TABLE
from stillsmall.teachers.base import Clip, Hypothesis, Teacher

CODE = ("stillsmall.audio", "stillsmall.whisper_tokens", "stillsmall.teachers.base", __name__)


@dataclass(frozen=True)
class Job:
    """One shard to transcribe: its name, the digest of its input, and how to load its clips."""

    name: str
    digest: str
    clips: Callable[[], list[Clip]]


@dataclass(frozen=True)
class Labelling:
    """Who transcribes, and how. `path` is the section of params.yaml, for errors."""

    config: Transcribe
    run: Run
    models_root: str
    path: str

    def teacher(self) -> Teacher:
        made: Teacher = resolve(TABLE, self.config.backend, f"{self.path}.backend")(
            self.config, self.run, self.models_root, self.path
        )
        return made

    def key(self, job: Job, revision: str) -> str:
        """The digest that names the job's result."""
        module = TABLE[self.config.backend].partition(":")[0]
        decode = self.config.model_dump(exclude={"model", "revision"})
        return cache.digest([job.digest, revision, decode, self.run.model_dump(), cache.code_digest(*CODE, module)])


def utterances(split: Path) -> list[Job]:
    """A job per audio shard of a prepared split: its utterances, whole."""
    by_shard: dict[str, list[dict[str, Any]]] = {}
    for row in manifest.rows(split / "manifest.parquet", manifest.UTTERANCE):
        by_shard.setdefault(row["shard"], []).append(row)

    def clips(shard: str, rows: list[dict[str, Any]]) -> list[Clip]:
        (_, found), *_ = manifest.audio(split, [shard])
        flac = dict(found)
        return [Clip(r["utt_id"], audio.decode_flac(flac[r["utt_id"]]), language_of(r)) for r in rows]

    jobs = []
    for shard, rows in sorted(by_shard.items()):
        known = [cache.file_digest(split / "shards" / shard), [(r["utt_id"], r["language"]) for r in rows]]
        jobs.append(Job(Path(shard).stem, cache.digest(known), lambda s=shard, r=rows: clips(s, r)))  # type: ignore[misc]
    return jobs


def language_of(utterance: dict[str, Any]) -> str | None:
    """The manifest's language; None where nobody knows, so that the model detects it."""
    return None if utterance["language"] == manifest.UNDETERMINED else utterance["language"]


def chunks(split: Path, labels: Path) -> list[Job]:
    """A job per shard of labels: the stretches of audio that the teacher's hypotheses cover."""
    jobs = []
    for path in sorted(labels.glob("*.parquet")):
        shard = path.stem.rsplit("-", 1)[0]
        known = [cache.file_digest(path), cache.file_digest(split / "shards" / f"{shard}.parquet")]
        jobs.append(Job(shard, cache.digest(known), lambda p=path, s=shard: list(cut(split, p, s))))  # type: ignore[misc]
    return jobs


def cut(split: Path, labels: Path, shard: str) -> Iterator[Clip]:
    """The audio of each hypothesis of one shard, cut out of its utterance."""
    (_, found), *_ = manifest.audio(split, [f"{shard}.parquet"])
    flac, parent, whole = dict(found), "", np.zeros(0, np.float32)
    for row in manifest.rows(labels, manifest.HYPOTHESIS):
        if parent != row["parent"]:
            parent, whole = row["parent"], audio.decode_flac(flac[row["parent"]])
        start, end = (round(row[key] * audio.SAMPLE_RATE) for key in ("start_s", "end_s"))
        yield Clip(row["utt_id"], whole[start:end], row["language"])


def transcribe(jobs: Iterable[Job], labelling: Labelling, out: Path) -> int:
    """Every job's hypotheses as shards in `out`; returns how many shards had to be computed.

    Raises ConfigError where there is nothing to transcribe. The model is loaded only if a shard is missing.
    """
    jobs, teacher, paths, computed = list(jobs), None, [], 0
    if not jobs:
        raise ConfigError(f"{labelling.path}: there is no audio to transcribe; do prepare.sources fill this split?")
    revision = _revision(labelling)
    with progress(labelling.path, len(jobs)) as advance:
        for job in jobs:
            path = cache.ROOT / "labels" / f"{job.name}-{labelling.key(job, revision)}.parquet"
            if not path.is_file():
                teacher = teacher or labelling.teacher()
                found = [row for rows in teacher.transcribe(job.clips()) for row in rows]
                write(path, found)
                computed += 1
            paths.append(path)
            advance(1)
    cache.publish(paths, out)
    return computed


def _revision(labelling: Labelling) -> str:
    """The weights' identity, without loading them where the backend reads a folder or a hub id."""
    if labelling.config.backend == "fake":
        return labelling.teacher().revision
    from stillsmall.compute import locate

    resolve(TABLE, labelling.config.backend, f"{labelling.path}.backend")
    return locate(labelling.models_root, labelling.config.model, labelling.config.revision, labelling.path)[1]


def write(path: Path, found: list[Hypothesis]) -> None:
    try:
        manifest.write(path, [row.as_row() for row in found], manifest.HYPOTHESIS)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write a shard of labels ({error.strerror}); free some space", str(path)
        ) from error
