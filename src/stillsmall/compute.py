"""Where torch computes: device, number type, threads; and which model folder or hub id a name means."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from stillsmall.cache import digest, folder_digest

MODEL_FILES = ("*.safetensors", "*.json", "*.txt")
CPU_POSITIONS = 6000  # encoded at once on a CPU: beyond it, memory traffic costs more than a larger batch saves
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer_config.json")


class ModelError(ValueError):
    """A model that cannot be found, traced or used as it is."""


def device(name: str) -> torch.device:
    """'auto' is the GPU where there is one. ModelError where a GPU is asked for and there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("device: 'cuda' is asked for, but torch sees no GPU; use 'auto' or 'cpu'")
    return torch.device(name)


def dtype(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def set_threads(threads: int) -> None:
    """CPU threads of this process; the order of floating-point sums, and so the bits, depend on it."""
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    keep_memory()


def keep_memory() -> None:
    """Tells glibc to keep large blocks: by default each tensor's memory goes back to the system and is zeroed anew.

    On a CPU that is a large part of an encoder's time (it shows as system time). Nothing is done on other systems.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1), (M_TOP_PAD, 1 << 26)):
            mallopt(option, value)


def encode(encoder: Any, features: torch.Tensor) -> torch.Tensor:
    """(B, mels, frames) to (B, positions, D): all at once on a GPU, in cache-friendly slices on a CPU."""
    size = (
        len(features)
        if features.device.type == "cuda"
        else max(1, CPU_POSITIONS // encoder.config.max_source_positions)
    )
    return torch.cat([encoder(part).last_hidden_state for part in features.split(size)])


def quiet() -> None:
    """transformers without its progress bars and hints: what people must know, this library says itself."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def seed(*parts: object) -> int:
    """A 63-bit seed from anything that has a repr; the same on every machine."""
    return int(digest([repr(part) for part in parts]), 16) % (1 << 63)


def locate(root: str | Path, name: str, revision: str | None, path: str) -> tuple[str, str]:
    """(what `from_pretrained` takes, the identity of the weights) for a folder under `root` or a hub id.

    `path` is the dotted path of the section that names the model, for errors. A folder is identified by the digest
    of its files; a hub id by the revision, which it must have: labels of an unknown model cannot be traced.
    """
    for folder in (Path(root) / name, Path(name)):
        if folder.is_dir():
            _check_folder(folder, path)
            return str(folder), folder_digest(folder, MODEL_FILES)
    if name.count("/") != 1:
        have = sorted(p.name for p in Path(root).glob("*/") if (p / "config.json").is_file())
        raise ModelError(
            f"{path}.model: no folder '{name}' under models.root={root}; have: {', '.join(have) or 'none'}"
        )
    if not revision:
        raise ModelError(f"{path}.revision: '{name}' is a hub id; give the commit of it that you mean")
    return name, f"{name}@{revision}"


def model_type(root: str | Path, name: str, revision: str | None) -> str | None:
    """The `model_type` of a folder's or hub id's config; None where there is none to read (`locate` says why)."""
    for folder in (Path(root) / name, Path(name)):
        if folder.is_dir():
            config = folder / "config.json"
            return json.loads(config.read_text(encoding="utf-8")).get("model_type") if config.is_file() else None
    if name.count("/") != 1 or not revision:
        return None
    from transformers import AutoConfig

    found: str = AutoConfig.from_pretrained(name, revision=revision).model_type
    return found


def check_vocabulary(tokenizer: Any, model: Any, path: str) -> None:
    """ModelError where the tokenizer knows ids that the model has no embedding for: they are not of one make."""
    highest, rows = max(tokenizer.get_vocab().values()), model.config.vocab_size
    if highest >= rows:
        raise ModelError(
            f"{path}.model: the tokenizer has ids up to {highest}, the model embeds {rows} tokens; they do not belong "
            "together: copy in the tokenizer that the model was trained with"
        )


def _check_folder(folder: Path, path: str) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{path}.model: {folder} has no config.json; it is not a model folder")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES[:2]):
        raise ModelError(
            f"{path}.model: {folder} has no tokenizer (tokenizer.json or vocab.json); copy the teacher's in"
        )
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"{path}.model: {folder} has no *.safetensors; convert the weights (pickles are not loaded)")
