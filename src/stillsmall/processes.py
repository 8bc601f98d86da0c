"""Work in several processes, its results in the order of the jobs, and no more than a few jobs in memory."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

J = TypeVar("J")
R = TypeVar("R")
IN_FLIGHT = 2  # jobs per worker that wait or are done out of turn: workers stay busy, a stream is not read into memory


class WorkerDied(RuntimeError):
    """A worker process ended without an answer: killed, or a library that it called crashed."""


def in_order(work: Callable[[J], R], jobs: Iterable[J], workers: int, parameter: str) -> Iterator[R]:
    """`work(job)` of each job, in the order of the jobs whatever the number of workers; one worker is this process.

    `work` has to be a module's function. Raises what `work` raises, and WorkerDied, which names `parameter`.
    """
    if workers == 1:
        yield from map(work, jobs)
        return
    spawn = multiprocessing.get_context("spawn")  # forking after threads have started (pyarrow has some) can deadlock
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=end_with_parent) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(work, job))
                if len(waiting) > IN_FLIGHT * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise WorkerDied(f"a worker process died (out of memory?); run again with a smaller {parameter}") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever: the queue it reads is its own to write, too."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
