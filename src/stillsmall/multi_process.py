"""Several processes that train one student: who of them writes, sums over all of them. One is a team of one.

Each process has the whole model and takes its share of a step's micro-batches; gradients are added up and every
process makes the same optimiser step, so weights never part. Set up by Accelerate, whoever launched it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
BUCKET = 1 << 24  # gradients that travel together: 64 MB of float32
PATIENCE = timedelta(days=7)  # one process may fill a cache while the others wait; a dead one ends them all at once
WATCH_S = 0.5


class LaunchError(RuntimeError):
    """Processes that were started otherwise than the parameters say."""


@dataclass(frozen=True)
class Team:
    """This process and the others. Every method is called by all of them, in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's items: as even as can be, those of one process next to each other."""
        return list(items[self.rank * len(items) // self.size : (self.rank + 1) * len(items) // self.size])

    def wait(self) -> None:
        if self.size > 1:
            torch.distributed.barrier()

    def gather(self, value: T) -> list[T]:
        """Everybody's value, in the order of the processes; for small things."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    def join(self, values: Sequence[T]) -> list[T]:
        """Everybody's values in one list, in the order of the processes."""
        return [value for part in self.gather(list(values)) for value in part]

    def total(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums by name over everybody."""
        found: dict[str, float] = {}
        for part in self.gather(dict(values)):
            for name, value in part.items():
                found[name] = found.get(name, 0.0) + value
        return found

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replaces each gradient by its sum over the processes. What nobody has a gradient for keeps none."""
        if self.size == 1 or not parameters:
            return
        have = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        moved = [p for p, known in zip(parameters, _sum(have).tolist(), strict=True) if known]
        for p in moved:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        for bucket in _buckets(moved):
            flat = _sum(torch.cat([p.grad.flatten() for p in bucket if p.grad is not None]))
            for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                p.grad = part.view_as(p)

    def agree(self, buffers: Mapping[str, Tensor], before: Mapping[str, Tensor], weight: float) -> None:
        """Makes buffers that each process changed for itself one again, in place.

        Numbers: what they were `before` plus the mean of the changes by `weight` (the weights of a team sum to 1);
        counts: plus all changes; flags: set where anybody has set them. What nobody changed keeps its bits.
        """
        if self.size == 1:
            return
        for name, buffer in buffers.items():
            if buffer.dtype == torch.bool:
                buffer.copy_(_sum(buffer.to(torch.int32)) > 0)
            else:
                change = (buffer - before[name]) * (weight if buffer.is_floating_point() else 1)
                buffer.copy_(before[name] + _sum(change))


def _sum(tensor: Tensor) -> Tensor:
    """The sum over the processes, where the tensor is; nccl joins GPUs alone, so others travel by way of one."""
    abroad = torch.distributed.get_backend() == "nccl" and tensor.device.type != "cuda"
    moved = tensor.cuda() if abroad else tensor.clone()
    torch.distributed.all_reduce(moved)
    return moved.to(tensor.device)


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one number type on one device, up to BUCKET elements."""
    bucket: list[Tensor] = []
    for p in parameters:
        alike = bucket and (p.dtype, p.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and (not alike or sum(q.numel() for q in bucket) + p.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket


def launched() -> int:
    """How many processes this one was started among, by `accelerate launch` or torchrun; 1: it is alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_team(device: str) -> Team:
    """The team of this process: gloo on CPUs, nccl on GPUs (each process its own), as Accelerate sets them up."""
    if launched() == 1:
        return Team()
    from accelerate import PartialState

    _end_with_parent()
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    return Team(int(state.process_index), int(state.num_processes))


def leave() -> None:
    """Says goodbye, so that no process ends while another still talks to it."""
    if launched() > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def launch(processes: int, program: Sequence[str]) -> None:
    """Becomes the launcher of `processes` copies of a Python program (script and arguments); returns where none is due.

    None is due for one process, and inside a copy. Raises LaunchError where copies are of another number than asked
    for. (`accelerate launch` starts several processes on GPUs alone; what it runs for that is run here.)
    """
    if launched() > 1:
        if processes not in (1, launched()):
            raise LaunchError(
                f"distill.processes: got {processes}, but {launched()} processes were launched; "
                "give the same number, or 1 to leave it to the launcher"
            )
        return
    if processes == 1:
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *program])


def _end_with_parent() -> None:
    """A copy whose launcher was killed would train on, and write, beside the next run."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
