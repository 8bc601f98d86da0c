"""The pipeline as DVC sees it: honest dependencies, the same bytes in two clean clones, cheap thresholds."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ruamel.yaml import YAML

import tiny
from closure import closure
from small import ROOT, tone, tree

TIMED = {"metrics/speed.json", "metrics/distill_speed.json", "reports/report.html"}  # the report shows the timings
PLUGINS = {"prepare": "sources", "filter": "filters"}


def stages():
    return YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("name", sorted(stages()))
def test_a_stage_depends_on_exactly_the_library_that_it_imports(name):
    found = [dep for dep in stages()[name]["deps"] if dep.startswith("src/")]
    plugin = [d for d in found if "${" in d]
    folders = tuple(d + "/" for d in found if (ROOT / d).is_dir())
    files = {d for d in found if d not in plugin and not (ROOT / d).is_dir()}
    roots = [ROOT / "stages" / f"{name}.py"]
    for dep in plugin:  # every plugin that the interpolation can name
        section, key = dep[dep.index("${") + 2 : dep.index("}")].split(".")
        roots.append(ROOT / dep.replace(f"${{{section}.{key}}}", tree()[section][key]))
    roots += [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    needed = {str(p.relative_to(ROOT)) for root in roots for p in closure(root)}
    needed = {path for path in needed if not path.startswith(folders)} - {str(r.relative_to(ROOT)) for r in roots}
    assert files == needed


def test_every_stage_names_its_own_script_and_the_flow_is_whole():
    assert list(stages()) == ["prepare", "pseudo_label", "validate", "score", "filter", "distill", "evaluate", "report"]
    for name, stage in stages().items():
        assert f"stages/{name}.py" in stage["deps"] and f"python stages/{name}.py" in stage["cmd"]


def test_every_parameter_of_a_stage_exists():
    for stage in stages().values():
        for path in stage["params"]:
            at = tree()
            for part in path.replace("${distill.objective}", "kd").split("."):
                at = at[part]


def test_the_scores_depend_on_the_threads_of_the_run_and_not_on_its_seed():
    assert "run" not in stages()["score"]["params"] and "run.threads" in stages()["score"]["params"]
    read = {
        node.attr
        for name in ("scoring", "likelihood", "measures")
        for node in ast.walk(ast.parse((ROOT / f"src/stillsmall/{name}.py").read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "run"
    }
    assert read == {"threads"}


def test_stages_are_thin():
    for path in (ROOT / "stages").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, path


CHANGES = {
    "run.threads": 1, "models.root": "models/tiny", "prepare.workers": 1, "prepare.shard_utterances": 4,
    "filter.keep_if": [], "distill.steps": 6, "distill.warmup_steps": 1, "distill.batch_size": 4,
    "distill.micro_batch": 4, "distill.checkpoint_every": 3, "distill.log_every": 1, "evaluate.speed_clips": 2,
    "evaluate.speed_rounds": 1, "report.examples": 4, "pseudo_label.max_new_tokens": 10, "validate.max_new_tokens": 10,
    "evaluate.max_new_tokens": 10,
}  # fmt: skip


def clone(folder: Path) -> Path:
    """A clean checkout of this tree with a tiny configuration, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    for name in filter(None, listed):
        if not name.startswith(("models/", "tests/")) and name != "dvc.lock" and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for seed, name in enumerate(("teacher", "validator")):
        tiny.whisper(folder / "models/tiny" / name, seed)
    speech = folder / "data/raw"
    sources = []
    for number, split in enumerate(("train", "test")):
        rows = [f"{split}{i}.wav,tone {i},{split}-s{i % 6}" for i in range(8)]
        (speech / split).mkdir(parents=True)
        (speech / split / "metadata.csv").write_text("\n".join(["file_name,text,speaker", *rows]) + "\n")
        for i in range(8):
            samples = tone(0.6 + 0.1 * i, 200 + 50 * i, i + 100 * number)
            soundfile.write(speech / split / f"{split}{i}.wav", np.round(samples * 32767).astype(np.int16), 16000)
        source = {"name": split, "kind": "audiofolder", "path": split, "split": split, "language": "en"}
        sources.append({**source, "domain": "tone", "speaker_column": "speaker", "transcripts": "keep"})
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(tree(**CHANGES, **{"prepare.sources": sources}), file)
    call("git", "init", "-q", cwd=folder)
    call("git", "add", "-A", cwd=folder)
    call("git", "commit", "-qm", "start", cwd=folder)
    return folder


def call(*command: str, cwd: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(cwd / "src"), "STILLSMALL_CACHE": ".stillsmall/cache"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def locked(folder: Path) -> dict[str, str]:
    """Digest of every output in dvc.lock."""
    lock = YAML(typ="safe", pure=True).load((folder / "dvc.lock").read_text())
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = clone(tmp_path_factory.mktemp("first") / "one")
    call("dvc", "repro", "-q", cwd=folder)
    return folder


@pytest.mark.timeout(600)
def test_two_clean_clones_give_the_same_outputs_byte_for_byte(first, tmp_path):
    second = clone(tmp_path / "two")
    call("dvc", "repro", "-q", cwd=second)
    ours, theirs = locked(first), locked(second)
    assert set(ours) == set(theirs) and len(ours) >= 16
    assert {path for path in ours if ours[path] != theirs[path]} <= TIMED


@pytest.mark.timeout(300)
def test_a_second_run_computes_nothing_and_a_threshold_runs_no_model(first):
    assert "up to date" in call("dvc", "repro", cwd=first)
    yaml = YAML()
    params = yaml.load(first / "params.yaml")
    params["filter"]["keep_if"] = ["compression"]
    params["filters"]["compression"]["max_ratio"] = 9.0
    yaml.dump(params, first / "params.yaml")
    said = call("dvc", "repro", "filter", cwd=first)
    assert "Running stage 'filter'" in said
    assert not any(f"Running stage '{name}'" in said for name in ("prepare", "pseudo_label", "validate", "score"))


@pytest.mark.timeout(300)
def test_metrics_plots_and_experiments_behave_as_a_dvc_user_expects(first):
    shown = json.loads(call("dvc", "metrics", "show", "--json", cwd=first))
    assert "metrics/evaluate.json" in json.dumps(shown)
    assert "metrics/training.csv" in call("dvc", "plots", "show", "--json", cwd=first)
    call("git", "add", "-A", cwd=first)
    call("git", "commit", "-qm", "ran", cwd=first)
    call("dvc", "exp", "run", "-q", "-S", "filters.compression.max_ratio=8.0", "filter", cwd=first)
    assert "8.0" in call("dvc", "exp", "show", "--json", cwd=first)
