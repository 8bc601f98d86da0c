"""models/student into the model registry, with everything that it came from; the same model twice is one version.

    register   reads dvc.lock, hashes the model against it, logs one run, makes one version, moves the alias
    models:/stillsmall-student@candidate   what `mlflow.pyfunc.load_model` and `stillsmall transcribe --model` take

A version is found by its identity (digests of the model and of its data, whatever the commit), a run that was killed
half-way by its key: `register` again finishes it.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import shutil
import tempfile
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from stillsmall import cache, tracking
from stillsmall.config import PARAMS, Params, read_yaml
from stillsmall.lineage import LOCK, Lineage, trace

MODEL = "models/student"  # the output of the stage `distill`
CURVE = "metrics/training.csv"
REPORTS = ("report.html", "reports/report.html", "report/index.html")
LOGGED = "stillsmall.model_id"  # tag of a run: its model is complete
IDENTITY = "lineage.identity"
REQUIREMENTS = (
    "mlflow numpy pandas torch transformers tokenizers safetensors soundfile soxr av pydantic ruamel-yaml "
    "pyarrow rapidfuzz"
)


class RegistryError(RuntimeError):
    """The registry doesn't hold what was asked for, or cannot be written."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of the registry; `created` is false where it was there before."""

    name: str
    version: str
    alias: str
    run_id: str
    model: str
    created: bool
    committed: bool
    uncommitted: tuple[str, ...]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{self.alias}"


def register(params: Params, root: Path) -> RegisteredVersion:
    """Registers `root`/models/student under `register.name` and points `register.alias` at it.

    Raises LineageError where the model on disk isn't the one in dvc.lock, TrackingError where MLflow is away.
    """
    name, alias = params.register_.name, params.register_.alias
    lineage = trace(root, MODEL)
    with _one_at_a_time(root):
        tracker = tracking.MlflowTracker(root, name)
        version = _find(tracker.client, name, lineage.identity)
        created = version is None
        if version is None:
            version = _create(tracker, params, root, lineage)
        elif version.tags.get("lineage.committed") != "true" and lineage.commit.committed:
            for key, value in lineage.tags().items():  # the same model; now one can tell where it is from
                tracker.client.set_model_version_tag(name, version.version, key, value)
        version = tracker.client.get_model_version(name, version.version)
        if _aliased(tracker.client, name, alias) != str(version.version):
            tracker.client.set_registered_model_alias(name, alias, version.version)
    committed = version.tags.get("lineage.committed") == "true"
    uncommitted = () if committed else lineage.commit.uncommitted
    return RegisteredVersion(
        name, str(version.version), alias, version.run_id, lineage.model, created, committed, uncommitted
    )


def local_model(uri: str, root: Path) -> Path:
    """The folder of the student behind `models:/NAME@ALIAS` or `models:/NAME/VERSION`; a server's is fetched once.

    Raises RegistryError where there is no such version, naming the ones there are.
    """
    client = tracking.client(root)
    from mlflow.exceptions import MlflowException

    try:
        version = _version(client, uri)
        kept = root / tracking.HOME / "fetched" / f"{version.name}-{version.version}-{version.run_id}"
        folder = kept if kept.is_dir() else _fetch(client, version, kept)
    except MlflowException as error:
        raise RegistryError(f"{uri}: {str(error).splitlines()[0]}; {_names(client)}") from error
    student = folder / "artifacts" / Path(MODEL).name
    if not student.is_dir():
        raise RegistryError(f"{uri}: no student in it; it wasn't registered by `stillsmall register`")
    return student


def _version(client: Any, uri: str) -> Any:
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if at:
        return client.get_model_version_by_alias(name, alias)
    name, _, number = name.partition("/")
    if not number.isdecimal():
        raise RegistryError(f"{uri}: expected models:/NAME@ALIAS or models:/NAME/VERSION; {_names(client)}")
    return client.get_model_version(name, number)


def _fetch(client: Any, version: Any, kept: Path) -> Path:
    """Where the version's files are: in place if they lie on this machine, else copied to `kept`, whole."""
    import mlflow

    logged = version.source.removeprefix("models:/")  # `model_id` of a version that was looked up is None
    location = client.get_logged_model(logged).artifact_location if logged != version.source else version.source
    place = urlparse(location)
    if location and place.scheme in ("", "file") and Path(url2pathname(place.path)).is_dir():
        return Path(url2pathname(place.path))
    partial = kept.with_name(f".{kept.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}", dst_path=str(partial))
        partial.rename(kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return kept


def _find(client: Any, name: str, identity: str) -> Any:
    # `search_model_versions` of a name that isn't there is empty, and so is `aliases` of what it finds
    found = client.search_model_versions(f"name = '{name}' and tags.`{IDENTITY}` = '{identity}'")
    usable = [version for version in found if version.status == "READY"]
    return min(usable, key=lambda version: int(version.version)) if usable else None


def _create(tracker: tracking.MlflowTracker, params: Params, root: Path, lineage: Lineage) -> Any:
    name = params.register_.name
    key = cache.digest([lineage.identity, lineage.lock, (root / PARAMS).read_text(encoding="utf-8")])
    run_id = tracker.start(f"{name}-{lineage.model[:8]}", key, lineage.tags())
    try:
        _log(tracker, root)
        model_id = _logged_model(tracker, run_id) or _log_model(tracker, root, run_id, lineage)
        _ensure_name(tracker.client, name)
        version = tracker.client.create_model_version(
            name, f"models:/{model_id}", run_id, tags=lineage.tags(), model_id=model_id
        )
    except BaseException:
        with contextlib.suppress(Exception):  # the server may be what failed; the first error is the one to show
            tracker.finish(done=False)
        raise
    tracker.finish()
    return version


def _log(tracker: tracking.Tracker, root: Path) -> None:
    """Parameters, metrics, the training curve, and the files that people ask for first."""
    tracker.params(read_yaml(root / PARAMS))
    for path in sorted((root / "metrics").glob("*.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            tracker.metrics({path.stem: values})
        tracker.artifacts(path, "metrics")
    for step, row in _curve(root / CURVE):
        tracker.metrics({"training": row}, step)
    for file in (PARAMS, LOCK, CURVE, *REPORTS):
        if (root / file).is_file():
            tracker.artifacts(root / file, "metrics" if file == CURVE else "")


def _curve(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The steps of training and what was measured at each; nothing where there is no such file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield int(row.pop("step")), {key: float(value) for key, value in row.items() if value}


def _logged_model(tracker: tracking.MlflowTracker, run_id: str) -> str | None:
    """The complete model of a run that was interrupted; what is left of an incomplete one is deleted."""
    done = tracker.client.get_run(run_id).data.tags.get(LOGGED)
    for model in tracker.client.search_logged_models([tracker.experiment_id], f"source_run_id = '{run_id}'"):
        if model.model_id != done:
            tracker.client.delete_logged_model(model.model_id)
    return str(done) if done else None


def _log_model(tracker: tracking.MlflowTracker, root: Path, run_id: str, lineage: Lineage) -> str:
    """The student as a pyfunc model from code, in the run; its id."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    speaks = [("language", "string", ""), ("task", "string", "transcribe"), ("timestamps", "boolean", False)]
    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", "audio")]),
        outputs=Schema([ColSpec("string", "text")]),
        params=ParamSchema([ParamSpec(*one) for one in speaks]),
    )
    package = Path(__file__).parent
    with mlflow.start_run(run_id=run_id), _clean_copy(package, root) as code, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it would like an example: that'd be a voice
        info = mlflow.pyfunc.log_model(
            name="student",
            python_model=str(code / "serving/pyfunc_model.py"),
            artifacts={"student": str(root / MODEL)},
            code_paths=[str(code)],
            signature=signature,
            pip_requirements=pinned(root / "uv.lock"),
            metadata={"lineage.model": lineage.model},
        )
    tracker.client.set_tag(run_id, LOGGED, info.model_id)
    return str(info.model_id)


@contextlib.contextmanager
def _clean_copy(package: Path, root: Path) -> Iterator[Path]:
    """The package's source without what Python compiled, to travel with the model."""
    (root / tracking.HOME).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root / tracking.HOME) as folder:
        copy = Path(folder) / package.name
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__", "*.partial"))
        yield copy


def pinned(lock: Path) -> list[str]:
    """What the model needs to run, in the versions of uv.lock. RegistryError where it holds none of a package."""
    from packaging.markers import Marker

    versions = {}
    for package in tomllib.loads(lock.read_text(encoding="utf-8")).get("package", []):
        forks = package.get("resolution-markers")  # a lock may hold several versions, each for some Pythons
        if forks is None or any(Marker(fork).evaluate() for fork in forks):
            versions[package["name"]] = package.get("version")
    lacking = [name for name in REQUIREMENTS.split() if not versions.get(name)]
    if lacking:
        raise RegistryError(f"{lock.name}: no version of {', '.join(lacking)}, which a registered model needs")
    return [f"{name}=={versions[name]}" for name in REQUIREMENTS.split()]


def _ensure_name(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Distilled by stillsmall; the tags say from what.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _aliased(client: Any, name: str, alias: str) -> str | None:
    """The version that an alias points at; None where it points nowhere."""
    aliases = client.get_registered_model(name).aliases
    return str(aliases[alias]) if alias in aliases else None


def _names(client: Any) -> str:
    have = [f"models:/{m.name}@{alias}" for m in client.search_registered_models() for alias in sorted(m.aliases)]
    return f"have: {', '.join(have)}" if have else "the registry is empty: `stillsmall register`"


@contextlib.contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Two `register` at once would make two versions: MLflow has no compare-and-swap, so the second one waits."""
    lock = root / tracking.HOME / "register.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(lock, os.O_CREAT | os.O_RDWR), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
