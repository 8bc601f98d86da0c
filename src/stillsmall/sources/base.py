"""What every source has: its section of params.yaml, the clips it holds, and how they are taken and batched.

One clip, as a source names it before anything is decoded:
    Clip(item="0094/009440140.flac", audio=PosixPath("data/raw/l2en/train/0094/009440140.flac"),
         recording="l2en/train/0094/009440140.flac", language="en", domain="child", speaker="0094",
         text="mark is going to see elephant")
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from stillsmall.audio import SAMPLE_RATE, SUFFIXES, AudioError, Samples
from stillsmall.cache import file_digest
from stillsmall.config import Positive, Section, Share
from stillsmall.manifest import UNDETERMINED
from stillsmall.plugins import nearest

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
_WHISPER = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is"
    " it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk"
    " sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh"
)
LANGUAGES = frozenset(_WHISPER.split()) | {UNDETERMINED}
BATCH_BYTES = 64 << 20  # of audio in a batch, at most (but one clip): long recordings spread over the workers


class PreparationError(ValueError):
    """Speech that cannot be prepared as params.yaml asks; the message says what, where, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One item of a source. `audio` is where it is, its bytes, its samples, or what is already known to be wrong."""

    item: str
    audio: Path | bytes | Samples | AudioError
    recording: str
    language: str
    domain: str
    speaker: str | None = None
    text: str | None = None
    offset_s: float = 0.0
    duration_s: float | None = None  # as the source declares it
    cut: bool = False  # the item is [offset_s, offset_s + duration_s] of the audio, not all of it
    may_be_silent: bool = False


class Batch(Protocol):
    """Clips that are prepared together, in one process; it is sent there, so it pickles."""

    def __len__(self) -> int: ...

    def identity(self) -> Any:
        """All that the result depends on, as JSON; the audio by its digest."""

    def clips(self) -> Iterable[Clip]: ...


@dataclass(frozen=True)
class Clips:
    """A batch of clips that are files or bytes."""

    held: tuple[Clip, ...]

    def __len__(self) -> int:
        return len(self.held)

    def identity(self) -> Any:
        fields = ("item", "recording", "language", "domain", "speaker", "text")
        rest = ("offset_s", "duration_s", "cut", "may_be_silent")
        return [[audio_digest(clip), *(getattr(clip, name) for name in fields + rest)] for clip in self.held]

    def clips(self) -> Iterable[Clip]:
        return self.held


@dataclass(frozen=True)
class Plan:
    """The batches of a source; `total` is the number of its items, None for a stream."""

    batches: Iterable[Batch]
    total: int | None


@dataclass(frozen=True)
class Place:
    """Where a source is prepared: the folder of relative paths, its dotted path for errors, clips in a batch."""

    root: Path
    where: str
    batch: int


class Take(Section):
    """A sample of a source, the same on every run: each item's digest decides, not its position."""

    count: Positive | None = None
    share: Share | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _one(self) -> Take:
        if (self.count is None) == (self.share is None):
            raise ValueError("give either count or share")
        return self


def language(code: str) -> str:
    """The code, if Whisper knows it. Raises ValueError."""
    if code not in LANGUAGES:
        raise ValueError(f"unknown language '{code}'; {nearest(code, LANGUAGES)}")
    return code


Language = Annotated[str, AfterValidator(language)]


class Source(Section, ABC):
    """The fields of every kind. A kind adds its own, and `plan`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    kind: str
    split: Split
    language: Language | None = None
    domain: str | None = None
    transcripts: Literal["keep", "drop"] = "keep"
    take: Take | None = None

    @abstractmethod
    def plan(self, place: Place) -> Plan:
        """The source's clips in batches, in an order that depends on the data alone."""

    def reference(self, text: str | None) -> str | None:
        """The transcript as later stages may see it."""
        return text if self.transcripts == "keep" else None

    def folder(self, path: str, place: Place) -> Path:
        """A folder that the section names, relative to data.root."""
        folder = place.root / path
        if not folder.is_dir():
            raise PreparationError(f"{place.where}.path: {folder}: no such folder (relative paths start at data.root)")
        return folder

    def planned(self, clips: list[Clip], place: Place) -> Plan:
        """Clips to batches: sorted, a second one of the same id marked, the sample taken."""
        if not clips:
            raise PreparationError(f"{place.where}: source '{self.name}' holds no audio")
        clips = sample(self.take, self.name, list(marked_duplicates(sorted(clips, key=lambda clip: clip.item))))
        if not clips:
            raise PreparationError(f"{place.where}.take: selects none of the items of '{self.name}'")
        return Plan(batched(clips, place.batch), len(clips))


T = TypeVar("T", Clip, str)


def rank(take: Take, source: str, item: str) -> float:
    """An item's place in 0..1, from its id and the seed alone."""
    head = hashlib.sha256(f"{take.seed}:{source}/{item}".encode()).digest()[:8]
    return int.from_bytes(head, "big") / 2**64


def sample(take: Take | None, source: str, items: Sequence[T]) -> list[T]:
    """The items that `take` selects, in their order. They are clips, or ids."""
    if take is None:
        return list(items)
    ranks = [rank(take, source, item if isinstance(item, str) else item.item) for item in items]
    if take.share is not None:
        return [item for item, at in zip(items, ranks, strict=True) if at < take.share]
    chosen = set(sorted(range(len(items)), key=lambda number: (ranks[number], number))[: take.count])
    return [item for number, item in enumerate(items) if number in chosen]


def marked_duplicates(clips: Iterable[Clip]) -> Iterator[Clip]:
    """The clips, one at a time (they may hold their audio); those that repeat an id are to be quarantined."""
    seen: set[str] = set()
    for clip in clips:
        if clip.item in seen:
            fault = AudioError("duplicate_id", f"'{clip.item}' is in the source more than once; the first one is used")
            clip = replace(clip, audio=fault)
        seen.add(clip.item)
        yield clip


def batched(clips: Iterable[Clip], size: int) -> Iterator[Clips]:
    """Batches of at most `size` clips and BATCH_BYTES (or one clip).

    A batch also ends, once half full, where an id's digest says so: new files then change the batches that they fall
    into, and the ones after it keep their clips, their shards, and the labels that a teacher has made for them.
    """
    held: list[Clip] = []
    weight = 0
    for clip in clips:
        more = _weight(clip)
        if held and (len(held) == size or weight + more > BATCH_BYTES):
            yield Clips(tuple(held))
            held, weight = [], 0
        held.append(clip)
        weight += more
        if len(held) >= size / 2 and int(_id_digest(clip.item)[:8], 16) % max(size // 4, 1) == 0:
            yield Clips(tuple(held))
            held, weight = [], 0
    if held:
        yield Clips(tuple(held))


def _id_digest(item: str) -> str:
    return hashlib.sha256(item.encode()).hexdigest()


def _weight(clip: Clip) -> int:
    if clip.cut and clip.duration_s is not None:
        return int(abs(clip.duration_s) * SAMPLE_RATE * 2)
    if isinstance(clip.audio, bytes):
        return len(clip.audio)
    if isinstance(clip.audio, Path):
        try:
            return clip.audio.stat().st_size
        except OSError:
            return 0
    return 0


def audio_digest(clip: Clip) -> str | None:
    """Digest of the audio as the source holds it; None where there is none to read."""
    if isinstance(clip.audio, AudioError):
        return None
    if isinstance(clip.audio, np.ndarray):
        return hashlib.sha256(clip.audio.tobytes()).hexdigest()[:32]
    if isinstance(clip.audio, bytes):
        return hashlib.sha256(clip.audio).hexdigest()[:32]
    try:
        stamp = clip.audio.stat()
        return _file_digest(clip.audio, stamp.st_size, stamp.st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=256)  # many items may be cut from one file
def _file_digest(path: Path, size: int, modified_ns: int) -> str:
    return file_digest(path)


def audio_files(folder: Path, pattern: str = "**/*") -> list[str]:
    """The audio files below a folder, by suffix: paths relative to it, sorted; hidden ones are left out."""
    return [name for name in files(folder, pattern) if Path(name).suffix.lower() in SUFFIXES]


def files(folder: Path, pattern: str) -> list[str]:
    """`Path.glob`, but through linked folders: corpora are often linked together from several disks."""
    return sorted(name for name in glob.glob(pattern, root_dir=folder, recursive=True) if (folder / name).is_file())


def recording_name(path: Path, root: Path) -> str:
    """The file's name for people and for comparing splits: relative to data.root where it lies below it."""
    full, base = os.path.abspath(path), os.path.abspath(root)
    return Path(os.path.relpath(full, base) if full.startswith(base + os.sep) else full).as_posix()


def within(folder: Path, name: str) -> Path | AudioError:
    """`name` below `folder`. By name, not by link: DVC itself may link the files of a folder to its cache."""
    base, full = os.path.abspath(folder), os.path.abspath(folder / name)
    if not full.startswith(base + os.sep):
        return AudioError("path_outside_source", f"{name}: leads out of {folder.name}/, which the source is")
    return folder / os.path.relpath(full, base)
