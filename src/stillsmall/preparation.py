"""Speech as people have it, to one form: a manifest and shards of FLAC per split; what was left out, and why."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stillsmall import cache, config, manifest
from stillsmall.processes import WorkerDied, in_order
from stillsmall.sources import load
from stillsmall.sources.base import SPLITS, Batch, Place, Plan, PreparationError, Source
from stillsmall.sources.shards import Result, Settings, make, worded
from stillsmall.sources.tables import log

__all__ = ["PreparationError", "prepare"]

SHOWN = 5  # examples in an error
HOUR_S = 3600
SHARED = {"speaker": "speaker", "recording": "recording", "audio": "digest"}  # what two splits must not share: column


@dataclass
class Tally:
    """What has become of one source so far."""

    source: Source
    where: str
    total: int | None
    results: list[Result] = field(default_factory=list)
    done: int = 0

    def add(self, result: Result) -> None:
        self.results.append(result)
        self.done += len(result.items)

    def quarantine(self) -> list[dict[str, str]]:
        return [row for result in self.results for row in result.quarantine]

    def check(self, limit: float, final: bool) -> None:
        """Raises PreparationError as soon as more than `limit` of the source is sure to be broken."""
        broken, total = self.quarantine(), self.done if final else self.total
        if not broken or total is None or len(broken) <= limit * total:
            return
        reasons = Counter(row["reason"] for row in broken)
        examples = "\n".join(f"  {row['item']}: {row['reason']}: {row['detail']}" for row in broken[:SHOWN])
        so_far = "" if self.done == total else f" ({self.done} looked at)"
        raise PreparationError(
            f"{self.where} ('{self.source.name}'): {len(broken)} of {total} items are broken{so_far}, "
            f"{len(broken) / total:.1%}; prepare.max_broken_share allows {limit:.1%}\n"
            f"reasons: {', '.join(f'{reason} {count}' for reason, count in reasons.most_common())}\n{examples}"
        )


def prepare(params: Path, out: Path, metrics: Path) -> dict[str, Any]:
    """All of `prepare.sources` into `out`; the metrics are returned, too.

    Raises ConfigError, UnknownName or PreparationError, whose messages are for people; `out` is then as it was.
    """
    tree = config.read_yaml(params)
    section = config.parse(config.Prepare, tree.get("prepare"), "prepare")
    root = Path(config.parse(config.Data, tree.get("data"), "data").root)
    tallies = []
    for number, source in enumerate(load(section.sources)):
        where = f"prepare.sources[{number}]"
        plan = source.plan(Place(root, where, section.shard_utterances))
        tallies.append((Tally(source, where, plan.total), plan))
    _run(tallies, section)
    done = [tally for tally, _ in tallies]
    for tally in done:
        lost = sum(result.uncut_texts for result in tally.results)
        if lost:
            log.warning("%s: %d transcript(s) left out: their recordings had to be cut", tally.where, lost)
    check_splits(done)
    try:
        rows = publish(done, out)
    except OSError as error:
        raise worded(error, out, "while the output was written") from error
    summary = summarise(done, rows)
    cache.write_json(metrics, summary)
    return summary


def _run(tallies: list[tuple[Tally, Plan]], section: config.Prepare) -> None:
    """Every batch of every source, in `prepare.workers` processes, results in the order of the batches."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars = [progress.add_task(tally.source.name, total=tally.total) for tally, _ in tallies]
        for number, result in _results(_jobs(tallies, section), section.workers):
            tally = tallies[number][0]
            tally.add(result)
            progress.update(bars[number], completed=tally.done)
            tally.check(section.max_broken_share, final=False)
    for tally, _ in tallies:
        tally.check(section.max_broken_share, final=True)


Job = tuple[int, Batch, Settings]


def _jobs(tallies: list[tuple[Tally, Plan]], section: config.Prepare) -> Iterator[Job]:
    for number, (tally, plan) in enumerate(tallies):
        settings = Settings(
            cache=str(cache.ROOT / "prepare"),
            source=tally.source.name,
            split=tally.source.split,
            shard_utterances=section.shard_utterances,
            min_duration_s=section.min_duration_s,
            max_piece_s=section.max_piece_s,
            silence_dbfs=section.silence_dbfs,
        )
        for batch in plan.batches:
            yield number, batch, settings


def _results(jobs: Iterable[Job], workers: int) -> Iterator[tuple[int, Result]]:
    try:
        yield from in_order(_result, jobs, workers, "prepare.workers")
    except WorkerDied as error:
        raise PreparationError(f"{error}; finished shards are kept") from error


def _result(job: Job) -> tuple[int, Result]:
    number, batch, settings = job
    return number, make(batch, settings)


def check_splits(tallies: list[Tally]) -> None:
    """No speaker, no recording and no audio, by its bytes, in two splits. Raises PreparationError with all three."""
    found: dict[str, dict[str, dict[str, set[str]]]] = {what: {} for what in SHARED}
    for tally in tallies:
        for result in tally.results:
            for row in result.utterances:
                for what, column in SHARED.items():
                    if row[column] is not None:
                        places = found[what].setdefault(row[column], defaultdict(set))
                        places[row["split"]].add(row["utt_id" if what == "audio" else "source"])
    faults = []
    for what, values in found.items():
        shared = {value: places for value, places in sorted(values.items()) if len(places) > 1}
        if shared:
            faults.append(f"{len(shared)} {what}(s) in more than one split; the test would be of what was trained on:")
        for value, places in list(shared.items())[:SHOWN]:
            where = "; ".join(f"{split}: {', '.join(sorted(names)[:SHOWN])}" for split, names in sorted(places.items()))
            faults.append(f"  {value} in {where}")
    if faults:
        raise PreparationError("\n".join(faults))


def publish(tallies: list[Tally], out: Path) -> dict[str, list[dict[str, Any]]]:
    """Manifests and shards of all splits, and the quarantine; returns the rows of each split.

    All of it is written beside what is there, which it then replaces.
    """
    partial = out / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        rows: dict[str, list[dict[str, Any]]] = {
            split: _publish_split([tally for tally in tallies if tally.source.split == split], partial / split)
            for split in SPLITS
        }
        refused = [row for tally in tallies for row in tally.quarantine()]
        refused.sort(key=lambda row: (row["source"], row["item"], row["reason"]))
        manifest.write(partial / "quarantine.parquet", refused, manifest.QUARANTINE)
        for split in SPLITS:
            shutil.rmtree(out / split, ignore_errors=True)
        for path in partial.iterdir():
            path.replace(out / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return rows


def _publish_split(tallies: list[Tally], folder: Path) -> list[dict[str, Any]]:
    (folder / "shards").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for result in (result for tally in tallies for result in tally.results):
        for name in result.shards:
            shutil.copyfile(result.folder / name, folder / "shards" / name)
        for row in result.utterances:
            row = {**row, "shard": result.shards[row["shard"]]}
            del row["digest"]
            rows.append(row)
    rows.sort(key=lambda row: row["utt_id"])
    manifest.write(folder / "manifest.parquet", rows, manifest.UTTERANCE)
    return rows


def summarise(tallies: list[Tally], rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Hours, utterances and speakers per split, source and domain; quarantine counts; a fingerprint per source."""
    domains: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for split, utterances in rows.items():
        for row in utterances:
            domains[row["domain"]][split].append(row)
    sources = {}
    for tally in tallies:
        reasons = Counter(row["reason"] for row in tally.quarantine())
        sources[tally.source.name] = {
            **_amount([row for result in tally.results for row in result.utterances]),
            "split": tally.source.split,
            "items": tally.done,
            "quarantine": dict(reasons),
            "fingerprint": fingerprint(item for result in tally.results for item in result.items),
        }
    return {
        "splits": {split: _amount(utterances) for split, utterances in rows.items()},
        "sources": sources,
        "domains": {name: {split: _amount(part) for split, part in by.items()} for name, by in domains.items()},
        "quarantine": dict(Counter(row["reason"] for tally in tallies for row in tally.quarantine())),
    }


def _amount(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "hours": round(sum(row["duration_s"] for row in rows) / HOUR_S, 6),
        "utterances": len(rows),
        "transcribed": sum(row["text"] is not None for row in rows),
        "speakers": len({row["speaker"] for row in rows} - {None}),
    }


def fingerprint(items: Iterable[list[str | None]]) -> str:
    """A digest of a source's items (id, digest of the audio, text), whatever their order."""
    return cache.digest(sorted(items, key=lambda item: [part or "" for part in item]))
