"""The doctor names what lacks and what to do about it; the quick look comes before anything runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stillsmall import cli, config, doctor, tracking


@pytest.fixture
def repo(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and nothing else."""
    shutil.copy(root / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(cli.main, words, catch_exceptions=True)


def states(repo: Path) -> dict[str, tuple[str, str]]:
    return {f.what: (f.state, f.detail) for f in doctor.examine(repo, repo / "params.yaml")}


def test_doctor_names_what_lacks_and_fails(repo: Path) -> None:
    (repo / "models/demo").mkdir(parents=True)
    found = states(repo)
    said = "no folder 'teacher' in models.root (models/demo); it holds no model; a hub id has an owner: OWNER/NAME"
    assert found["pseudo_label.model"] == ("lacks", said)
    assert found["data.root"][0] == "lacks"
    assert found["pipeline"][0] == "lacks"
    assert found["git"][0] == "warn"
    assert found["params.yaml"][0] == "ok"
    assert found["espeak-ng"] == ("ok", "loads")
    assert {found[name][0] for name in doctor.PACKAGES} == {"ok"}
    result = call("doctor")
    assert result.exit_code == 1
    assert "Lacking: pipeline, data.root, pseudo_label.model, validate.model" in result.output.replace("\n", " ")


def complete(repo: Path) -> None:
    """The folders that params.yaml names, and two models."""
    (repo / "data/raw").mkdir(parents=True)
    for name in ("teacher", "validator"):
        folder = repo / "models/demo" / name
        folder.mkdir(parents=True)
        for file in ("config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"):
            (folder / file).write_text("")


FAULTS = [
    ("data.root=data/rw", "data.root: got 'data/rw'; there is no such folder; did you mean 'data/raw'? "),
    ("data.root=params.yaml", "data.root: got 'params.yaml'; that is no folder; put your speech there, or name its "),
    ("models.root=/none/at/all", "models.root: got '/none/at/all'; there is no such folder; name the folder that "),
    ("models.root=models/dem", "models.root: got 'models/dem'; there is no such folder; did you mean 'models/demo'? "),
    ("pseudo_label.model=techer", "pseudo_label.model: no folder 'techer' in models.root (models/demo); did you mean"),
    ("validate.model=owner/name", "validate.model: owner/name of the hub: fetched when it is needed; give its commit"),
    ("evaluate.backend=transformer", "evaluate.backend: unknown 'transformer'; did you mean 'transformers'?"),
    ("distill.patience=3", "distill.patience: got 3, but distill.dev_every is 0"),
    ("distill.processes=99", "distill.processes: got 99, but a step has distill.batch_size = 24 clips"),
    ("distill.warmup_steps=9999", "distill.warmup_steps: got 9999; there are only"),
    ("prepare.workers=0", "prepare.workers: got 0; input should be greater than 0"),
]


def test_what_only_training_needs_is_looked_for_before_labelling_too(repo: Path) -> None:
    complete(repo)
    tree = config.read_yaml(repo / "params.yaml")
    tree["student"] |= {"model": "techer"}
    tree["distill"] |= {"more_teachers": [{"model": "teacher", "revision": None}, {"model": "o/m", "revision": None}]}
    tree["augment"] |= {"noise_folder": "noises"}
    (repo / "params.yaml").write_text(json.dumps(tree))  # JSON is YAML
    said = call("doctor", "--quick").output.splitlines()
    assert said[0].startswith("student.model: no folder 'techer' in models.root (models/demo); did you mean 'teacher'?")
    assert said[1].startswith("distill.more_teachers[1].model: o/m of the hub")
    assert said[2] == "augment.noise_folder: got 'noises'; there is no such folder under data.root (data/raw)"
    (repo / "data/raw/noises").mkdir()
    assert len(call("doctor", "--quick").output.splitlines()) == 2


@pytest.mark.parametrize(("change", "said"), FAULTS)
def test_what_keeps_the_pipeline_from_starting_is_named_before_it_starts(repo: Path, change: str, said: str) -> None:
    complete(repo)
    result = call("doctor", "--quick")
    assert (result.exit_code, result.output) == (0, "")
    name, _, value = change.partition("=")
    section, key = name.split(".")
    tree = config.read_yaml(repo / "params.yaml")
    tree = {**tree, section: {**tree[section], key: int(value) if value.isdigit() else value}}
    (repo / "params.yaml").write_text(json.dumps(tree))  # JSON is YAML
    result = call("doctor", "--quick")
    assert result.exit_code == cli.USAGE_FAULT
    assert said in result.output and len(result.output.splitlines()) == 1


def test_the_quick_look_is_quick(repo: Path) -> None:
    complete(repo)
    code = "import sys; from stillsmall.cli import main; main(standalone_mode=False)"
    code = (
        f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, 'mlflow' in sys.modules)); {code}"
    )
    command = [sys.executable, "-c", code, "doctor", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_the_main_job_looks_before_it_starts(root: Path) -> None:
    lines = (root / "Makefile").read_text().partition("\nrepro:")[2].splitlines()
    assert "stillsmall doctor --quick" in lines[1] and "dvc repro" in lines[2]


def test_doctor_is_content_where_all_is_there(repo: Path) -> None:
    (repo / ".dvc").mkdir()
    (repo / ".dvc/config").write_text("")
    (repo / "dvc.yaml").write_text("")
    complete(repo)
    assert {what: detail for what, (state, detail) in states(repo).items() if state == "lacks"} == {}
    (repo / "models/demo/teacher/tokenizer.json").unlink()
    assert states(repo)["pseudo_label.model"][1].endswith("models/demo/teacher has no tokenizer")


def test_doctor_shows_bad_parameters_and_little_disk(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = repo / "params.yaml"
    params.write_text(params.read_text().replace("  steps:", "  stepz:"))
    monkeypatch.setenv("STILLSMALL_MIN_FREE_GB", "1000000")
    found = states(repo)
    assert found["params.yaml"][0] == "lacks"
    assert "did you mean 'steps'?" in found["params.yaml"][1]
    assert found["free disk"][0] == "warn"


def test_doctor_changes_nothing(repo: Path) -> None:
    before = sorted(repo.rglob("*"))
    doctor.examine(repo, repo / "params.yaml")
    assert sorted(repo.rglob("*")) == before
    assert not (repo / tracking.HOME).exists()
