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

PLACE_S = 600  # without any actor
ATTEMPTS = 5  # of one shard, on other actors, before the fault is taken for the shard's


class ClusterError(RuntimeError):
    """The cluster cannot do the work."""


class Worker:
    """What an actor is: a teacher, loaded once, and the function that labels a shard with it."""

    def __init__(self, labelling: Any, work: Callable[..., None], root: str) -> None:
        cache.ROOT = Path(root)
        self.teacher, self.work = labelling.teacher(), work

    def ready(self) -> None:
        """The teacher is loaded."""

    def label(self, job: Any, path: Path) -> None:
        if not path.is_file():  # another actor may have finished it just before its node went
            self.work(self.teacher, job, path)


def run(
    missing: Sequence[tuple[Any, Path]], labelling: Any, work: Callable[..., None], advance: Callable[[int], None]
) -> None:
    """Labels every (job, path) with `labelling.config.ray_actors` actors; raises what a shard raises.

    Raises ClusterError where a shard has lost its actor `ATTEMPTS` times, where so many actors died while they loaded
    (no model, no memory), or where none can be placed.
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
        """Every shard of the queue. An actor gets a shard when it is there: one that cannot be placed holds none."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        hands: dict[Any, tuple[Any, tuple[Any, Path] | None]] = {}  # None: the actor is being placed
        for _ in range(self.size):
            self._place(hands)
        lost: dict[str, int] = {}
        while queue or any(shard for _, shard in hands.values()):
            done = self._next(hands)
            actor, shard = hands.pop(done)
            try:
                ray.get(done)
                advance(1 if shard else 0)
            except RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except RayActorError as error:
                _count(lost, shard, error)
                if shard:
                    queue.insert(0, shard)
                self._place(hands)
                continue
            if queue:
                job, path = queue.pop(0)
                hands[actor.label.remote(job, path)] = (actor, (job, path))

    def _place(self, hands: dict[Any, Any]) -> None:
        actor = self.hire()
        hands[actor.ready.remote()] = (actor, None)

    def _next(self, hands: dict[Any, Any]) -> Any:
        """The next thing that is done. ClusterError where for long nobody works and nobody can be placed."""
        import ray

        working = any(shard for _, shard in hands.values())
        done, _ = ray.wait(list(hands), num_returns=1, timeout=None if working else PLACE_S)
        if not done:
            raise ClusterError(f"no actor could be placed in {PLACE_S} s; the cluster has {ray.available_resources()}")
        return done[0]


def _count(lost: dict[str, int], shard: tuple[Any, Path] | None, error: Exception) -> None:
    """Says that an actor is gone, and with which shard; ClusterError where that is too often."""
    name = shard[0].name if shard else "while it loaded the teacher"
    lost[name] = lost.get(name, 0) + 1
    if lost[name] >= ATTEMPTS:
        raise ClusterError(f"{name}: an actor was lost {ATTEMPTS} times: {_words(error)}") from error
    print(f"{name}: a node or actor is gone; another takes its place", file=sys.stderr)


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
