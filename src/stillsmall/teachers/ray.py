"""Labelling on a Ray cluster: actors that load the teacher once and label whole shards into a shared cache.

The shards have the names and the bytes that they have without Ray. What is written is finished, so a node that dies
costs the shard in hand, which another actor takes up; nothing is lost and nothing is published twice. The cache folder
(STILLSMALL_CACHE), the prepared data and the models must be at the same paths on every node.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stillsmall import cache

ATTEMPTS = 5  # of one shard, on other actors, before the fault is taken for the shard's


class ClusterError(RuntimeError):
    """The cluster cannot do the work."""


class Worker:
    """What an actor is: a teacher, loaded once, and the function that labels a shard with it."""

    def __init__(self, labelling: Any, work: Callable[..., None], root: str) -> None:
        cache.ROOT = Path(root)
        self.teacher, self.work = labelling.teacher(), work

    def label(self, job: Any, path: Path) -> None:
        if not path.is_file():  # another actor may have finished it just before its node went
            self.work(self.teacher, job, path)


def run(
    missing: Sequence[tuple[Any, Path]], labelling: Any, work: Callable[..., None], advance: Callable[[int], None]
) -> None:
    """Labels every (job, path) with `labelling.config.ray_actors` actors; raises what a shard raises.

    Raises ClusterError where a shard has lost its actor `ATTEMPTS` times, or where no actor can be placed.
    """
    import ray

    config = labelling.config
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=config.ray_address, log_to_driver=False, include_dashboard=False)
    try:
        crew = _Crew(labelling, work, min(config.ray_actors, len(missing)))
        crew.finish(list(missing), advance)
    finally:
        if ours:
            ray.shutdown()


class _Crew:
    """The actors, and which shard each has in hand."""

    def __init__(self, labelling: Any, work: Callable[..., None], size: int) -> None:
        import ray

        options = {"num_gpus": labelling.config.gpus_per_actor, "num_cpus": 1, "scheduling_strategy": "SPREAD"}
        self.kind: Any = ray.remote(Worker).options(**options)
        root = str(cache.ROOT.resolve())
        labelling = _absolute(labelling)
        self.hire = lambda: self.kind.remote(labelling, work, root)
        self.size = size

    def finish(self, queue: list[tuple[Any, Path]], advance: Callable[[int], None]) -> None:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        idle = [self.hire() for _ in range(self.size)]
        busy: dict[Any, tuple[Any, tuple[Any, Path]]] = {}
        lost: dict[Path, int] = {}
        while queue or busy:
            while queue and idle:
                actor, (job, path) = idle.pop(), queue.pop(0)
                busy[actor.label.remote(job, path)] = (actor, (job, path))
            (done, *_), _ = ray.wait(list(busy), num_returns=1)
            actor, (job, path) = busy.pop(done)
            try:
                ray.get(done)
            except RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except RayActorError as error:
                lost[path] = lost.get(path, 0) + 1
                if lost[path] >= ATTEMPTS:
                    raise ClusterError(f"{job.name}: its actor was lost {ATTEMPTS} times: {_words(error)}") from error
                print(f"{job.name}: its node or actor is gone; another takes it up", file=sys.stderr)
                queue.insert(0, (job, path))
                idle.append(self.hire())
                continue
            idle.append(actor)
            advance(1)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _absolute(labelling: Any) -> Any:
    """The same labelling with paths that hold on every node, whatever its working directory."""
    from dataclasses import replace

    root = Path(labelling.models_root)
    model = Path(labelling.config.model)
    config = labelling.config
    if model.is_dir() and not (root / model).is_dir():
        config = config.model_copy(update={"model": str(model.resolve())})
    return replace(labelling, config=config, models_root=str(root.resolve()))
