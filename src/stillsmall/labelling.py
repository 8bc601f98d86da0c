"""Transcribing a prepared split, shard by shard, so that a kill loses one shard and nothing is computed twice.

A shard of labels is named by the digest of what made it: the audio shard, the model's revision, the decoding
parameters, the seed and threads, and the code. It is written whole or not at all; a restart skips what exists.
Audio without a label is listed beside it, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stillsmall import audio, cache, manifest
from stillsmall.config import ConfigError, Run, Transcribe
from stillsmall.plugins import resolve
from stillsmall.progress import progress
from stillsmall.teachers import TABLE
from stillsmall.teachers.base import Clip, Failed, Hypothesis, Teacher, merged, uncovered

SHARED = ("base", "batching", "ctc", "greedy", "longform", "torch_decoder", "whisper", "window")
MODULES = ("audio", "ctc", "whisper_tokens", *(f"teachers.{name}" for name in SHARED))
CODE = (*(f"stillsmall.{name}" for name in MODULES), __name__)
WHERE = {"max_failed_share", "executor", "ray_address", "ray_actors", "gpus_per_actor"}  # changes no label


class LabellingError(RuntimeError):
    """More audio failed than is allowed."""


@dataclass(frozen=True)
class Job:
    """One shard to transcribe: its name, the digest of its input, and how to load its clips.

    `labels` is the shard of labels whose stretches the clips are, if they are: each gets one hypothesis, whatever
    happens, so that labels and validations stay in step.
    """

    name: str
    digest: str
    clips: Callable[[], list[Clip | Failed]]
    labels: Path | None = None


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
        decode = self.config.model_dump(exclude={"model", "revision"} | WHERE)
        return cache.digest([job.digest, revision, decode, self.run.model_dump(), cache.code_digest(*CODE, module)])


def utterances(split: Path) -> list[Job]:
    """A job per audio shard of a prepared split: its utterances, whole."""
    split = split.resolve()  # jobs may be loaded by a process elsewhere
    by_shard: dict[str, list[dict[str, Any]]] = {}
    for row in manifest.rows(split / "manifest.parquet", manifest.UTTERANCE):
        by_shard.setdefault(row["shard"], []).append(row)

    def clips(shard: str, rows: list[dict[str, Any]]) -> list[Clip | Failed]:
        (_, found), *_ = manifest.audio(split, [shard])
        flac = dict(found)
        return [_clip(r["utt_id"], flac.get(r["utt_id"]), language_of(r)) for r in rows]

    jobs = []
    for shard, rows in sorted(by_shard.items()):
        known = [cache.file_digest(split / "shards" / shard), [(r["utt_id"], r["language"]) for r in rows]]
        jobs.append(Job(Path(shard).stem, cache.digest(known), lambda s=shard, r=rows: clips(s, r)))  # type: ignore[misc]
    return jobs


def _clip(utt_id: str, flac: bytes | None, language: str | None) -> Clip | Failed:
    """The decoded clip, or why it cannot be decoded."""
    if flac is None:
        return Failed(utt_id, "missing", "the shard has no audio of this id; prepare the split again")
    try:
        return Clip(utt_id, audio.decode_flac(flac), language)
    except audio.AudioError as error:
        return Failed(utt_id, error.reason, error.detail)


def language_of(utterance: dict[str, Any]) -> str | None:
    """The manifest's language; None where nobody knows, so that the model detects it."""
    return None if utterance["language"] == manifest.UNDETERMINED else utterance["language"]


def chunks(split: Path, labels: Path) -> list[Job]:
    """A job per shard of labels: the stretches of audio that the teacher's hypotheses cover."""
    split, jobs = split.resolve(), []
    for path in sorted(labels.resolve().glob("*.parquet")):
        shard = path.stem.rsplit("-", 1)[0]
        known = [cache.file_digest(path), cache.file_digest(split / "shards" / f"{shard}.parquet")]
        jobs.append(
            Job(shard, cache.digest(known), lambda p=path, s=shard: list(cut(split, p, s)), path)  # type: ignore[misc]
        )
    return jobs


def cut(split: Path, labels: Path, shard: str) -> Iterator[Clip | Failed]:
    """The audio of each hypothesis of one shard, cut out of its utterance."""
    (_, found), *_ = manifest.audio(split, [f"{shard}.parquet"])
    flac, parent, whole = dict(found), "", Failed("", "", "")  # type: tuple[dict[str, bytes], str, Clip | Failed]
    for row in manifest.rows(labels, manifest.HYPOTHESIS):
        if parent != row["parent"]:
            parent, whole = row["parent"], _clip(row["parent"], flac.get(row["parent"]), None)
        if isinstance(whole, Failed):
            yield replace(whole, utt_id=row["utt_id"])
            continue
        start, end = (round(row[key] * audio.SAMPLE_RATE) for key in ("start_s", "end_s"))
        yield Clip(row["utt_id"], whole.audio[start:end], row["language"])


def label(teacher: Teacher, job: Job) -> tuple[list[Hypothesis], list[Failed]]:
    """One job's hypotheses, and the audio that has none. LabellingError where the teacher fails on every clip."""
    loaded = job.clips()
    failed = [item for item in loaded if isinstance(item, Failed)]
    clips = [item for item in loaded if isinstance(item, Clip)]
    found: list[Hypothesis] = []
    broken = 0
    for clip, rows in zip(clips, teacher.transcribe(clips), strict=True):
        if isinstance(rows, Failed):
            failed.append(rows)
            broken += 1
        elif job.labels is not None:
            found.append(merged(clip, rows))
        else:
            found += rows
            failed += uncovered(clip, rows)
    if broken and broken == len(clips) > 1:
        raise LabellingError(f"{job.name}: the teacher failed on all {broken} clips; the last: {failed[-1].detail}")
    if job.labels is not None:
        found = _in_step(found, job.labels)
    return found, failed


def _in_step(found: Sequence[Hypothesis], labels: Path) -> list[Hypothesis]:
    """One hypothesis per label, in their order: an empty one, without measures, where validation failed."""
    by_id = {row.utt_id: row for row in found}
    return [
        by_id.get(row["utt_id"])
        or Hypothesis(row["utt_id"], row["utt_id"], 0.0, row["end_s"] - row["start_s"], row["language"], "", (), ())
        for row in manifest.rows(labels, manifest.HYPOTHESIS)
    ]


def transcribe(jobs: Iterable[Job], labelling: Labelling, out: Path, failed: Path | None = None) -> int:
    """Every job's hypotheses as shards in `out`, the failed audio in `failed`; returns how many shards were computed.

    Raises ConfigError where there is nothing to transcribe, LabellingError where more than `max_failed_share` of the
    clips have failed. The model is loaded only if a shard is missing.
    """
    jobs = list(jobs)
    if not jobs:
        raise ConfigError(f"{labelling.path}: there is no audio to transcribe; do prepare.sources fill this split?")
    revision = _revision(labelling)
    paths = [(cache.ROOT / "labels" / f"{job.name}-{labelling.key(job, revision)}.parquet").resolve() for job in jobs]
    missing = [(job, path) for job, path in zip(jobs, paths, strict=True) if not path.is_file()]
    with progress(labelling.path, len(jobs)) as advance:
        advance(len(jobs) - len(missing))
        if labelling.config.executor == "ray" and missing:
            from stillsmall.teachers import ray as cluster

            cluster.run(missing, labelling, work, advance)
        elif missing:
            teacher = labelling.teacher()
            for job, path in missing:
                work(teacher, job, path)
                advance(1)
    rows = [row for path in paths if beside(path).is_file() for row in manifest.rows(beside(path), manifest.FAILED)]
    _judge(rows, paths, labelling)
    cache.publish(paths, out)
    if failed is not None:
        manifest.write(failed, sorted(rows, key=lambda row: (row["utt_id"], row["reason"])), manifest.FAILED)
    return len(missing)


def work(teacher: Teacher, job: Job, path: Path) -> None:
    """Computes one shard and writes it, the failed audio first: what is at `path` is finished."""
    found, failed = label(teacher, job)
    beside(path).unlink(missing_ok=True)
    try:
        if failed:
            manifest.write(beside(path), [row.as_row() for row in failed], manifest.FAILED)
        manifest.write(path, [row.as_row() for row in found], manifest.HYPOTHESIS)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write a shard of labels ({error.strerror}); free some space", str(path)
        ) from error


def beside(path: Path) -> Path:
    """Where the failed audio of a shard of labels is listed."""
    return path.parent.with_name("labels_failed") / path.name


def _judge(failed: list[dict[str, Any]], paths: Sequence[Path], labelling: Labelling) -> None:
    """LabellingError where too large a share of the clips has failed. Uncovered stretches are no failures."""
    lost = [row for row in failed if row["reason"] != "uncovered"]
    if not lost:
        return
    parents = {row["parent"] for path in paths for row in manifest.rows(path, manifest.HYPOTHESIS)}
    share = len(lost) / len(parents | {row["utt_id"] for row in lost})
    if share > labelling.config.max_failed_share:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(row["reason"] for row in lost).most_common())
        raise LabellingError(
            f"{labelling.path}: {len(lost)} clips failed ({share:.1%}; {reasons}), over {labelling.path}."
            f"max_failed_share={labelling.config.max_failed_share}; the first: {lost[0]['utt_id']}: {lost[0]['detail']}"
        )


def _revision(labelling: Labelling) -> str:
    """The weights' identity, without loading them where the backend reads a folder or a hub id."""
    if labelling.config.backend == "fake":
        return labelling.teacher().revision
    from stillsmall.compute import locate

    resolve(TABLE, labelling.config.backend, f"{labelling.path}.backend")
    return locate(labelling.models_root, labelling.config.model, labelling.config.revision, labelling.path)[1]


def summarise(out: Path, failed: Path) -> dict[str, Any]:
    """The small table of metrics/pseudo_label.json and metrics/validate.json: counts, no timings."""
    rows = manifest.read(out, manifest.HYPOTHESIS).select(["parent", "text", "start_s", "end_s"]).to_pylist()
    lost = manifest.rows(failed, manifest.FAILED)
    reasons = Counter(row["reason"] for row in lost)
    return {
        "utterances": len({row["parent"] for row in rows}),
        "hypotheses": len(rows),
        "empty": sum(not row["text"] for row in rows),
        "hours": round(float(np.sum([row["end_s"] - row["start_s"] for row in rows])) / 3600, 6),
        "shards": len(list(out.glob("*.parquet"))),
        "failed": {reason: reasons[reason] for reason in sorted(reasons)},
    }
