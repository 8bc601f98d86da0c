"""What a machine has and lacks for the pipeline; looks, changes nothing, and says what to do about each lack."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stillsmall import cache, config, tracking
from stillsmall.plugins import UnknownName, nearest, require

GB = 1 << 30
ENVIRONMENT_GB = 8.0  # free disk that `uv sync` of the whole stack wants (6.4 GB stay)
MEMORY_GB = 8.0  # what the embedded default is comfortable in
PACKAGES = ("torch", "transformers", "dvc", "mlflow")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "vocab.json")
State = Literal["ok", "warn", "lacks"]
STYLES: dict[State, str] = {"ok": "green", "warn": "yellow", "lacks": "red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `lacks` is what the pipeline cannot do without."""

    what: str
    state: State
    detail: str


def examine(root: Path, params: Path) -> list[Finding]:
    """Everything, in the order of a first visit; a check that fails unexpectedly is a finding, never a crash."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _machine,
        lambda: _disk(root),
        _gpu,
        _packages,
        _speech,
        lambda: _repository(root),
        lambda: _parameters(root, params),
        lambda: _caches(root),
        lambda: _mlflow(root),
    ]
    findings = []
    for check in checks:
        try:
            findings += list(check())
        except Exception as error:
            findings.append(Finding(type(error).__name__, "lacks", str(error)))
    return findings


def lacking(root: Path, params: Path) -> list[Finding]:
    """What keeps the pipeline from starting: parameters, folders and models that they name. Quick; imports no torch."""
    return [finding for finding in _parameters(root, params, ()) if finding.state == "lacks"]


def show(findings: list[Finding]) -> None:
    """The table, and one line of verdict."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "state", "detail", title="stillsmall doctor", title_justify="left")
    for finding in findings:
        table.add_row(finding.what, Text(finding.state, style=STYLES[finding.state]), Text(finding.detail))
    console = Console(highlight=False)
    console.print(table)
    lacking = [finding.what for finding in findings if finding.state == "lacks"]
    console.print(
        f"Lacking: {', '.join(lacking)}" if lacking else "Nothing essential is lacking: `make repro` can run."
    )


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    detail = platform.python_version()
    yield Finding("python", "ok" if good else "lacks", detail if good else f"{detail}; 3.11 or newer is needed")


def _machine() -> Iterator[Finding]:
    yield Finding(
        "processor cores", "ok", f"{os.cpu_count()} ({platform.machine()}); run.threads says how many are used"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    short = f"; below {MEMORY_GB:.0f} GB lower the batch sizes" if memory < MEMORY_GB else ""
    yield Finding("memory", "warn" if short else "ok", f"{memory:.1f} GB{short}")


def _disk(root: Path) -> Iterator[Finding]:
    least = float(os.environ.get("STILLSMALL_MIN_FREE_GB", ENVIRONMENT_GB))
    free = shutil.disk_usage(root).free / GB
    short = (
        f"; a fresh environment wants {least:g} GB: free some, or put the checkout elsewhere" if free < least else ""
    )
    yield Finding("free disk", "warn" if short else "ok", f"{free:.1f} GB{short}")


def _gpu() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("GPU", "ok", "none that torch can use; the embedded default doesn't need one")
        return
    memory = torch.cuda.get_device_properties(0).total_memory / GB
    yield Finding("GPU", "ok", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GB")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "lacks", "not installed: uv sync --frozen")


def _speech() -> Iterator[Finding]:
    try:
        import ctypes

        import espeakng_loader

        ctypes.CDLL(espeakng_loader.get_library_path())
        voices = Path(espeakng_loader.get_data_path())
        good = (voices / "phontab").is_file()
        yield Finding("espeak-ng", "ok" if good else "lacks", "loads" if good else f"no voices in {voices}")
    except (ImportError, OSError) as error:
        yield Finding("espeak-ng", "lacks", f"the speech lab's engine does not load: {error}")
    try:
        import av
        import soundfile

        yield Finding("audio decoders", "ok", f"libsndfile {soundfile.__libsndfile_version__}, PyAV {av.__version__}")
    except (ImportError, OSError) as error:
        yield Finding("audio decoders", "lacks", f"{error}: uv sync --frozen")


def _repository(root: Path) -> Iterator[Finding]:
    head = _git(root, "rev-parse", "--short", "HEAD")
    if head is None:
        yield Finding("git", "warn", "no commit here; a model that is made now cannot be traced to one")
    else:
        changed = len((_git(root, "status", "--porcelain") or "").splitlines())
        yield Finding("git", "ok", f"commit {head}, {f'{changed} files differ' if changed else 'nothing uncommitted'}")
    if (root / ".dvc/config").is_file() and (root / "dvc.yaml").is_file():
        run = "has run" if (root / "dvc.lock").is_file() else "has not run yet: make repro"
        yield Finding("pipeline", "ok", f"dvc.yaml; it {run}")
    else:
        yield Finding("pipeline", "lacks", "no dvc.yaml or .dvc here: run from the repository's root")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _parameters(root: Path, path: Path, changed: Iterable[str] | None = None) -> Iterator[Finding]:
    """The parameters, of which `changed` are looked at closely (None: all), and what they name."""
    from stillsmall import feasible, recipes, teachers

    try:
        tree = config.read_yaml(path)
        recipes.check(tree, changed)
        params = config.load(path)
        feasible.check(params, params.distill.processes)
        for role, section in (*_models(params).items(), ("evaluate", params.evaluate)):
            require(teachers.TABLE, section.backend, f"{role}.backend")
    except (config.ConfigError, UnknownName) as error:
        yield Finding(path.name, "lacks", str(error))
        return
    yield Finding(path.name, "ok", "every value is of its kind, every name is known")
    yield _folder(root, "data.root", params.data.root, "put your speech there, or name its folder")
    models = _folder(root, "models.root", params.models.root, "name the folder that holds your models")
    yield models
    if models.state == "ok":
        for role, section in (*_models(params).items(), *_of_training(params)):
            yield _model(root, params.models.root, role, section)
    yield from _noises(root, params)


def _of_training(params: config.Params) -> Iterator[tuple[str, Any]]:
    """The models that only training hears of: hours after labelling is too late to find one missing."""
    if params.student.model is not None:
        yield "student", params.student
    for number, section in enumerate(params.distill.more_teachers):
        yield f"distill.more_teachers[{number}]", section


def _noises(root: Path, params: config.Params) -> Iterator[Finding]:
    given = params.augment.noise_folder
    if given is not None and not (root / params.data.root / given).is_dir():
        detail = f"got '{given}'; there is no such folder under data.root ({params.data.root})"
        yield Finding("augment.noise_folder", "lacks", detail)


def _models(params: config.Params) -> dict[str, config.Transcribe]:
    return {"pseudo_label": params.pseudo_label, "validate": params.validate_}


def _folder(root: Path, name: str, given: str, advice: str) -> Finding:
    """A folder that DVC watches: without it, DVC itself would stop with an error number and no name."""
    if (root / given).is_dir():
        return Finding(name, "ok", given)
    is_file = "that is no folder" if (root / given).exists() else "there is no such folder"
    near = _near((root / given).parent, Path(given).name)
    hint = f"did you mean '{Path(given).parent / near}'?" if near else f"{advice}:"
    return Finding(name, "lacks", f"got '{given}'; {is_file}; {hint} stillsmall use {name}=FOLDER")


def _near(parent: Path, name: str) -> str | None:
    """The folder in `parent` whose name is nearest."""
    names = [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def _model(root: Path, models: str, role: str, section: Any) -> Finding:
    """Whether the model of a section with `model` and `revision` is there."""
    what = f"{role}.model"
    folder = next((f for f in (root / models / section.model, root / section.model) if f.is_dir()), None)
    if folder is None:
        if section.model.count("/") == 1:
            state: State = "ok" if section.revision else "lacks"
            missing = "" if section.revision else f"; give its commit as {role}.revision"
            return Finding(what, state, f"{section.model} of the hub: fetched when it is needed{missing}")
        have = [path.name for path in sorted((root / models).iterdir()) if (path / "config.json").is_file()]
        return Finding(what, "lacks", f"no folder '{section.model}' in models.root ({models}); {_names(section, have)}")
    lacking = [name for name, have in _parts(folder).items() if not have]
    if lacking:
        return Finding(what, "lacks", f"{folder} has no {', '.join(lacking)}")
    size = sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) / (1 << 20)
    return Finding(what, "ok", f"{folder}, {size:.1f} MB")


def _names(section: Any, have: list[str]) -> str:
    hub = "a hub id has an owner: OWNER/NAME"
    return f"{nearest(section.model, have)}; {hub}" if have else f"it holds no model; {hub}"


def _parts(folder: Path) -> dict[str, Any]:
    """What a model folder must hold, and whether it does."""
    return {
        "config.json": (folder / "config.json").is_file(),
        "weights (safetensors)": any(path for pattern in WEIGHTS for path in folder.glob(pattern)),
        "tokenizer": any((folder / name).is_file() for name in TOKENIZER),
        "preprocessor": any((folder / f"{name}_config.json").is_file() for name in ("preprocessor", "processor")),
    }


def _caches(root: Path) -> Iterator[Finding]:
    for what, folder in (("unfinished work", root / cache.ROOT), ("DVC cache", root / ".dvc/cache")):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / GB
        yield Finding(
            what, "ok", f"{size:.2f} GB in {folder.relative_to(root) if folder.is_relative_to(root) else folder}"
        )


def _mlflow(root: Path) -> Iterator[Finding]:
    where = tracking.uri(root)
    if where.startswith("sqlite:///") and not Path(where.removeprefix("sqlite:///")).exists():
        yield Finding("model registry", "ok", "a local database; `stillsmall register` will make it")
        return
    try:
        names = len(tracking.client(root).search_registered_models())
    except tracking.TrackingError as error:
        yield Finding("model registry", "warn", f"{error}")
        return
    yield Finding("model registry", "ok", f"{where}, {names} registered model{'' if names == 1 else 's'}")
