"""The score table: every measure of every label, computed once, shard by shard. Filters are views of it.

No table is ever whole in memory: the manifest is parted by shard into temporary files, worker processes measure one
shard of labels at a time, and the rows are written as they come, in the order of shards and ids.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stillsmall import cache, manifest, measures, voice_activity
from stillsmall.config import Params, Score
from stillsmall.processes import in_order
from stillsmall.progress import progress

PART_ROWS = 1 << 15  # utterances in a part of the manifest; a worker holds one part
GROUP_ROWS = 1 << 14  # rows of the score table that are written at a time
BATCH_ROWS = 1 << 14  # of the manifest that are read at a time
UTTERANCE = pa.schema([manifest.UTTERANCE.field(name) for name in measures.UTTERANCE])


class ScoreError(ValueError):
    """Labels and validations that do not belong together."""


@dataclass(frozen=True)
class Job:
    """The labels of one audio shard and all that is known of them; what a worker is sent."""

    shard: str
    labels: tuple[Path, ...]
    validations: tuple[Path, ...]
    utterances: Path | None  # the part of the manifest that the shard is in
    audio: Path
    likelihoods: tuple[Path, ...] | None
    config: Score


def score(split: Path, labels: Path, validations: Path, out: Path, params: Params) -> None:
    """Joins manifest, labels and validations by utterance and writes one `manifest.SCORE` row per label.

    The same bytes whatever `score.workers`. Raises ScoreError, naming the first ids, where a label has no validation or
    no utterance; manifest.TableError for a table that cannot be read; processes.WorkerDied.
    """
    named, validated = by_shard(labels), by_shard(validations)
    likelihoods = None
    if params.score.language_model is not None and named:
        from stillsmall import likelihood

        files = [path for paths in named.values() for path in paths]
        likelihoods = likelihood.measured(files, params.score, params.run, params.models.root)
    cache.ROOT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="score-", dir=cache.ROOT) as scratch:
        parts = part(split / "manifest.parquet", Path(scratch))
        jobs = (
            Job(
                shard,
                tuple(paths),
                tuple(validated.get(shard, ())),
                parts.get(f"{shard}.parquet"),
                split / "shards" / f"{shard}.parquet",
                None if likelihoods is None else tuple(likelihoods[path.name] for path in paths),
                params.score,
            )
            for shard, paths in named.items()
        )
        with progress("score", len(named)) as advance:
            write(
                out,
                in_order(score_shard, jobs, min(params.score.workers, max(len(named), 1)), "score.workers"),
                advance,
            )


def by_shard(folder: Path) -> dict[str, list[Path]]:
    """Tables of hypotheses by the audio shard that they are named for ("SHARD-DIGEST.parquet"), both in order."""
    if not folder.is_dir():
        raise manifest.TableError(f"{folder}: no such table; has the stage that writes it run? (dvc repro)")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*.parquet")):
        found[path.stem.rpartition("-")[0] or path.stem].append(path)
    return dict(sorted(found.items()))


def part(path: Path, folder: Path) -> dict[str, Path]:
    """The manifest's rows, parted by audio shard into Arrow files of about PART_ROWS in `folder`: shard to its file."""
    try:
        rows = Counter(name for batch in _batches(path, ["shard"]) for name in batch["shard"].to_pylist())
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise manifest.TableError(f"{path}: not a readable manifest: {error}; has prepare run? (dvc repro)") from error
    numbers, before = {}, 0
    for name in sorted(rows):
        numbers[name] = before // PART_ROWS
        before += rows[name]
    files = [folder / f"part-{number:05d}.arrow" for number in range(max(numbers.values(), default=-1) + 1)]
    writers = [pa.ipc.new_file(str(file), UTTERANCE) for file in files]
    for batch in _batches(path, list(measures.UTTERANCE)):
        places = np.array([numbers[name] for name in batch["shard"].to_pylist()])
        for number in np.unique(places):
            writers[number].write_batch(batch.filter(pa.array(places == number)).cast(UTTERANCE))
    for writer in writers:
        writer.close()
    return {name: files[number] for name, number in numbers.items()}


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            yield batch.select(columns)


@functools.lru_cache(1)
def _part(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def score_shard(job: Job) -> pa.Table:
    """The score rows of one shard, by utterance."""
    columns = list(measures.LABEL)
    labels = _read(job.labels, columns).sort_by("utt_id")
    validations = _read(job.validations, ["utt_id", "text"])
    utterances = UTTERANCE.empty_table() if job.utterances is None else _part(job.utterances)
    utterances = utterances.filter(pc.equal(utterances["shard"], f"{job.shard}.parquet"))
    texts = dict(zip(validations["utt_id"].to_pylist(), validations["text"].to_pylist(), strict=True))
    rows = {name: number for number, name in enumerate(utterances["utt_id"].to_pylist())}
    ids, parents = labels["utt_id"].to_pylist(), labels["parent"].to_pylist()
    lost = [name for name, parent in zip(ids, parents, strict=True) if name not in texts or parent not in rows]
    if lost:
        raise ScoreError(
            f"shard {job.shard}: {len(lost)} labels have no validation or no utterance, first {lost[:3]}; "
            "run validate again"
        )
    if not ids:
        return manifest.SCORE.empty_table()
    kind = job.config.voice_activity
    activity = None if kind == "none" else voice_activity.measured(job.audio, kind)
    likely = None
    if job.likelihoods is not None:
        found = pa.concat_tables([manifest.read(path, manifest.LIKELIHOOD) for path in job.likelihoods])
        known = dict(zip(found["utt_id"].to_pylist(), found["lm_logprob"].to_pylist(), strict=True))
        likely = [known[name] for name in ids]
    whole = utterances.take([rows[parent] for parent in parents])
    return measures.table(whole, labels, [texts[name] for name in ids], job.config, activity, likely)


def _read(paths: Iterable[Path], columns: list[str]) -> pa.Table:
    """Some columns of tables of hypotheses; tokens and their probabilities, most of a label, are not read."""
    schema = pa.schema([manifest.HYPOTHESIS.field(name) for name in columns])
    return pa.concat_tables([manifest.read(path, schema) for path in paths] or [schema.empty_table()])


def write(path: Path, tables: Iterable[pa.Table], advance: Callable[[int], None]) -> None:
    """Tables as one Parquet file, as they come, in groups of GROUP_ROWS; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
        with pq.ParquetWriter(partial, manifest.SCORE, **options) as writer:
            waiting = manifest.SCORE.empty_table()
            for table in tables:
                waiting = pa.concat_tables([waiting, table])
                while len(waiting) >= GROUP_ROWS:
                    writer.write_table(waiting.slice(0, GROUP_ROWS), GROUP_ROWS)
                    waiting = waiting.slice(GROUP_ROWS)
                advance(1)
            if len(waiting):
                writer.write_table(waiting.combine_chunks(), GROUP_ROWS)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
