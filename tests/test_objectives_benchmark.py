"""The comparison of objectives: its arithmetic by hand, its work on a tiny model; a kill loses nothing."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from small import split, write_params
from stillsmall import cache, distillation
from stillsmall.plugins import UnknownName
from test_training import CHANGES, corpus


@pytest.fixture(scope="module")
def tool(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("objectives_benchmark", root / "benchmarks" / "objectives.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `make repro` leaves it: six kept labels, a test split, a tiny teacher."""
    folder = corpus(tmp_path_factory.mktemp("project"))
    (folder / "data/prepared").mkdir(parents=True)
    (folder / "data/filtered").mkdir()
    (folder / "train").rename(folder / "data/prepared/train")
    (folder / "kept.parquet").rename(folder / "data/filtered/kept.parquet")
    rows = [{"utt_id": f"t/{i}", "speaker": f"v{i}", "text": "the cat sat", "recording": f"r{i}"} for i in range(6)]
    split(folder / "data/prepared/test", [*rows, {"utt_id": "t/quiet", "text": "", "speaker": "v0"}])
    write_params(folder / "params.yaml", **CHANGES, **{"evaluate.max_new_tokens": 4, "evaluate.device": "cpu"})
    return folder


def compare(tool: ModuleType, project: Path, out: Path, *words: str) -> dict[str, Any]:
    tool.main(["--from", str(project), "--out", str(out), "--steps", "4", "--seeds", "1", "2", *words])
    return dict(json.loads((out / "objectives.json").read_text()))


@pytest.fixture(scope="module")
def made(tool: ModuleType, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    before = cache.ROOT
    compare(tool, project, out, "--objectives", "kd", "ce", "--labels", "5")
    cache.ROOT = before
    return out


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOT", cache.ROOT)  # the tool sets it: put back after each test


def test_a_table_has_the_bounds_and_each_objective_over_its_seeds(made: Path) -> None:
    table = json.loads((made / "objectives.json").read_text())
    assert set(table["objectives"]) == {"kd", "ce"} and table["against"] == "kd"
    assert table["test"] == {"utterances": 6, "words": 18, "speakers": 6}  # the one without words is not judged
    assert table["labels"] == 5
    for name, found in table["objectives"].items():
        assert set(found["wer"]) == {"1", "2"} and found["step_ms"] > 0
        assert found["seeds"]["mean"] == pytest.approx(sum(found["wer"].values()) / 2)
        assert found["speakers"]["value"] == pytest.approx(found["seeds"]["mean"], abs=1e-6)
        assert (found["difference"] is None) == (name == "kd")
    assert {"teacher", "untrained start"} <= set(table)
    text = (made / "objectives.md").read_text()
    assert "| teacher |" in text and "minus kd" in text and "4 steps of 4 clips on 5 labels" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_students_differ_from_the_start_and_by_seed_and_checkpoints_are_gone(made: Path) -> None:
    runs = {path.stem.rsplit("-", 1)[0]: json.loads(path.read_text()) for path in (made / "runs").glob("*.json")}
    assert set(runs) == {"kd-1", "kd-2", "ce-1", "ce-2", "bounds"}
    assert not (made / "cache/distill").exists() and not list((made / "now").iterdir())
    assert len(list((made / "cache/encoder").glob("*.f16"))) == 1  # one frozen encoder, one subset: computed once


def test_a_finished_comparison_trains_nothing_and_says_the_same(
    tool: ModuleType, project: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((made / "objectives.json").read_text())
    monkeypatch.setattr(distillation, "distill", lambda *_, **__: pytest.fail("trained again"))
    again = compare(tool, project, made, "--objectives", "kd", "ce", "--labels", "5")
    assert {**again, "host": None} == {**before, "host": None}


def test_a_kill_loses_no_finished_run_and_the_unfinished_one_goes_on(
    tool: ModuleType, project: Path, tmp_path: Path
) -> None:
    steps = 0

    def step(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 1 + 4 + 3:  # the start, all of kd, and three steps of ce
            raise KeyboardInterrupt

    words = ("--objectives", "kd", "ce", "--set", "run.seed=5")
    hook = register_optimizer_step_post_hook(step)
    try:
        with pytest.raises(KeyboardInterrupt):
            compare(tool, project, tmp_path, *words, "--seeds", "1")
        assert list(json.loads((tmp_path / "objectives.json").read_text())["objectives"]) == ["kd"]
        compare(tool, project, tmp_path, *words, "--seeds", "1")
    finally:
        hook.remove()
    assert steps == 8 + 2  # checkpointed every step, the kill came before the third one's: two steps were left


def test_a_changed_setting_is_another_run(tool: ModuleType, project: Path, made: Path) -> None:
    def paths(*changes: str) -> set[Path]:
        words = ["--from", str(project), "--out", str(made), "--steps", "4", "--labels", "5", "--objectives", "kd"]
        words += ["--set", *changes]
        comparison = tool.prepare(tool.arguments(words))
        return {comparison.path("kd", 1), comparison.path("ce", 1)}

    same = paths("report.title=other")
    assert all(path.is_file() for path in same)
    assert not any(path.is_file() for path in paths("distill.learning_rate=0.5"))
    assert len(same - paths("objectives.kd.temperature=3.0")) == 1


def test_seeds_have_students_t_interval(tool: ModuleType) -> None:
    """1, 2, 3: mean 2, deviation 1; t of 97.5 % with two degrees of freedom is 4.302653."""
    found = tool.over_seeds([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["high"] == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-5)
    assert found["low"] == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-5)
    assert tool.over_seeds([1.0]) == {"mean": 1.0, "low": None, "high": None, "seeds": 1}


def test_differences_are_of_the_same_speakers_and_seeds(tool: ModuleType) -> None:
    """One error more on every utterance of ten words: 10 points, whoever is drawn, and the same in each seed."""
    speakers, words = [f"s{i}" for i in range(6)], [10] * 6
    theirs = {seed: {"errors": [i + seed for i in range(6)]} for seed in (1, 2, 3)}
    mine = {seed: {"errors": [n + 1 for n in theirs[seed]["errors"]]} for seed in (1, 2)}
    found = tool._intervals(speakers, words, mine, theirs)["difference"]
    assert [found["speakers"][key] for key in ("value", "low", "high")] == pytest.approx([0.1, 0.1, 0.1])
    assert [found["seeds"][key] for key in ("mean", "low", "high")] == pytest.approx([0.1, 0.1, 0.1])
    assert found["seeds"]["seeds"] == 2
    assert tool._intervals(speakers, words, mine, {})["difference"] is None


def test_a_subset_is_the_same_each_time_and_holds_whole_rows(tool: ModuleType, project: Path, tmp_path: Path) -> None:
    kept = project / "data/filtered/kept.parquet"
    first, second = (tool.subset(kept, 3, tmp_path / name).read_bytes() for name in "ab")
    assert first == second
    assert tool.subset(kept, 6, tmp_path) == tool.subset(kept, None, tmp_path) == kept.resolve()


def test_what_is_wrong_is_said_before_anything_is_trained(tool: ModuleType, project: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"^--objectives: unknown 'kdd'; did you mean 'kd'\?"):
        compare(tool, project, tmp_path, "--objectives", "kdd")
    with pytest.raises(SystemExit, match=r"--against: got 'kd'; it is none of --objectives: ce"):
        compare(tool, project, tmp_path, "--objectives", "ce", "--against", "kd")
    empty = tmp_path / "empty"
    shutil.copytree(project, empty, ignore=shutil.ignore_patterns("kept.parquet"))
    with pytest.raises(SystemExit, match=r"kept\.parquet: no such file; run `make repro` in"):
        compare(tool, empty, tmp_path, "--objectives", "ce")
