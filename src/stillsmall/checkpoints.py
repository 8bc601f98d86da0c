"""Training's memory on disk: one folder per checkpoint, written whole or not at all, no pickle in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

MARK = "step-"
BEST = "best-"  # weights alone, of the step with the lowest error rate; the last checkpoint's memory says which


def save(
    folder: Path, step: int, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, memory: dict[str, Any]
) -> None:
    """Writes `step-000100/` beside the others and removes older ones once it stands."""
    partial = folder / f".partial-{step}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, partial / "tensors.safetensors")
    save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
    (partial / "memory.json").write_text(json.dumps({"step": step, **memory}))
    final = folder / f"{MARK}{step:09d}"
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in sorted(folder.glob(f"{MARK}*"))[:-1]:
        shutil.rmtree(old)


def load(folder: Path, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Copies the last whole checkpoint into `tensors` and the optimizer; its memory, or None where there is none."""
    found = sorted(folder.glob(f"{MARK}*"))
    if not found:
        return None
    with torch.no_grad():
        for name, value in load_file(found[-1] / "tensors.safetensors").items():
            tensors[name].copy_(value)
    _restore(optimizer, load_file(found[-1] / "optimizer.safetensors"))
    memory: dict[str, Any] = json.loads((found[-1] / "memory.json").read_text())
    return memory


def save_best(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Writes `best-000000100.safetensors`, whole or not at all. Earlier ones stay until a checkpoint stands."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".partial-{BEST}{step}"
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, partial)
    os.replace(partial, _best(folder, step))


def load_best(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Copies the weights of the best step into `tensors`."""
    with torch.no_grad():
        for name, value in load_file(_best(folder, step)).items():
            tensors[name].copy_(value)


def forget_best_but(folder: Path, step: int) -> None:
    """Removes best weights that the last checkpoint does not name."""
    for path in folder.glob(f"{BEST}*"):
        if path != _best(folder, step):
            path.unlink()


def _best(folder: Path, step: int) -> Path:
    return folder / f"{BEST}{step:09d}.safetensors"


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def _restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
