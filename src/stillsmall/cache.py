"""Work that outlives a kill: results named by the digest of what made them, written whole or not at all.

DVC deletes a stage's outputs before it runs the stage again, so unfinished work cannot wait there. It waits here
(`.stillsmall/cache`, not in git), and a stage that has everything copies it into its output in one go.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("STILLSMALL_CACHE", ".stillsmall/cache"))
CHUNK_BYTES = 1 << 20


def digest(value: Any) -> str:
    """SHA-256 (32 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """SHA-256 (32 hex digits) of a file's bytes."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            state.update(block)
    return state.hexdigest()[:32]


def folder_digest(folder: Path, patterns: Iterable[str] = ("*",)) -> str:
    """Digest of the files of a folder (names and bytes), top level only; hidden files are left out."""
    files = sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file() and p.name[0] != "."})
    return digest([(path.name, file_digest(path)) for path in files])


def code_digest(*modules: str) -> str:
    """Digest of the source of modules, by name: results made by other code have another name."""
    sources = []
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name)
        sources.append((name, file_digest(Path(spec.origin))))
    return digest(sources)


def write_bytes(path: Path, content: bytes) -> None:
    """A file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """JSON for people and for diffs: sorted, indented, floats as they are; whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def publish(files: Iterable[Path], folder: Path) -> None:
    """Copies finished files into a stage's output folder, in place of whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in files:
        shutil.copyfile(path, folder / path.name)
