"""A step's micro-batches, made ready while the model is still at the step before; and how long the model waited."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from torch import Tensor

from stillsmall.data import Batch, Batches
from stillsmall.multi_process import Team


class Ears(Protocol):
    """What student and teacher hear of a micro-batch: a function of its clips and epoch alone."""

    def student(self, batch: Batch) -> Tensor:
        """What the family's `features` gives, augmented as the parameters say; in the CPU's memory."""
        ...

    def teacher(self, batch: Batch) -> Tensor: ...

    def prepare(self, batch: Batch) -> None:
        """Computes what will be asked for and holds it."""
        ...

    def forget(self, batch: Batch) -> None:
        """Lets go of what `prepare` holds."""
        ...


@dataclass(frozen=True)
class Load:
    """One step's batch, and this process's micro-batches of it, each with its number in the step."""

    batch: Batch
    mine: list[tuple[int, Batch]]


def micro_size(batch_size: int, micro_batch: int, team: Team) -> int:
    """`micro_batch`, or fewer where some process would have none of a whole batch of `batch_size`."""
    return min(micro_batch, -(-batch_size // team.size))


class Loader:
    """`loader(step)` for steps one after the other; `ahead` further ones are in the making. A context manager."""

    def __init__(self, batches: Batches, ears: Ears, micro_size: int, team: Team, ahead: int, steps: int) -> None:
        self.batches, self.ears, self.micro_size, self.team = batches, ears, micro_size, team
        self.ahead, self.steps = ahead, steps
        self.waited_s = 0.0
        self._pool = ThreadPoolExecutor(1, "loader") if ahead else None
        self._coming: dict[int, Future[Load]] = {}
        self._last: Load | None = None

    def __call__(self, step: int) -> Load:
        since = time.monotonic()
        if self._last is not None:
            for _, micro in self._last.mine:
                self.ears.forget(micro)
        self._last = self._take(step)
        self.waited_s += time.monotonic() - since
        return self._last

    def _take(self, step: int) -> Load:
        if self._pool is None:
            return self._make(step)
        for number in range(step, min(step + self.ahead + 1, self.steps)):
            if number not in self._coming:
                self._coming[number] = self._pool.submit(self._make, number)
        return self._coming.pop(step).result()

    def _make(self, step: int) -> Load:
        batch = self.batches(step)
        mine = self.team.share(list(enumerate(batch.micro(self.micro_size))))
        for _, micro in mine:
            self.ears.prepare(micro)
        return Load(batch, mine)

    def __enter__(self) -> Callable[[int], Load]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
