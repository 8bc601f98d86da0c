"""From kept labels to batches: targets with prefixes and prompts, in an order that depends on seed and step alone.

Nothing here remembers where it is: the batch of a step is a function of (seed, step), which makes resuming exact.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stillsmall import audio, compute, manifest
from stillsmall.objectives.base import IGNORED
from stillsmall.whisper_tokens import WhisperTokens

BUCKET_BATCHES = 8  # batches are sorted by target length within so many, which keeps padding small and order random
TIMED, PROMPTED = 1, 2  # bits of a variant
LENGTH_SLACK_S = 0.02  # a clip may be over the window by rounding


@dataclass(frozen=True)
class Part:
    """A stretch of a prepared utterance, in seconds from its start; `label` is the id of the label that it has."""

    label: str
    parent: str
    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Example:
    """A kept label, or several that `packing` has put into one window.

    `parts` are the stretches of audio that it hears, one after the other; `segments` are timed on that clock.
    `previous` is the text just before it in the same recording and speaker, if any.
    """

    utt_id: str
    parts: tuple[Part, ...]
    language: str
    text: str
    segments: tuple[tuple[float, float, str], ...]
    previous: str
    source: str
    recording: str | None
    speaker: str | None
    offset_s: float  # of its start in the recording
    speed: float = 1.0  # how many times as fast as it was said it is heard; `segments` are timed as it is heard

    @property
    def duration_s(self) -> float:
        """As it is heard."""
        return sum(part.duration_s for part in self.parts) / self.speed

    @property
    def samples(self) -> int:
        """As many as are heard of it, to the sample."""
        if self.speed != 1.0:
            return round(self.duration_s * audio.SAMPLE_RATE)
        ends = ((round(p.start_s * audio.SAMPLE_RATE), round(p.end_s * audio.SAMPLE_RATE)) for p in self.parts)
        return sum(end - start for start, end in ends)


@dataclass(frozen=True)
class TokenSequence:
    """Token ids of one example as one epoch sees it."""

    inputs: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Batch:
    """B examples: `labels` are (B, T), padded to the longest; `index` points into the examples.

    `inputs` are the decoder's, (B, T); None for CTC, which has `frames` instead: (B,) frames of audio in each clip.
    """

    index: tuple[int, ...]
    sample_ids: tuple[str, ...]
    inputs: Tensor | None
    labels: Tensor
    frames: Tensor | None = None
    variants: tuple[int, ...] = ()  # which of its family's variants (timestamps, prompt) each example is in
    epoch: int = 0  # what is drawn anew in each epoch depends on it

    @property
    def tokens(self) -> int:
        """Units that have a loss: text positions, or frames."""
        return int((self.labels != IGNORED).sum() if self.frames is None else self.frames.sum())

    def micro(self, size: int) -> Iterator[Batch]:
        """The batch in parts of at most `size` examples, each padded only to its own longest."""
        for begin in range(0, len(self.index), size):
            part = slice(begin, begin + size)
            found = (self.labels[part] != IGNORED).nonzero()[:, 1]
            longest = int(found.max()) + 1 if len(found) else 1
            inputs = None if self.inputs is None else self.inputs[part, :longest]
            frames = None if self.frames is None else self.frames[part]
            labels, variants = self.labels[part, :longest], self.variants[part]
            yield Batch(self.index[part], self.sample_ids[part], inputs, labels, frames, variants, self.epoch)

    def to(self, device: torch.device) -> Batch:
        moved = [None if t is None else t.to(device) for t in (self.inputs, self.labels, self.frames)]
        return replace(self, inputs=moved[0], labels=moved[1], frames=moved[2])


def examples(kept: Path) -> list[Example]:
    """The kept labels in the order of their ids, each with the text before it in its recording and speaker."""
    rows = manifest.rows(kept, manifest.SCORE)
    before: dict[str, str] = {}
    ordered = sorted(rows, key=lambda r: (r["recording"] or "", (r["offset_s"] or 0.0) + r["start_s"], r["utt_id"]))
    for last, row in zip([None, *ordered], ordered, strict=False):
        same = last and all(last[key] == row[key] for key in ("source", "recording", "speaker"))
        before[row["utt_id"]] = last["teacher_text"] if last and same else ""
    keys = ("utt_id", "language", "source", "recording", "speaker")
    return [
        Example(
            **{key: row[key] for key in keys},
            parts=(Part(row["utt_id"], row["parent"], row["start_s"], row["end_s"]),),
            text=row["teacher_text"],
            segments=tuple((s["start"], s["end"], s["text"]) for s in row["segments"]),
            previous=before[row["utt_id"]],
            offset_s=(row["offset_s"] or 0.0) + row["start_s"],
        )
        for row in sorted(rows, key=lambda row: str(row["utt_id"]))
    ]


class TargetMaker(Protocol):
    """How one family's targets are made of examples."""

    seed: int

    def usable(self, found: Sequence[Example]) -> tuple[list[Example], list[dict[str, str]]]: ...

    def too_long(self, example: Example) -> str | None: ...

    def length(self, example: Example) -> int:
        """In tokens or frames: what batches are sorted by."""
        ...

    def variants(self) -> tuple[int, ...]:
        """Every variant that some epoch may show of an example; an example's sequence depends on nothing else."""
        ...

    def variant(self, example: Example, epoch: int) -> int: ...

    def collate(self, index: Sequence[int], found: Sequence[Example], variants: Sequence[int]) -> Batch: ...


@dataclass(frozen=True)
class Targets:
    """Turns examples into token sequences for a model with `positions` decoder positions and a window of `window_s`."""

    tokens: WhisperTokens
    positions: int
    window_s: float
    task: str
    seed: int
    timestamp_probability: float
    previous_text_probability: float

    def usable(self, found: Sequence[Example]) -> tuple[list[Example], list[dict[str, str]]]:
        """(those that fit, those that don't with the reason): nothing is cut off in silence."""
        fit, skipped = [], []
        for example in found:
            if reason := self.too_long(example):
                skipped.append({"utt_id": example.utt_id, "reason": reason})
            else:
                self.tokens.require_language(example.language, f"language of {example.utt_id}")
                fit.append(example)
        return fit, skipped

    def too_long(self, example: Example) -> str | None:
        """Why the model cannot take the example whole; None where it can. Exactly full is not too long."""
        if example.duration_s > self.window_s + LENGTH_SLACK_S:
            return f"audio longer than the window of {self.window_s} s"
        if len(self._sequence(example, timestamps=True, prompted=False).labels) > self.positions:
            return f"label longer than {self.positions} positions"
        return None

    def length(self, example: Example) -> int:
        return len(self.tokens.target(example.text, example.language))

    def variants(self) -> tuple[int, ...]:
        """0: plain; 1: with timestamps; 2: prompted; 3: both."""
        times = {0.0: (0,), 1.0: (TIMED,)}.get(self.timestamp_probability, (0, TIMED))
        prompts = {0.0: (0,), 1.0: (0, PROMPTED)}.get(self.previous_text_probability, (0, PROMPTED))
        return tuple(sorted(t + p for t in times for p in prompts))

    def variant(self, example: Example, epoch: int) -> int:
        """Drawn from the example's own id and the epoch. Without text before it, an example has no prompt."""

        def draw(kind: str) -> float:
            return compute.seed(self.seed, kind, epoch, example.utt_id) / (1 << 63)

        timed = TIMED if draw("timestamps") < self.timestamp_probability else 0
        prompted = draw("prompt") < self.previous_text_probability and example.previous
        return timed + (PROMPTED if prompted else 0)

    def collate(self, index: Sequence[int], found: Sequence[Example], variants: Sequence[int]) -> Batch:
        rows = [self.sequence(example, variant) for example, variant in zip(found, variants, strict=True)]
        longest = max(len(row.inputs) for row in rows)
        inputs = torch.tensor([row.inputs + [self.tokens.end] * (longest - len(row.inputs)) for row in rows])
        labels = padded([row.labels for row in rows])
        return Batch(tuple(index), tuple(e.utt_id for e in found), inputs, labels, variants=tuple(variants))

    def sequence(self, example: Example, variant: int) -> TokenSequence:
        """The example's tokens in one variant."""
        return self._sequence(example, bool(variant & TIMED), bool(variant & PROMPTED))

    def _sequence(self, example: Example, timestamps: bool, prompted: bool) -> TokenSequence:
        prefix = self.tokens.prefix(example.language, self.task, timestamps)
        language = example.language
        timed = (
            self.tokens.timed_target(example.segments, language)
            if timestamps
            else self.tokens.target(example.text, language)
        )
        room = min(self.positions // 2, self.positions - len(prefix) - len(timed) + 1)
        prompt = self.tokens.prompt(example.previous, language, room) if prompted and room > 1 else []
        whole = prompt + prefix + timed
        labels = [IGNORED] * len(prompt) + whole[len(prompt) + 1 :]
        # language and task are learnt at their positions, as in Whisper; the no-timestamps mark is a coin of ours
        labels = [IGNORED if token == self.tokens.no_timestamps else token for token in labels]
        return TokenSequence(whole[:-1], labels)


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """(B, T) labels, IGNORED where a row is shorter than the longest."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[IGNORED] * (longest - len(row))] for row in rows])


class Batches:
    """The batch of any step: `batches(step)`. `change` gives an example as it is in an epoch."""

    def __init__(
        self,
        found: Sequence[Example],
        targets: TargetMaker,
        batch_size: int,
        change: Callable[[Example, int], Example] | None = None,
    ) -> None:
        self.found, self.targets, self.batch_size = found, targets, batch_size
        self.change = change or (lambda example, epoch: example)
        self.lengths = [targets.length(e) for e in found]
        self.per_epoch = -(-len(found) // batch_size)
        self._order: tuple[int, list[list[int]]] = (-1, [])

    def __call__(self, step: int) -> Batch:
        epoch, number = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self.order(epoch))
        index = self._order[1][number]
        found = [self.change(self.found[i], epoch) for i in index]
        variants = [self.targets.variant(example, epoch) for example in found]
        return replace(self.targets.collate(index, found, variants), epoch=epoch)

    def order(self, epoch: int) -> list[list[int]]:
        """Each example once: shuffled, sorted by length within buckets, and the batches shuffled again."""
        rng = np.random.default_rng(compute.seed(self.targets.seed, "order", epoch))
        shuffled = rng.permutation(len(self.found)).tolist()
        size, bucket = self.batch_size, self.batch_size * BUCKET_BATCHES
        batches = []
        for begin in range(0, len(shuffled), bucket):
            part = sorted(shuffled[begin : begin + bucket], key=lambda i: (self.lengths[i], i))
            batches += [part[b : b + size] for b in range(0, len(part), size)]
        return [batches[i] for i in rng.permutation(len(batches))]


class Audio:
    """The audio of examples, decoded when asked for; the last few shards stay in memory, still compressed."""

    def __init__(self, split: Path, found: Sequence[Example], shards_in_memory: int = 64) -> None:
        parents = {part.parent for example in found for part in example.parts}
        table = manifest.read(split / "manifest.parquet", manifest.UTTERANCE).select(["utt_id", "shard"]).to_pylist()
        self.split, self.found, self.most = split, found, shards_in_memory
        self.shard = {row["utt_id"]: row["shard"] for row in table if row["utt_id"] in parents}
        self._held: dict[str, dict[str, bytes]] = {}
        self._lock = threading.Lock()  # the loader's thread reads ahead while the loop reads

    def __call__(self, index: int) -> np.ndarray:
        """(samples,) float32 of one example: its parts, one after the other."""
        parts = [self._part(part) for part in self.found[index].parts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _part(self, part: Part) -> np.ndarray:
        whole = audio.decode_flac(self._flac(part.parent))
        return whole[round(part.start_s * audio.SAMPLE_RATE) : round(part.end_s * audio.SAMPLE_RATE)]

    def _flac(self, utt_id: str) -> bytes:
        name = self.shard[utt_id]
        with self._lock:
            if name not in self._held:
                while len(self._held) >= self.most:
                    self._held.pop(next(iter(self._held)))
                (_, found), *_ = manifest.audio(self.split, [name])
                self._held[name] = dict(found)
            return self._held[name][utt_id]


def features(extractor: Any, clips: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    """(B, mels, frames) log-mel of clips, padded to the model's window as it was trained."""
    made = extractor(clips, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt").input_features
    tensor: Tensor = made.to(dtype)
    return tensor
