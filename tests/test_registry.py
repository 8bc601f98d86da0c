"""The registry holds what dvc.lock says, once, whatever happens in between."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from stillsmall import config, lineage, registry, tracking
from stillsmall.lineage import LineageError

STAGES = """
stages:
  prepare:
    cmd: mkdir -p data && cp speech.txt data/prepared
    deps: [speech.txt]
    outs: [data/prepared]
  distill:
    cmd: mkdir -p models && cp -r ready models/student
    deps: [data/prepared, ready, stages/distill.py, src]
    params: [distill]
    outs: [models/student]
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A git and DVC repository whose pipeline has run and is committed, with an empty registry."""
    folder = tmp_path_factory.mktemp("template")
    for name in ("params.yaml", "uv.lock"):
        shutil.copy(root / name, folder / name)
    for name in ("ready", "stages", "metrics"):
        (folder / name).mkdir()
    (folder / "ready/config.json").write_text("{}")
    (folder / "ready/model.safetensors").write_bytes(bytes(64))
    for name in ("src", "src/__pycache__"):
        (folder / name).mkdir()
    (folder / "src/room.py").write_text("# a room\n")
    (folder / "speech.txt").write_text("a still small voice\n")
    (folder / "stages/distill.py").write_text("# distils\n")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / ".gitignore").write_text(".stillsmall/\nmodels/\ndata/\n__pycache__/\n")
    wer = {"wer": {"normalised": 0.25, "orthographic": 0.5}}
    (folder / "metrics/evaluate.json").write_text(json.dumps({"student": wer, "teacher": {"wer": None}}))
    (folder / "metrics/prepare.json").write_text(json.dumps({"sources": {"lab": {"fingerprint": "f" * 32}}}))
    (folder / "metrics/training.csv").write_text("step,loss,lr\n10,2.5,0.1\n20,1.5,0.05\n")
    run(folder, "git", "init", "-q")
    run(folder, sys.executable, "-m", "dvc", "init", "-q")
    shutil.copy(root / ".dvcignore", folder / ".dvcignore")
    run(folder, sys.executable, "-m", "dvc", "repro", "-q")
    commit(folder)
    tracking.client(folder)  # makes the tables, which takes seconds
    return folder


@pytest.fixture
def repo(template: Path, tmp_path: Path) -> Path:
    """A repository of one's own."""
    return Path(shutil.copytree(template, tmp_path / "repo", symlinks=True))


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "a state of things")


def retrain(repo: Path, student: Path | None = None) -> None:
    """Another student (another file, or that folder), and dvc.lock as `dvc repro` would leave it."""
    folder = repo / "models/student"
    if student is not None:
        shutil.rmtree(folder)
        shutil.copytree(student, folder)
    (folder / "note.txt").write_text("another one\n")
    lock = repo / "dvc.lock"
    old = lineage.read_lock(repo)["distill"]["outs"][0]["md5"]
    lock.write_text(lock.read_text().replace(old, lineage.digest(folder)))


def register(repo: Path) -> registry.RegisteredVersion:
    return registry.register(config.load(repo / "params.yaml"), repo)


def speech() -> bytes:
    """Three seconds of a 200 Hz sawtooth as a WAV file: longer than the tiny model's window."""
    import io

    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(b"".join((n % 80 * 100).to_bytes(2, "little") for n in range(48_000)))
    return buffer.getvalue()


def test_our_digest_of_a_folder_is_the_one_in_dvc_lock(repo: Path) -> None:
    outs = lineage.read_lock(repo)["distill"]["outs"]
    assert lineage.digest(repo / "models/student") == outs[0]["md5"]
    assert lineage.digest(repo / "data/prepared") == lineage.read_lock(repo)["prepare"]["outs"][0]["md5"]


def test_a_model_is_registered_with_its_lineage_and_the_alias_points_at_it(repo: Path, git: Callable[..., str]) -> None:
    version = register(repo)
    client = tracking.client(repo)
    found = client.get_model_version_by_alias("stillsmall-student", "candidate")
    assert (str(found.version), found.run_id) == (version.version, version.run_id)
    assert found.tags["lineage.commit"] == git("rev-parse", "HEAD", cwd=repo)
    assert found.tags["lineage.committed"] == "true"
    assert found.tags["lineage.data.lab"] == "f" * 32
    assert found.tags["lineage.out.prepare.data/prepared"] == lineage.digest(repo / "data/prepared")
    assert found.tags["lineage.out.distill.models/student"] == lineage.digest(repo / "models/student")
    assert found.tags["lineage.environment"] == lineage.digest(repo / "uv.lock")


def test_a_run_holds_parameters_metrics_curve_and_files_and_no_pickle(repo: Path) -> None:
    version = register(repo)
    client = tracking.client(repo)
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["distill.steps"] == str(config.load(repo / "params.yaml").distill.steps)
    assert run.data.metrics["evaluate.student.wer.normalised"] == 0.25
    assert "evaluate.teacher.wer" not in run.data.metrics
    curve = client.get_metric_history(version.run_id, "training.loss")
    assert [(point.step, point.value) for point in curve] == [(10, 2.5), (20, 1.5)]
    names = {entry.path for entry in client.list_artifacts(version.run_id)}
    assert {"params.yaml", "dvc.lock", "metrics"} <= names
    stored = {path.suffix for path in (repo / tracking.HOME / "artifacts").rglob("*") if path.is_file()}
    assert stored & {".safetensors", ".py"} == {".safetensors", ".py"}
    assert not stored & {".pkl", ".pickle", ".pyc", ".pt", ".bin"}


def test_the_registered_model_transcribes_bytes_of_audio_short_and_long(repo: Path, tiny_whisper: Path) -> None:
    import mlflow
    import pandas as pd

    retrain(repo, tiny_whisper)
    version = register(repo)
    tracking.client(repo)
    model = mlflow.pyfunc.load_model(version.uri)
    out = model.predict(pd.DataFrame({"audio": [speech(), speech()[:32_044]]}), params={"language": "en"})
    assert list(out.columns) == ["text"]
    assert [type(text) for text in out["text"]] == [str, str]
    assert model.metadata.signature.params.to_dict()[0]["name"] == "language"
    requirements = (registry.local_model(version.uri, repo).parents[1] / "requirements.txt").read_text().split()
    assert all("==" in line for line in requirements)


def test_a_registered_ctc_student_transcribes_too(repo: Path, tmp_path: Path) -> None:
    import mlflow
    import pandas as pd

    import tiny_ctc

    retrain(repo, tiny_ctc.ctc(tmp_path / "student", seed=1))  # it says a letter
    version = register(repo)
    tracking.client(repo)
    model = mlflow.pyfunc.load_model(version.uri)
    (text,) = model.predict(pd.DataFrame({"audio": [speech()]}))["text"]
    timed = model.predict(pd.DataFrame({"audio": [speech()]}), params={"timestamps": True})["text"][0]
    assert re.fullmatch("[a-z ]+", text)
    assert re.fullmatch(rf"<\|[0-9.]+\|> {text}<\|[0-9.]+\|>", timed)
    with pytest.raises(ValueError, match="'translate'"):
        model.predict(pd.DataFrame({"audio": [speech()]}), params={"task": "translate"})


def test_the_same_model_twice_is_one_version(repo: Path) -> None:
    first, second = register(repo), register(repo)
    assert (first.created, second.created) == (True, False)
    assert (first.version, first.run_id) == (second.version, second.run_id)
    assert len(tracking.client(repo).search_model_versions("name = 'stillsmall-student'")) == 1


def test_another_commit_of_the_same_model_is_the_same_version(repo: Path) -> None:
    first = register(repo)
    (repo / "README.md").write_text("words\n")
    commit(repo)
    assert register(repo).version == first.version


def test_another_model_is_another_version_and_takes_the_alias(repo: Path) -> None:
    first = register(repo)
    retrain(repo)
    second = register(repo)
    assert second.version != first.version
    client = tracking.client(repo)
    assert client.get_model_version_by_alias("stillsmall-student", "candidate").version == int(second.version)


def test_uncommitted_lineage_is_tagged_and_a_commit_mends_it(repo: Path, git: Callable[..., str]) -> None:
    retrain(repo)
    first = register(repo)
    assert (first.committed, first.uncommitted) == (False, ("dvc.lock",))
    commit(repo)
    second = register(repo)
    assert (second.version, second.created, second.committed) == (first.version, False, True)
    tags = tracking.client(repo).get_model_version("stillsmall-student", second.version).tags
    assert tags["lineage.commit"] == git("rev-parse", "HEAD", cwd=repo)


def test_a_model_that_is_not_the_one_in_dvc_lock_is_refused(repo: Path) -> None:
    config_file = repo / "models/student/config.json"
    content = config_file.read_text()
    config_file.unlink()  # it may be a link into DVC's cache
    config_file.write_text(content + " ")
    with pytest.raises(LineageError, match=r"models/student is not the model in dvc\.lock: on disk \w+\.dir"):
        register(repo)
    assert not tracking.client(repo).search_registered_models()


def test_parameters_or_code_that_changed_since_the_run_are_named(repo: Path) -> None:
    params = repo / "params.yaml"
    text = params.read_text()
    steps = config.load(params).distill.steps
    params.write_text(text.replace(f"steps: {steps}", f"steps: {steps + 1}"))
    with pytest.raises(LineageError, match=r"Changed since: distill\.steps \(distill\)\. Run `make repro`"):
        register(repo)
    params.write_text(text)
    (repo / "src/__pycache__/room.pyc").write_bytes(b"what Python leaves behind is no change")
    lineage.check_current(repo, lineage.read_lock(repo))
    (repo / "stages/distill.py").write_text("# distils otherwise\n")
    (repo / "src/room.py").write_text("# another room\n")
    with pytest.raises(LineageError, match=r"Changed since: src \(distill\); stages/distill\.py \(distill\)"):
        register(repo)


def test_without_a_pipeline_run_there_is_nothing_to_register(repo: Path) -> None:
    (repo / "dvc.lock").unlink()
    with pytest.raises(LineageError, match=r"dvc\.lock: no such file; run `make repro` first"):
        register(repo)


class Killed(BaseException):
    """A process that goes away in the middle."""


@pytest.mark.parametrize("moment", ["_log", "_log_model", "_ensure_name", "create_model_version", "alias"])
def test_a_register_that_is_killed_is_finished_by_the_next(
    repo: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    from mlflow import MlflowClient

    def die(*_: object, **__: object) -> None:
        raise Killed

    where = {"create_model_version": MlflowClient, "alias": MlflowClient}.get(moment, registry)
    with monkeypatch.context() as patch:
        patch.setattr(tracking.MlflowTracker, "finish", die)  # a process that is killed cleans nothing up
        patch.setattr(where, "set_registered_model_alias" if moment == "alias" else moment, die)
        with pytest.raises(Killed):
            register(repo)
    version = register(repo)
    client = tracking.client(repo)
    assert len(client.search_model_versions("name = 'stillsmall-student'")) == 1
    assert client.get_model_version_by_alias("stillsmall-student", "candidate").version == int(version.version)
    experiment = client.get_experiment_by_name("stillsmall-student").experiment_id
    runs = client.search_runs([experiment])
    assert [(run.info.run_id, run.info.status) for run in runs] == [(version.run_id, "FINISHED")]
    assert len(client.get_metric_history(version.run_id, "training.loss")) == 2
    assert len(client.search_logged_models([experiment])) == 1


def test_a_model_that_was_logged_as_the_process_was_killed_is_not_there_twice(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    log = mlflow.pyfunc.log_model

    def log_and_die(**how: object) -> None:
        log(**how)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.pyfunc, "log_model", log_and_die)
        with pytest.raises(Killed):
            register(repo)
    version = register(repo)
    client = tracking.client(repo)
    experiment = client.get_experiment_by_name("stillsmall-student").experiment_id
    assert [model.source_run_id for model in client.search_logged_models([experiment])] == [version.run_id]


def test_an_unknown_version_names_the_ones_there_are(repo: Path) -> None:
    register(repo)
    with pytest.raises(registry.RegistryError, match=r"have: models:/stillsmall-student@candidate"):
        registry.local_model("models:/stillsmall-student@champion", repo)


def test_a_version_on_this_machine_is_used_in_place_and_a_distant_one_fetched_once(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    version = register(repo)
    store = repo / tracking.HOME
    assert registry.local_model(version.uri, repo).is_relative_to(store / "artifacts")
    assert not (store / "fetched").exists()
    monkeypatch.setattr(registry, "urlparse", lambda _: type("Elsewhere", (), {"scheme": "s3", "path": "/there"}))
    fetched = registry.local_model(f"models:/{version.name}/{version.version}", repo)
    assert fetched.is_relative_to(store / "fetched")
    assert lineage.digest(fetched) == version.model
    assert len(list((store / "fetched").iterdir())) == 1
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", None)
    assert registry.local_model(version.uri, repo) == fetched


def test_a_uri_that_is_none_says_how_one_looks(repo: Path) -> None:
    with pytest.raises(registry.RegistryError, match=r"expected models:/NAME@ALIAS or models:/NAME/VERSION"):
        registry.local_model("models:/stillsmall-student", repo)


def test_a_server_that_does_not_answer_is_one_message(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(tracking.TrackingError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        register(repo)


def test_one_repositorys_registry_is_not_the_next_ones(repo: Path, tmp_path: Path) -> None:
    tracking.client(repo)
    assert str(tmp_path / "other") in tracking.uri(tmp_path / "other")


def test_without_a_tracker_nothing_happens() -> None:
    tracker: tracking.Tracker = tracking.NoTracker()
    assert tracker.start("run", "key", {}) == ""
    tracker.params({"a": 1})
    tracker.metrics({"b": 2.0})
    tracker.artifacts(Path("nowhere"))
    tracker.finish()
