"""Five methods for what a run leaves behind: MLflow, or nothing. mlflow is imported here and in the registry only.

A run is found by its key. Starting it again continues it, and what it holds already is not logged twice, so that a
process that was killed half-way is simply run again.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

HOME = Path(".stillsmall/mlflow")  # below the repository's root, ignored by git
KEY = "stillsmall.key"  # tag: what a run is found by
STATE = "stillsmall.state"  # tag: open, or done once everything is logged
VALUE_CHARACTERS = 6000  # of a parameter, at most: MLflow's limit
BATCH = 100  # parameters or metrics in a request: MLflow takes so many parameters
_UNWANTED = re.compile(r"[^/\w.\- :]")  # in a name, by MLflow's rule


class TrackingError(RuntimeError):
    """The tracking server does not answer, or holds something else than what is to be logged."""


class Tracker(Protocol):
    """What a command may say about its run."""

    def start(self, name: str, key: str, tags: Mapping[str, str]) -> str:
        """Opens the run of this key, or continues it; its id."""

    def params(self, values: Mapping[str, Any]) -> None:
        """What it was run with; nested sections become dotted names."""

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """What came out, at a step; what isn't a finite number is left out."""

    def artifacts(self, path: Path, folder: str = "") -> None:
        """A file that belongs to it."""

    def finish(self, done: bool = True) -> None:
        """Closes it; not done: it was interrupted, and a later start continues it."""


class NoTracker:
    """Says nothing to nobody."""

    def start(self, name: str, key: str, tags: Mapping[str, str]) -> str:
        return ""

    def params(self, values: Mapping[str, Any]) -> None: ...

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None: ...

    def artifacts(self, path: Path, folder: str = "") -> None: ...

    def finish(self, done: bool = True) -> None: ...


def quiet() -> None:
    """No telemetry, no progress bars, and no unpickling; to be called before mlflow is imported."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # `stillsmall register` says where it is
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # it would pack whatever project lies above the cwd
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is away is said so in seconds


def uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or a database below the repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(root.resolve() / HOME / 'mlflow.db').as_posix()}"


def client(root: Path) -> Any:
    """An MlflowClient of `uri(root)`. Raises TrackingError where that does not answer."""
    quiet()
    import mlflow
    from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # its warnings are about pip, which a uv environment lacks
    where = uri(root)
    if where.startswith("sqlite:///"):
        Path(where.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(where)
    mlflow.set_registry_uri(where)
    if given is None:  # mlflow writes it down for its children; here it would hold for the next repository too
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        made = mlflow.MlflowClient(where, where)
        made.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {where} does not answer: {str(error).splitlines()[0]}") from error
    return made


def experiment(client: Any, root: Path, name: str) -> str:
    """The id of the experiment of that name, made where there is none; artifacts beside a local database."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise TrackingError(f"MLflow's experiment '{name}' is deleted: `mlflow experiments restore` brings it back")
        return str(found.experiment_id)
    where = uri(root)
    beside = Path(where.removeprefix("sqlite:///")).parent / "artifacts" if where.startswith("sqlite:///") else None
    return str(client.create_experiment(name, artifact_location=beside.resolve().as_uri() if beside else None))


class MlflowTracker:
    """A run in MLflow, found by its key."""

    def __init__(self, root: Path, experiment_name: str) -> None:
        self.client = client(root)
        self.experiment_id = experiment(self.client, root, experiment_name)
        self.run: Any = None

    def start(self, name: str, key: str, tags: Mapping[str, str]) -> str:
        found = self.client.search_runs([self.experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
        self.run = found[0] if found else self.client.create_run(self.experiment_id, tags={KEY: key}, run_name=name)
        for tag, value in {STATE: "open", **tags}.items():
            self.client.set_tag(self.run.info.run_id, tag, value)
        return str(self.run.info.run_id)

    def params(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        for part in _parts(Param(_name(key), _text(value)) for key, value in flatten(values)):
            self.client.log_batch(self.run.info.run_id, params=part)

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        from mlflow.entities import Metric

        at = self.run.info.start_time  # the same moment whenever it is logged: a second time is no second value
        new = [Metric(_name(key), float(value), at, step) for key, value in flatten(values) if _is_number(value)]
        for part in _parts(new):
            self.client.log_batch(self.run.info.run_id, metrics=part)

    def artifacts(self, path: Path, folder: str = "") -> None:
        self.client.log_artifact(self.run.info.run_id, str(path), folder or None)

    def finish(self, done: bool = True) -> None:
        self.client.set_tag(self.run.info.run_id, STATE, "done" if done else "open")
        self.client.set_terminated(self.run.info.run_id, "FINISHED" if done else "KILLED")


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and their values, of sections within sections."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _name(key: str) -> str:
    return _UNWANTED.sub("_", key)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text[:VALUE_CHARACTERS]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    everything = list(values)
    for start in range(0, len(everything), BATCH):
        yield everything[start : start + BATCH]
