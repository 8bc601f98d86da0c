"""Where a model comes from, read off what DVC and git wrote: dvc.lock, the files themselves, the commit.

A file's digest is its MD5, a folder's the MD5 of the sorted list of its files with `.dir` after it: DVC's own names, so
that a digest in the registry can be looked up in dvc.lock and in any DVC remote.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillsmall.cache import CHUNK_BYTES
from stillsmall.config import read_yaml

LOCK = "dvc.lock"
TRACKED = ("dvc.lock", "dvc.yaml", "params.yaml", "pyproject.toml", "uv.lock", "src", "stages")  # what makes a model
CODE = ("src", "stages")  # dependencies that are hashed again before a model is registered; data may be large
COMPILED = "__pycache__"  # Python's; .dvcignore names it too
SHOWN = 3  # faults in a message; more are counted


class LineageError(RuntimeError):
    """The model on disk cannot be traced: it isn't the one in dvc.lock, or dvc.lock is not of today's parameters."""


@dataclass(frozen=True)
class Commit:
    """The commit that is checked out, and which of the tracked files differ from it; sha is None without git."""

    sha: str | None
    uncommitted: tuple[str, ...]

    @property
    def committed(self) -> bool:
        return self.sha is not None and not self.uncommitted


@dataclass(frozen=True)
class Lineage:
    """Everything that a registered version says about where it is from."""

    model: str  # digest of the model folder, as in dvc.lock
    outs: Mapping[str, str]  # "stage:path" -> digest, of every output of every stage
    data: Mapping[str, str]  # source -> fingerprint, of metrics/prepare.json
    environment: str  # MD5 of uv.lock
    commit: Commit
    lock: Mapping[str, Any] = field(repr=False)

    @property
    def identity(self) -> str:
        """The same model from the same data, whatever the commit."""
        prepared = {key: value for key, value in self.outs.items() if key.startswith("prepare:data")}
        return hashlib.md5(_canonical([self.model, dict(self.data), prepared]), usedforsecurity=False).hexdigest()

    def tags(self) -> dict[str, str]:
        """Flat, for the registry."""
        return {
            "lineage.model": self.model,
            "lineage.identity": self.identity,
            "lineage.commit": self.commit.sha or "none",
            "lineage.committed": str(self.commit.committed).lower(),
            "lineage.uncommitted": ", ".join(self.commit.uncommitted),
            "lineage.environment": self.environment,
            **{f"lineage.out.{key.replace(':', '.', 1)}": value for key, value in self.outs.items()},
            **{f"lineage.data.{key}": value for key, value in self.data.items()},
        }


def trace(root: Path, model: str) -> Lineage:
    """The lineage of the model folder `model` (a path from `root`).

    Raises LineageError where dvc.lock or uv.lock is absent, where the folder is not what dvc.lock says that it is, or
    where parameters or code have changed since the stages ran.
    """
    lock = read_lock(root)
    outs = {f"{stage}:{out['path']}": out["md5"] for stage, entry in lock.items() for out in entry.get("outs", [])}
    locked = {out["path"]: out["md5"] for entry in lock.values() for out in entry.get("outs", [])}
    if model not in locked:
        raise LineageError(f"{LOCK}: no stage has the output {model}; run `make repro` first")
    if not (root / model).is_dir():
        raise LineageError(f"{model}: no such folder; `dvc checkout {model}` or `make repro` brings it back")
    here = digest(root / model)
    if here != locked[model]:
        raise LineageError(
            f"{model} is not the model in {LOCK}: on disk {here}, in {LOCK} {locked[model]}. "
            f"`dvc checkout --force {model}` brings back the one that the pipeline made; `make repro` makes it anew"
        )
    check_current(root, lock)
    if not (root / "uv.lock").is_file():
        raise LineageError("uv.lock: no such file; the environment of a version must be known")
    return Lineage(here, outs, fingerprints(root), digest(root / "uv.lock"), commit(root), lock)


def read_lock(root: Path) -> dict[str, Any]:
    """The stages of dvc.lock. Raises LineageError where the pipeline has not run."""
    if not (root / LOCK).is_file():
        raise LineageError(f"{LOCK}: no such file; run `make repro` first")
    stages = read_yaml(root / LOCK).get("stages")
    if not stages:
        raise LineageError(f"{LOCK}: it names no stage; run `make repro` first")
    return dict(stages)


def check_current(root: Path, lock: Mapping[str, Any]) -> None:
    """LineageError where dvc.lock is of other parameters or other code than the ones here: the model would lie."""
    faults = []
    for stage, entry in lock.items():
        for file, values in entry.get("params", {}).items():
            here = read_yaml(root / file)
            for key, value in values.items():
                faults += [f"{what} ({stage})" for what in _differences(key, value, _at(here, key))]
        for dep in entry.get("deps", []):
            path = root / dep["path"]
            is_code = dep["path"].split("/")[0] in CODE
            if is_code and (not path.exists() or digest(path) != dep.get("md5")):
                faults.append(f"{dep['path']} ({stage})")
    if faults:
        shown = "; ".join(faults[:SHOWN]) + (f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else "")
        raise LineageError(f"{LOCK} is of another state than the files here. Changed since: {shown}. Run `make repro`")


def digest(path: Path) -> str:
    """DVC's digest of a file or folder, always from the bytes."""
    if path.is_file():
        state = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(CHUNK_BYTES):
                state.update(block)
        return state.hexdigest()
    inside = (inner.relative_to(path) for inner in path.rglob("*") if inner.is_file())
    files = sorted(inner.as_posix() for inner in inside if COMPILED not in inner.parts)
    listing = [{"md5": digest(path / name), "relpath": name} for name in files]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def fingerprints(root: Path) -> dict[str, str]:
    """Source to fingerprint, from metrics/prepare.json; empty where that is not there."""
    path = root / "metrics/prepare.json"
    if not path.is_file():
        return {}
    sources = json.loads(path.read_text(encoding="utf-8")).get("sources", {})
    return {name: entry["fingerprint"] for name, entry in sorted(sources.items()) if "fingerprint" in entry}


def commit(root: Path) -> Commit:
    """What git says about the files that make a model."""
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return Commit(None, ("no git commit",))
    known = set((_git(root, "ls-files", "--", *TRACKED) or "").splitlines())
    missing = {name for name in ("dvc.lock", "params.yaml") if name not in known}
    status = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *TRACKED) or ""
    changed = {line[3:].split(" -> ")[-1].strip('"') for line in status.splitlines()}
    return Commit(head.strip(), tuple(sorted(changed | missing)))


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def _differences(path: str, old: Any, new: Any) -> list[str]:
    """The dotted paths below `path` at which two values differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [found for key in keys for found in _differences(f"{path}.{key}", old.get(key), new.get(key))]
    return [] if old == new else [path]


def _at(tree: Any, dotted: str) -> Any:
    """The value at a dotted path, as DVC reads it; None where there is none."""
    for key in dotted.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
