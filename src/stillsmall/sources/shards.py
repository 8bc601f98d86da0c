"""One batch of clips to shards in the cache: decode, judge, cut, encode, write; whole or not at all.

A finished batch is a folder named by the digest of all that it was made from, with its shards and `batch.json`. It
appears by one rename, so a kill leaves either all of it or a `.partial` folder that the next run clears.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from stillsmall import audio, cache, manifest
from stillsmall.audio import SAMPLE_RATE, AudioError, Samples
from stillsmall.sources.base import BATCH_BYTES, Batch, Clip, PreparationError, audio_digest

REASONS = ("missing_file", "unreadable", "empty", "too_short", "silent", "non_finite", "overscaled",
           "misdeclared_duration", "duplicate_id", "path_outside_source")  # fmt: skip
DURATION_TOLERANCE_S = 0.5
NAME_DIGITS = 16  # of a shard's digest, in its name
HELD_BYTES = 8 << 20  # of FLAC in memory before it is written
DECODERS = ("soundfile", "soxr", "av", "numpy", "pyarrow")  # other versions of them may give other bytes
CODE = ("stillsmall.audio", "stillsmall.manifest", "stillsmall.sources.base", "stillsmall.sources.shards")
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Settings:
    """What the making of a batch depends on besides its clips; the seconds and decibels are of `prepare`."""

    cache: str
    source: str
    split: str
    shard_utterances: int
    min_duration_s: float
    max_piece_s: float
    silence_dbfs: float


@dataclass(frozen=True)
class Result:
    """A finished batch: where its shards lie, its utterances, and what was refused.

    An utterance is a row of the manifest whose `shard` is a number in `shards`; `digest` is of its audio in the source.
    """

    folder: Path
    shards: list[str]
    utterances: list[dict[str, Any]]
    quarantine: list[dict[str, str]]
    items: list[list[str | None]]  # item, digest of its audio, text
    uncut_texts: int  # transcripts that no piece could keep


def make(batch: Batch, settings: Settings) -> Result:
    """The batch's result, from the cache if it was made before. Raises PreparationError where the disk is full."""
    folder = Path(settings.cache) / key(batch, settings)
    if (found := _finished(folder)) is not None:
        return found
    shutil.rmtree(folder, ignore_errors=True)
    _clear_leftovers(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        _write(batch, settings, partial)
        _appear(partial, folder)
    except OSError as error:
        raise worded(error, partial.parent, f"while a shard of '{settings.source}' was written") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    made = _finished(folder)
    assert made is not None
    return made


def _finished(folder: Path) -> Result | None:
    """The batch in the folder, if all of it is there: someone may have made room by hand."""
    try:
        result = Result(folder=folder, **json.loads((folder / "batch.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None
    return result if all((folder / name).is_file() for name in result.shards) else None


def worded(error: OSError, path: Path, when: str) -> Exception:
    """A full disk in words; any other error as it is."""
    if error.errno not in FULL_DISK:
        return error
    cause = os.strerror(error.errno)
    return PreparationError(
        f"{path}: the disk is full ({cause}) {when}; make room and run again: finished work is kept"
    )


def key(batch: Batch, settings: Settings) -> str:
    """The digest that names a batch: its clips and their bytes, the settings, the code and the decoders."""
    given = {name: value for name, value in asdict(settings).items() if name != "cache"}
    versions = [(name, importlib.metadata.version(name)) for name in DECODERS]
    return cache.digest([batch.identity(), given, cache.code_digest(*CODE), versions])


def _clear_leftovers(folder: Path) -> None:
    """Removes what a killed process has left of this batch; another living one's work is let be."""
    for old in folder.parent.glob(f".{folder.name}.*.partial"):
        if not _lives(int(old.name.split(".")[-2])):
            shutil.rmtree(old, ignore_errors=True)


def _lives(pid: int) -> bool:
    """Whether a process can still write: a killed one whose parent has not asked for its end yet cannot."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _appear(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise  # otherwise another process has made the same batch; it is as good


def _write(batch: Batch, settings: Settings, folder: Path) -> None:
    utterances: list[dict[str, Any]] = []
    quarantine: list[dict[str, str]] = []
    items: list[list[str | None]] = []
    uncut_texts = 0
    with Shards(folder, settings.shard_utterances) as shards:
        for clip in batch.clips():
            rows: list[dict[str, Any]] = []
            digest = audio_digest(clip)
            # the lab may say nothing twice, and two silences are equal; equal files are not chance
            digest_of_file = None if isinstance(clip.audio, np.ndarray) else digest
            try:
                for row, content in _utterances(clip, settings):
                    rows.append({**row, "shard": shards.add(row["utt_id"], content), "digest": digest_of_file})
            except AudioError as fault:
                rows = []
                quarantine.append(
                    {"source": settings.source, "item": clip.item, "reason": fault.reason, "detail": fault.detail}
                )
            utterances += rows
            uncut_texts += len(rows) > 1 and bool(clip.text)
            items.append([clip.item, digest, clip.text])
        shards.end()
    result = {"shards": shards.names, "utterances": utterances, "quarantine": quarantine}
    cache.write_json(folder / "batch.json", result | {"items": items, "uncut_texts": uncut_texts})


class Shards:
    """Audio on its way to a batch's Parquet files, a few megabytes at a time; a file is full by count or by bytes."""

    def __init__(self, folder: Path, utterances: int) -> None:
        self.folder = folder
        self.open = folder / ".open.parquet"
        self.limit = utterances
        self.count = self.size = 0
        self.names: list[str] = []
        self.held: list[dict[str, Any]] = []
        self.file: pq.ParquetWriter | None = None

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, utt_id: str, content: bytes) -> int:
        """The number of the file that the utterance goes to."""
        if self.count and (self.count == self.limit or self.size + len(content) > BATCH_BYTES):
            self.end()
        self.count += 1
        self.size += len(content)
        self.held.append({"utt_id": utt_id, "audio": content})
        if sum(len(row["audio"]) for row in self.held) >= HELD_BYTES:
            self._flush()
        return len(self.names)

    def end(self) -> None:
        """Finishes the file that is open; the next utterance begins another."""
        if self.held:
            self._flush()
        if self.file is not None:
            self.file.close()
            self.file = None
            # Named by its bytes, not its position: work that is kept per shard, such as a teacher's labels, still
            # finds a shard after files have been added before it.
            self.names.append(f"shard-{cache.file_digest(self.open)[:NAME_DIGITS]}.parquet")
            self.open.rename(self.folder / self.names[-1])
        self.count = self.size = 0

    def _flush(self) -> None:
        if self.file is None:
            # FLAC does not get smaller by being compressed again
            self.file = pq.ParquetWriter(self.open, manifest.AUDIO, compression="none", use_dictionary=False,
                                         write_statistics=False)  # fmt: skip
        self.file.write_table(pa.Table.from_pylist(self.held, schema=manifest.AUDIO))
        self.held = []


def _utterances(clip: Clip, settings: Settings) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The manifest rows of a clip, with their FLAC bytes. Raises AudioError before the first one, or not at all."""
    judged, blocks = _judged(clip, settings)
    pieces = audio.pieces(blocks, settings.max_piece_s)
    several = judged > settings.max_piece_s * SAMPLE_RATE
    for number, (start, samples) in enumerate(pieces):
        row = {
            "utt_id": f"{settings.source}/{clip.item}" + (f"@{number:05d}" if several else ""),
            "source": settings.source,
            "split": settings.split,
            "domain": clip.domain,
            "language": clip.language,
            "speaker": clip.speaker,
            "recording": clip.recording,
            "offset_s": clip.offset_s + start / SAMPLE_RATE,
            "duration_s": len(samples) / SAMPLE_RATE,
            "text": None if several else clip.text,
        }
        yield row, audio.encode_flac(samples)


def _judged(clip: Clip, settings: Settings) -> tuple[int, Iterator[Samples]]:
    """Samples in the clip, and its blocks; all of it is read and judged before any of it is used.

    What is no longer than a piece is kept from that reading; a longer recording is read again rather than held.
    """
    limit = settings.max_piece_s * SAMPLE_RATE
    held: list[Samples] = []
    length, peak = 0, 0.0
    for block in _blocks(clip):
        length += len(block)
        peak = max(peak, float(np.abs(block).max(initial=0.0)))
        held = [*held, block] if length <= limit else []
    _judge(clip, settings, length, peak)
    return length, iter(held) if length <= limit else _blocks(clip)


def _blocks(clip: Clip) -> Iterator[Samples]:
    if isinstance(clip.audio, AudioError):
        raise clip.audio
    if isinstance(clip.audio, np.ndarray):
        return iter([clip.audio])
    return audio.stream(clip.audio, clip.offset_s, clip.duration_s if clip.cut else None)


def _judge(clip: Clip, settings: Settings, length: int, peak: float) -> None:
    seconds = length / SAMPLE_RATE
    if clip.cut:
        if seconds < (clip.duration_s or 0.0) - DURATION_TOLERANCE_S or not length:
            declared = f"{clip.offset_s:.2f} s + {clip.duration_s or 0.0:.2f} s"
            raise AudioError("misdeclared_duration", f"declared {declared}, the audio has {seconds:.2f} s there")
    elif not length:
        raise AudioError("empty", "no samples in it")
    elif clip.duration_s is not None and abs(seconds - clip.duration_s) > DURATION_TOLERANCE_S:
        raise AudioError("misdeclared_duration", f"declared {clip.duration_s:.2f} s, the audio has {seconds:.2f} s")
    if seconds < settings.min_duration_s:
        raise AudioError("too_short", f"{seconds:.3f} s, below {settings.min_duration_s} s")
    if not clip.may_be_silent and audio.dbfs(peak) < settings.silence_dbfs:
        raise AudioError("silent", f"peak {audio.dbfs(peak):.0f} dBFS, below {settings.silence_dbfs:.0f} dBFS")
