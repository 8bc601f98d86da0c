"""An ablation's arms are valid, differ, and say what they change; everything else is refused under its path."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stillsmall import ablations, cli, config, recipes
from stillsmall.config import ConfigError
from stillsmall.objectives.build import build

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (ROOT / "recipes/ablations").glob("*.yaml"))
GOOD: dict[str, Any] = {
    "name": "mine",
    "question": "Does the temperature matter?",
    "common": {"distill.objective": "kd"},
    "arms": {"T1": {"objectives.kd.temperature": 1.0}, "T2": {"objectives.kd.temperature": 2.0}},
    "contrasts": {"softness": ["T2", "T1"]},
    "seeds": [1, 2],
}


def written(folder: Path, **changed: Any) -> Path:
    """GOOD with changes, as `mine.yaml` of a folder."""
    from ruamel.yaml import YAML

    tree = {key: value for key, value in {**GOOD, **changed}.items() if value is not None}
    with (folder / "mine.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(tree, file)
    return folder


def checked(folder: Path, **changed: Any) -> dict[str, list[str]]:
    found = ablations.check(ablations.read("mine", written(folder, **changed)), ROOT / "params.yaml")
    return {arm: [str(change) for change in changes] for arm, changes in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_an_ablation_of_the_repository_is_valid_in_every_arm_and_has_a_question(name: str) -> None:
    ablation = ablations.read(name, ROOT / "recipes/ablations")
    assert set(ablations.check(ablation, ROOT / "params.yaml")) == set(ablation.arms)
    assert len(ablation.question) > 40


def test_the_arms_of_adakd_are_the_papers(tmp_path: Path) -> None:
    ablation = ablations.read("adakd", ROOT / "recipes/ablations")
    found = {}
    for arm in ablation.arms:
        params = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
        recipes.use(ablation.overlays(arm, seed=7), params)
        loaded = config.load(params)
        made = build(loaded.objectives, loaded.distill.objective).config
        found[arm] = (made.arm, made.k(0.0), made.k(1.0))
        assert loaded.distill.seed == 7
    assert found == {
        "A": ("constant", 15.0, -10.0),
        "B+": ("progressive", 15.0, 15.0),
        "B-": ("progressive", -10.0, -10.0),
        "C": ("progressive", 15.0, -10.0),
        "D": ("progressive", -10.0, 15.0),
        "E": ("shuffled", 15.0, -10.0),
        "F": ("frozen", 15.0, -10.0),
        "C'": ("mean_matched", 15.0, -10.0),
    }


def test_an_arm_says_what_it_changes(tmp_path: Path) -> None:
    assert checked(tmp_path) == {"T1": ["objectives.kd.temperature: 2.0 -> 1.0"], "T2": []}


def test_the_format_in_the_modules_text_is_valid(tmp_path: Path) -> None:
    assert ablations.__doc__
    example = re.search(r"\n\n((?:    .*\n)+)", ablations.__doc__)
    assert example
    (tmp_path / "kd_temperature.yaml").write_text(re.sub(r"^    ", "", example[1], flags=re.M))
    ablation = ablations.read("kd_temperature", tmp_path)
    assert ablation.contrasts == {"softness": ["T2", "T1"]}
    assert set(ablations.check(ablation, ROOT / "params.yaml")) == {"T1", "T2"}


def test_an_arm_may_bring_an_objective_of_its_own_name(tmp_path: Path) -> None:
    late = {"kind": "kd", "ce_weight": 0.5, "kl_weight": 1.0, "temperature": 2.0}
    arms = {"kd": {}, "late": {"distill.objective": "late", "objectives.late": late}}
    assert checked(tmp_path, arms=arms, contrasts=None)["late"][0] == "distill.objective: kd -> late"


def test_checking_and_overlaying_leave_everything_as_it_was(tmp_path: Path) -> None:
    before = (ROOT / "params.yaml").read_bytes()
    ablation = ablations.read("mine", written(tmp_path))
    overlays = ablation.overlays("T1", 3)
    assert overlays == [
        {"distill": {"objective": "kd"}},
        {"objectives": {"kd": {"temperature": 1.0}}},
        {"distill": {"seed": 3}},
    ]
    overlays[0]["distill"]["objective"] = "broken"
    assert ablation.common == {"distill.objective": "kd"}
    checked(tmp_path)
    assert (ROOT / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "yours"}, r"^ablations\.mine\.name: got 'yours'; the file is mine\.yaml"),
        ({"question": ""}, r"^ablations\.mine\.question: got ''"),
        ({"question": None}, r"^ablations\.mine\.question: missing"),
        ({"seeds": []}, r"^ablations\.mine\.seeds"),
        ({"seeds": [1, 1]}, r"^ablations\.mine\.seeds: got \[1, 1\]; .*each seed once"),
        ({"seeds": [1.5]}, r"^ablations\.mine\.seeds\[0\]: got 1\.5"),
        ({"arms": {"T1": {}}}, r"^ablations\.mine\.arms"),
        ({"arms": {"T1": {}, "T 2": {}}}, r"^ablations\.mine\.arms\.T 2"),
        ({"seed": 1}, r"^ablations\.mine\.seed: unknown 'seed'; did you mean 'seeds'\?"),
        (
            {"contrasts": {"a": ["T1", "T3"]}},
            r"^ablations\.mine\.contrasts: got .* a: unknown arm 'T3'; did you mean 'T[12]'\?",
        ),
        ({"contrasts": {"a": ["T1"]}}, r"^ablations\.mine\.contrasts\.a"),
        (
            {"arms": {"T1": {}, "T2": {"objectives.kd.temprature": 1.0}}},
            r"^ablations\.mine\.arms\.T2: objectives\.kd\.temprature: unknown 'temprature'; did you mean 'temper",
        ),
        (
            {"arms": {"T1": {}, "T2": {"distill.objective": "kdd"}}},
            r"^ablations\.mine\.arms\.T2: distill\.objective: unknown 'kdd'; did you mean 'kd'\?",
        ),
        (
            {"arms": {"T1": {}, "T2": {"distill.steps": 3, "distill.steps.x": 1}}},
            r"^ablations\.mine\.arms\.T2: distill\.steps\.x: goes below a value that is set too",
        ),
        ({"arms": {"T1": {}, "T2": {"objectives.kd.temperature": 2.0}}}, r"\.arms\.T2: the same run as arm T1$"),
        (
            {"arms": {"T1": {}, "T2": {"objectives.focal.gamma": 1.0}}},
            r"\.arms\.T2: objectives\.focal\.gamma changes nothing: distill\.objective is 'kd'",
        ),
    ],
)
def test_what_cannot_be_is_refused_under_its_path(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        checked(tmp_path, **changed)


def test_an_unknown_ablation_or_arm_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^ablation 'mien': no such file as .*; did you mean 'mine'\?"):
        ablations.read("mien", written(tmp_path))
    with pytest.raises(ConfigError, match=r"^ablations\.mine: unknown arm 'T'; "):
        ablations.read("mine", tmp_path).overlays("T")


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "recipes/ablations").mkdir(parents=True)
    written(tmp_path / "recipes/ablations")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_lists_them_and_shows_the_arms_of_one(repo: Path) -> None:
    listed = CliRunner().invoke(cli.main, ["ablations"])
    assert listed.output == "mine: arms T1, T2; seeds 1, 2\n    Does the temperature matter?\n"
    shown = CliRunner().invoke(cli.main, ["ablations", "mine"])
    assert shown.output == (
        "T1:\n  objectives.kd.temperature: 2.0 -> 1.0\nT2:\n  as params.yaml has it\nsoftness: T2 less T1\n"
    )


def test_the_commands_error_is_one_message(repo: Path) -> None:
    found = CliRunner().invoke(cli.main, ["ablations", "mien"])
    assert found.exit_code == 2
    assert "stillsmall: ablation 'mien': no such file" in found.output
