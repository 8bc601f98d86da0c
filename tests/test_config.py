"""params.yaml says everything, and what it cannot say is an error that names the place and the nearest valid name."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillsmall import config
from stillsmall.config import ConfigError, Params

# keys whose name says all; any other key has a comment on its line, on its section's line or above it
SELF_EVIDENT = {
    "model", "backend", "task", "timestamps", "num_beams", "batch_size", "max_new_tokens", "device", "dtype",
    "language", "revision", "decoder_layers", "freeze_encoder", "save_dtype", "objective", "steps", "learning_rate",
    "warmup_steps", "weight_decay", "clip_norm", "checkpoint_every", "log_every", "previous_text_probability",
    "title", "name", "alias", "speed_rounds", "ce", "kd",
}  # fmt: skip


@pytest.fixture
def tree(root: Path) -> dict[str, Any]:
    return copy.deepcopy(config.read_yaml(root / "params.yaml"))


def fault(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(Params, tree, "")
    return str(caught.value)


def test_the_committed_params_are_valid_and_typed(root: Path) -> None:
    params = config.load(root / "params.yaml")
    assert isinstance(params.distill.steps, int)
    assert params.validate_.model
    assert params.register_.alias == "candidate"


def test_a_misspelt_key_names_its_path_and_the_nearest_one(tree: dict[str, Any]) -> None:
    tree["distill"]["stepps"] = tree["distill"].pop("steps")
    lines = fault(tree).splitlines()
    assert "distill.steps: missing; params.yaml must give it a value" in lines
    assert any(line.startswith("distill.stepps: unknown 'stepps'; did you mean 'steps'? Have: ") for line in lines)


def test_a_misspelt_section_names_the_nearest_one(tree: dict[str, Any]) -> None:
    tree["validte"] = {}
    assert "validte: unknown 'validte'; did you mean 'validate'?" in fault(tree)


def test_a_misspelt_key_below_an_aliased_section_has_the_name_that_people_write(tree: dict[str, Any]) -> None:
    tree["validate"]["num_beam"] = 3
    assert fault(tree).startswith("validate.num_beam: unknown 'num_beam'; did you mean 'num_beams'?")


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("distill", "steps", "600", "distill.steps: got '600'; input should be a valid integer"),
        ("distill", "steps", 600.5, "distill.steps: got 600.5; input should be a valid integer"),
        ("distill", "steps", True, "distill.steps: got True; input should be a valid integer"),
        ("distill", "steps", 0, "distill.steps: got 0; input should be greater than 0"),
        (
            "distill",
            "schedule",
            "step",
            "distill.schedule: got 'step'; input should be 'linear', 'cosine' or 'constant'",
        ),
        ("distill", "timestamp_probability", 1.5, "distill.timestamp_probability: got 1.5; input should be less than"),
        ("pseudo_label", "timestamps", "yes", "pseudo_label.timestamps: got 'yes'; input should be a valid boolean"),
        ("prepare", "sources", [], "prepare.sources: got []; list should have at least 1 item"),
        ("prepare", "silence_dbfs", 3.0, "prepare.silence_dbfs: got 3.0; input should be less than 0"),
        ("filter", "keep_if", "repetition", "filter.keep_if: got 'repetition'; input should be a valid list"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    tree: dict[str, Any], section: str, key: str, value: Any, said: str
) -> None:
    tree[section][key] = value
    assert fault(tree).startswith(said)


PRUNING = {"encoder_layers": None, "decoder_layers": None, "start": 0.8, "end": 0.7, "decay": 0.9}


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("distill", "more_teachers", ["other"], "distill.more_teachers[0]: got 'other'; expected a section of key"),
        ("distill", "learning_rate", float("inf"), "distill.learning_rate: got inf; input should be a finite number"),
        ("student", "pruning", {"kind": "magic"}, "student.pruning.kind: unknown 'magic'; Have: capacity, iterative"),
        ("student", "pruning", {"kind": "iterativ"}, "student.pruning.kind: unknown 'iterativ'; did you mean 'iterat"),
        ("student", "pruning", {"start": 0.1}, "student.pruning.kind: missing; params.yaml must give it a value"),
        ("student", "pruning", 3, "student.pruning: got 3; expected a section of key: value lines"),
        (
            "student",
            "pruning",
            {"kind": "iterative", "encoder_ffn": 1.0, "decoder_ffn": 0.5, **PRUNING},
            "student.pruning: start (0.8) must come before end (0.7)",
        ),
        ("student", "encoder_layers", 0, "student.encoder_layers: got 0; expected null, a number above 0, {first: n}"),
        ("augment", "noise_snr_db", [9.0, 1.0], "augment: noise_snr_db: the range [9.0, 1.0] must begin with its low"),
    ],
)
def test_a_section_that_cannot_be_is_said_without_showing_all_of_it(
    tree: dict[str, Any], section: str, key: str, value: Any, said: str
) -> None:
    tree[section][key] = value
    assert fault(tree).startswith(said)


def test_every_fault_has_its_line(tree: dict[str, Any]) -> None:
    tree["distill"]["steps"] = 0
    tree["run"]["seed"] = "one"
    assert [line.split(":")[0] for line in fault(tree).splitlines()] == ["run.seed", "distill.steps"]


def test_every_key_must_be_given(tree: dict[str, Any]) -> None:
    for section, values in tree.items():
        for key in [] if section in ("filters", "objectives") else list(values):
            without = copy.deepcopy(tree)
            del without[section][key]
            assert fault(without) == f"{section}.{key}: missing; params.yaml must give it a value"


def test_a_section_that_is_no_section_is_said_so() -> None:
    with pytest.raises(ConfigError, match=r"^distill: got 3; expected a section of key: value lines"):
        config.parse(config.Distill, 3, "distill")


def test_sections_are_frozen(root: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.load(root / "params.yaml").run.seed = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: [", "not valid YAML"),
        ("- a\n- b\n", "expected sections, got list"),
        ("", "expected sections, got NoneType"),
        ("run: {}\nrun: {}\n", "not valid YAML"),
    ],
)
def test_a_file_that_holds_no_sections_is_said_so(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        config.load(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; run from the repository's root, or name it with --params"):
        config.load(tmp_path / "params.yaml")


def test_a_changed_file_is_read_again(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "params.yaml"
    text = (root / "params.yaml").read_text()
    path.write_text(text)
    before = config.load(path).run.seed
    path.write_text(text.replace(f"seed: {before} ", f"seed: {before + 41} "))
    assert config.load(path).run.seed == before + 41


def undocumented(text: str) -> list[str]:
    """Keys of a params.yaml (dotted) that neither a comment nor their name explains."""
    found, section, explained, above = [], "", False, False
    for line in text.splitlines():
        key = re.match(r"( *)([a-z_]+):", line)
        commented = "#" in line
        if key and not key[1]:
            section, explained = key[2], commented or above
        elif key and len(key[1]) == 2 and not (commented or above or explained or key[2] in SELF_EVIDENT):
            found.append(f"{section}.{key[2]}")
        above = line.lstrip().startswith("#")
    return found


def test_every_parameter_is_documented(root: Path) -> None:
    assert undocumented((root / "params.yaml").read_text()) == []


def test_that_test_can_fail() -> None:
    text = "a: # of things\n  one: 1\nb:\n  two: 2\n  # why\n  three: 3\n  four: 4 # why\n  steps: 5\n"
    assert undocumented(text) == ["b.two"]


@pytest.mark.parametrize("kind", ["filters", "objectives"])
def test_every_plugin_has_a_section_in_params_and_takes_it(root: Path, kind: str, table: Callable[[str], Any]) -> None:
    from stillsmall.plugins import resolve

    tree = config.read_yaml(root / "params.yaml")
    assert set(tree[kind]) == set(table(kind))
    for name in table(kind):
        plugin = resolve(table(kind), name, kind)
        section = config.plugin_section(tree[kind], kind, name, plugin.Config)
        assert set(plugin.Config.model_fields) == set(tree[kind][name] or {}), (
            f"{kind}.{name}: params.yaml documents all"
        )
        assert plugin(section).config == section


@pytest.fixture
def table() -> Callable[[str], Any]:
    import importlib

    return lambda kind: importlib.import_module(f"stillsmall.{kind}").TABLE
