"""Training's memory on disk: one folder per checkpoint, written whole or not at all, no pickle in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

MARK = "step-"


def save(
    folder: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    memory: dict[str, Any],
    shrinker: torch.nn.Module | None = None,
) -> None:
    """Writes `step-000100/` beside the others and removes older ones once it stands."""
    partial = folder / f".partial-{step}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_trained(model), partial / "student.safetensors")
    save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
    if shrinker is not None:
        save_file(shrinker.state_dict(), partial / "shrinker.safetensors")
    (partial / "memory.json").write_text(json.dumps({"step": step, **memory}))
    final = folder / f"{MARK}{step:09d}"
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in sorted(folder.glob(f"{MARK}*"))[:-1]:
        shutil.rmtree(old)


def load(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer, shrinker: torch.nn.Module | None = None
) -> dict[str, Any] | None:
    """Puts the last whole checkpoint into model and optimizer; its memory, or None where there is none."""
    found = sorted(folder.glob(f"{MARK}*"))
    if not found:
        return None
    model.load_state_dict(load_file(found[-1] / "student.safetensors"), strict=False)
    _restore(optimizer, load_file(found[-1] / "optimizer.safetensors"))
    if shrinker is not None:
        shrinker.load_state_dict(load_file(found[-1] / "shrinker.safetensors"))
    memory: dict[str, Any] = json.loads((found[-1] / "memory.json").read_text())
    return memory


def _trained(model: Any) -> dict[str, Tensor]:
    """Only what training changes: a frozen encoder is rebuilt from the teacher."""
    return {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def _restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
