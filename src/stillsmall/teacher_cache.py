"""Teacher outputs computed once: the k largest logits of every unit and the mass of all others, in memory-mapped files.

What a teacher says of an example depends on its audio and its variant (timestamps, prompt) alone, so every epoch, trial
and seed can read it. Each unit keeps its k largest logits (float16, relative to the largest) and the log of the sum of
the others' exp(z / T), at the temperature T of the objective. From these a whole distribution is built again: the k
largest have their probabilities at T, and the others share the mass that is left as the student shares its own. So a KL
at T is the one over k + 1 outcomes, the last being "any other token": a proper one, never above the full KL, and
without a word on how the others compare. With all logits kept it is the full one.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillsmall import cache
from stillsmall.data import Batch, Example, TargetMaker
from stillsmall.families.base import Output
from stillsmall.objectives.base import IGNORED
from stillsmall.teacher_outputs import Said, TeacherOutputs

BYTES_PER_GB = 10**9
FILL_BATCH = 32  # examples at a time while filling; part of the key, since sums depend on it in their last bits
SAVED_EVERY = 16  # batches
FILES = ("values", "ids", "tail")
Maps = tuple[np.memmap, np.memmap, np.memmap]


@dataclass(frozen=True)
class TopK:
    """(U, k) logits below the unit's largest, (U, k) token ids, and (U,) log-sum-exp of the others at a temperature."""

    values: Tensor
    ids: Tensor
    tail: Tensor


def compress(logits: Tensor, k: int, temperature: float) -> TopK:
    """(U, V) logits to their k largest and the mass of the rest; -inf where nothing is left over."""
    z = logits.float() - logits.float().max(-1, keepdim=True).values
    values, ids = z.topk(min(k, z.shape[-1]), sorted=True)
    rest = (z / temperature).scatter(-1, ids, -torch.inf)
    return TopK(values.half(), ids, rest.logsumexp(-1))


def expand(kept: TopK, vocabulary: int, temperature: float, student: Tensor | None = None) -> Tensor:
    """(U, V) float32 logits: the k largest as they were, and the others with their mass at the temperature.

    They share it as the `student` (U, V) shares its own among them; without one, evenly.
    """
    if kept.ids.shape[-1] == vocabulary:
        return torch.zeros(kept.ids.shape, device=kept.ids.device).scatter_(-1, kept.ids, kept.values.float())
    if student is None:
        student = torch.zeros(len(kept.ids), vocabulary, device=kept.ids.device)
    others = (student.float() / temperature).scatter(-1, kept.ids, -torch.inf)
    shift = kept.tail - others.logsumexp(-1)
    return (temperature * (others + shift[:, None])).scatter(-1, kept.ids, kept.values.float())


class TeacherCache:
    """Teacher outputs from disk. `live` gives the teacher that fills it; it is not asked for where all is there."""

    def __init__(
        self,
        live: Callable[[], TeacherOutputs],
        found: Sequence[Example],
        targets: TargetMaker,
        identity: Sequence[Any],
        k: int | None,
        temperature: float,
        vocabulary: int,
        device: torch.device,
    ) -> None:
        """`identity` names everything else that the outputs depend on: teacher, audio, number type, kept tokens.

        k None: all logits. Batches of `device` are given to the teacher.
        """
        self.live, self.found, self.targets, self.device = live, found, targets, device
        self.vocabulary, self.temperature = vocabulary, temperature
        self.k = vocabulary if k is None else min(k, vocabulary)
        self.whole = self.k == vocabulary  # then neither ids nor a mass of others
        self.places = {variant: n for n, variant in enumerate(targets.variants())}
        counted = [list(self._shapes(variant)) for variant in self.places]
        self.lengths = np.array([length for row in counted for length, _ in row], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        texts = cache.digest([key for row in counted for _, key in row])  # nothing where there are no inputs (CTC)
        cuts = [[(part.parent, part.start_s, part.end_s) for part in example.parts] for example in found]
        code = cache.code_digest(__name__, "stillsmall.data", "stillsmall.teacher_outputs")
        settings = [self.k, None if self.whole else temperature, vocabulary, FILL_BATCH, torch.get_num_threads()]
        settings += [self.lengths.tolist()]
        self.folder = cache.ROOT / "teacher" / cache.digest([*identity, cuts, texts, settings, code])
        self._maps: Maps | None = None

    @property
    def bytes(self) -> int:
        return int(self.starts[-1]) * (self.k * 2 if self.whole else self.k * (2 + 4) + 4)

    def _shapes(self, variant: int) -> Iterator[tuple[int, str]]:
        """(units, digest of what the decoder sees) of each example."""
        for i, example in enumerate(self.found):
            batch = self.targets.collate([i], [example], [variant])
            yield _lengths(batch)[0], cache.digest([] if batch.inputs is None else batch.inputs.tolist())

    def fits(self, budget_gb: float) -> bool:
        """Whether the outputs fit a disk budget; says so where they don't."""
        if budget_gb and self.bytes > budget_gb * BYTES_PER_GB:
            size = self.bytes / BYTES_PER_GB
            print(f"teacher outputs would take {size:.1f} GB, over distill.teacher_cache_gb: live", file=sys.stderr)
        return 0 < self.bytes <= budget_gb * BYTES_PER_GB

    def found_whole(self) -> bool:
        """Maps what is there, if it is all of it; a damaged one is thrown away."""
        done = self.folder / "done.json"
        if self._maps is not None or not done.is_file():
            return self._maps is not None
        said = json.loads(done.read_text())
        if damaged := [name for name in FILES if self._digest(name) != said["files"][name]]:
            print(f"{self.folder / damaged[0]} is damaged: teacher outputs are computed anew", file=sys.stderr)
            shutil.rmtree(self.folder)
            return False
        self._maps = self._open("r")
        return True

    def fill(self, advance: Callable[[int], None]) -> None:
        """Computes what is not there and maps it; goes on where a kill left off."""
        if self.found_whole():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._compute(advance)
        files = {name: self._digest(name) for name in FILES}
        cache.write_json(self.folder / "done.json", {"vocabulary": self.vocabulary, "k": self.k, "files": files})
        self._maps = self._open("r")

    def _digest(self, name: str) -> str | None:
        path = self.folder / name
        return cache.file_digest(path) if path.is_file() else None

    def _open(self, mode: Any) -> Maps:
        units = int(self.starts[-1])
        more = 0 if self.whole else units  # of the files that are not needed, an empty one cannot be mapped: one row
        kinds, shapes = (np.float16, np.int32, np.float32), ((units, self.k), (max(1, more), self.k), (max(1, more),))
        made = [
            np.memmap(self.folder / name, kind, mode, shape=shape)
            for name, kind, shape in zip(FILES, kinds, shapes, strict=True)
        ]
        return made[0], made[1], made[2]

    def _compute(self, advance: Callable[[int], None]) -> None:
        teacher, progress = self.live(), self.folder / "progress.json"
        memory = json.loads(progress.read_text()) if progress.is_file() else {"batches": 0, "examples": 0}
        maps = None
        advance(memory["examples"])
        for number, batch in enumerate(self._batches()):
            if number < memory["batches"]:
                continue
            logits = teacher(batch.to(self.device), False).first.logits
            maps = maps or self._open("r+" if memory["batches"] else "w+")
            for row, length in enumerate(_lengths(batch)):
                self._keep(maps, self._span(batch, row), logits[row, :length])
            advance(len(batch.index))
            if number % SAVED_EVERY == SAVED_EVERY - 1:
                for part in maps:
                    part.flush()
                memory = {"batches": number + 1, "examples": memory["examples"] + SAVED_EVERY * FILL_BATCH}
                cache.write_json(progress, memory)
        for part in maps or ():
            part.flush()
        progress.unlink(missing_ok=True)

    def _keep(self, maps: Maps, at: slice, logits: Tensor) -> None:
        if self.whole:
            maps[0][at] = (logits.float() - logits.float().max(-1, keepdim=True).values).half().cpu().numpy()
            return
        kept = compress(logits, self.k, self.temperature)
        maps[0][at], maps[1][at], maps[2][at] = (t.cpu().numpy() for t in (kept.values, kept.ids, kept.tail))

    def _batches(self) -> Iterator[Batch]:
        """All examples in all variants, by length, in an order of their own: no epoch's or trial's."""
        for place, variant in enumerate(self.places):
            base = place * len(self.found)
            order = sorted(range(len(self.found)), key=lambda i: (self.lengths[base + i], i))
            for begin in range(0, len(order), FILL_BATCH):
                index = order[begin : begin + FILL_BATCH]
                batch = self.targets.collate(index, [self.found[i] for i in index], [variant] * len(index))
                yield batch

    def _span(self, batch: Batch, row: int) -> slice:
        number = self.places[batch.variants[row]] * len(self.found) + batch.index[row]
        return slice(int(self.starts[number]), int(self.starts[number + 1]))

    def __call__(self, batch: Batch, hidden: bool, student: Tensor | None = None) -> Said:
        """The batch's outputs; positions past an example's own are 0 and have no loss.

        `student` (B, U, V): its logits, as which the tokens that were not kept share their mass.
        """
        assert self._maps is not None, "fill() comes first"
        spans = [self._span(batch, row) for row in range(len(batch.index))]
        units = np.concatenate([np.arange(span.start, span.stop) for span in spans])
        device = batch.labels.device
        lengths = torch.tensor([span.stop - span.start for span in spans], device=device)
        width = int(lengths.max()) if batch.inputs is None else batch.inputs.shape[1]
        if student is not None:
            width = student.shape[1]
        whole = torch.zeros(len(spans), width, self.vocabulary, device=device)
        inside = torch.arange(width, device=device)[None] < lengths[:, None]
        own = None if student is None else student.detach()[inside]
        whole[inside] = self._expanded(units, device, own)
        return Said(Output(whole))

    def _expanded(self, units: np.ndarray, device: torch.device, student: Tensor | None) -> Tensor:
        assert self._maps is not None
        values, ids, tail = self._maps
        if self.whole:
            return torch.from_numpy(values[units]).to(device).float()
        arrays = (values[units], ids[units].astype(np.int64), tail[units])
        kept = TopK(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))
        return expand(kept, self.vocabulary, self.temperature, student)


def _lengths(batch: Batch) -> list[int]:
    """Units of each example up to its last one with a loss."""
    if batch.frames is not None:
        return [int(n) for n in batch.frames]
    places = torch.arange(1, batch.labels.shape[1] + 1) * (batch.labels.cpu() != IGNORED)
    return [int(n) for n in places.max(1).values]
