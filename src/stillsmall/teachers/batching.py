"""Work in batches that outlives a full memory and a bad clip: halve, go on, and name what failed alone."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
NO_MEMORY = re.compile(r"out of memory|can(not|'t) allocate|bad_alloc|not enough memory", re.IGNORECASE)


@dataclass(frozen=True)
class Trouble:
    """Why one item alone could not be worked on."""

    reason: str
    detail: str


class Batches:
    """Batches of at most `size` items. The size is halved when memory runs out and stays so; `path` is for the warning.

    torch and CTranslate2 raise RuntimeError, numpy MemoryError; all are known by their type or their words. Any other
    error of a batch makes its items be tried one by one. An item that fails alone becomes a Trouble. ValueErrors of
    this library are about the configuration, not about an item, and pass through.
    """

    def __init__(self, size: int, path: str, release: Callable[[], object] = gc.collect) -> None:
        self.size, self.path, self.release = size, path, release
        self._shrunk = False

    def run(self, items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R | Trouble]:
        """Every item's result, in order. `work` gives one result per item of the batch that it gets."""
        found: list[R | Trouble] = []
        while len(found) < len(items):
            part = items[len(found) : len(found) + self.size]
            made = self._try(part, work)
            if made is not None:
                found += made
                self._say()
        return found

    def _try(self, part: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R | Trouble] | None:
        """The batch's results; None where it has to be tried again with a smaller size."""
        try:
            return list(work(part))
        except Exception as error:
            if isinstance(error, ValueError) and type(error).__module__.startswith("stillsmall."):
                raise
            no_memory = isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))
            trouble = Trouble("out_of_memory" if no_memory else type(error).__name__, _words(error))
        self.release()  # outside of `except`: the traceback holds the batch's tensors
        if len(part) == 1:
            return [trouble]
        if no_memory:
            self.size, self._shrunk = max(1, len(part) // 2), True
            return None
        alone: list[R | Trouble] = []
        for item in part:
            alone += self._try([item], work) or []
        return alone

    def _say(self) -> None:
        if self._shrunk:
            print(f"{self.path}.batch_size: memory ran out; {self.size} works and is used from here", file=sys.stderr)
        self._shrunk = False


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
