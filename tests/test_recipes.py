"""A recipe changes what it names and nothing else, keeps the comments, and writes only what is valid."""

from __future__ import annotations

import difflib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillsmall import config, recipes
from stillsmall.config import ConfigError
from stillsmall.plugins import UnknownName

NAMES = ["adakd_hindi_wav2vec2", "adakd_hindi_whisper", "arabic", "askd", "distil_whisper", "k2d", "l2en"]


@pytest.fixture
def params(tmp_path: Path, root: Path) -> Path:
    return Path(shutil.copy(root / "params.yaml", tmp_path / "params.yaml"))


def use(params: Path, *words: str) -> list[str]:
    return [str(change) for change in recipes.use([recipes.assignments(words)], params)]


def changed_lines(old: str, new: str) -> list[str]:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    return [line for line in lines if line[0] in "+-" and not line.startswith(("+++", "---"))]


def comments(text: str) -> list[str]:
    return [line[line.index("#") :].strip() for line in text.splitlines() if "#" in line]


def test_reading_and_writing_params_changes_no_byte(params: Path) -> None:
    yaml, out = recipes._yaml(), io.StringIO()
    yaml.dump(yaml.load(params.read_text()), out)
    assert out.getvalue() == params.read_text()


def test_a_value_is_changed_in_its_line_and_its_comment_stays(params: Path) -> None:
    before = params.read_text()
    assert use(params, "student.decoder_layers=1", "pseudo_label.revision=abc123") == [
        "pseudo_label.revision: null -> abc123",
        "student.decoder_layers: 2 -> 1",
    ]
    lines = changed_lines(before, params.read_text())
    assert "+  decoder_layers: 1" in lines
    assert any(line.startswith("+  revision: abc123") and "# hub ids only" in line for line in lines)
    assert len(lines) == 4
    assert comments(params.read_text()) == comments(before)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("distill.learning_rate=1e-4", 1e-4),
        ("distill.learning_rate=3", 3),
        ("student.encoder_layers=[0, 2]", [0, 2]),
        ("student.decoder_layers=null", None),
        ("student.freeze_encoder=false", False),
        ("report.title='a: b'", "a: b"),
    ],
)
def test_values_are_yaml(params: Path, word: str, value: Any) -> None:
    use(params, word)
    section, key = word.partition("=")[0].split(".")
    assert config.read_yaml(params)[section][key] == value


def test_a_plugins_parameter_is_changed_beside_its_others(params: Path) -> None:
    use(params, "filters.reference_wer.max_wer=0.25")
    section = config.read_yaml(params)["filters"]["reference_wer"]
    assert section["max_wer"] == 0.25
    assert set(section) == {"max_wer", "strict", "without_reference"}


def test_a_plugins_value_may_become_a_section_and_a_value_again(params: Path) -> None:
    use(params, "filters.random.labels={match: [agreement]}")
    assert config.read_yaml(params)["filters"]["random"]["labels"] == {"match": ["agreement"]}
    use(params, "filters.random.labels=7")
    assert config.read_yaml(params)["filters"]["random"] == {"labels": 7, "seed": 1}


def test_a_combination_and_a_section_of_ones_own_are_laid_over(params: Path) -> None:
    strict = "{kind: agreement, measure: mer, max_distance: 0.1, without_value: drop}"
    use(params, f"filters.strict={strict}", "filter.keep_if=[not_empty, {any: [strict, {not: confidence}]}]")
    assert config.load(params).filter.keep_if == ["not_empty", {"any": ["strict", {"not": "confidence"}]}]


def test_layers_and_pruning_are_a_section_or_not(params: Path) -> None:
    shrinking = (
        "{kind: capacity, encoder_layers: null, decoder_layers: 1, start: 0.1, end: 0.7, weight: 1.0, gate_speed: 10.0}"
    )
    use(params, "student.decoder_layers={first: 2}", f"student.pruning={shrinking}")
    use(params, "student.decoder_layers={last: 3}", "student.pruning.weight=2.5")
    chosen = config.load(params).student
    assert chosen.decoder_layers == {"last": 3}
    assert chosen.pruning is not None
    assert chosen.pruning.model_dump()["weight"] == 2.5
    other = "{kind: iterative, encoder_ffn: 1.0, decoder_ffn: 0.5, encoder_layers: null, decoder_layers: null, "
    use(params, f"student.pruning={other}start: 0.1, end: 0.7, decay: 0.9}}")
    assert config.load(params).student.pruning.kind == "iterative"  # type: ignore[union-attr]
    use(params, "student.decoder_layers=2", "student.pruning=null")
    assert config.load(params).student.pruning is None


def test_a_list_is_replaced_whole_and_so_are_the_comments_on_its_entries(params: Path) -> None:
    entry = "{name: mine, kind: audiofolder, path: speech, split: train, language: en, transcripts: keep}"
    use(params, f"prepare.sources=[{entry}]")
    assert [source["name"] for source in config.load(params).prepare.sources] == ["mine"]
    text = params.read_text()
    assert f"    - {entry}\n" in text
    assert "offline speech lab" not in text
    assert "# each one: kind, split, and where it is" in text
    assert "# utterances in a shard" in text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("distil.steps=3", r"^distil: unknown 'distil'; did you mean 'distill'\?"),
        ("distill.stepz=3", r"^distill\.stepz: unknown 'stepz'; did you mean 'steps'\?"),
        ("distill.steps=many", r"^distill\.steps: got 'many'; input should be a valid integer"),
        ("distill.steps=true", r"^distill\.steps: got True"),
        ("distill=3", r"^distill: got 3; it is a section: give distill\.KEY=value"),
        ("distill.steps", r"^'distill\.steps': expected key=value"),
        ("=3", r"^'=3': expected key=value"),
        ("distill.steps=[", r"^distill\.steps: '\[' is not a YAML value"),
        ("filter.keep_if=[agrement]", r"^filter\.keep_if\[0\]: unknown 'agrement'; did you mean 'agreement'\?"),
        (
            "filter.keep_if=[{any: [agreement, langage]}]",
            r"^filter\.keep_if\[0\]\.any\[1\]: unknown 'langage'; did you mean",
        ),
        (
            "filters.agreement.max_distanse=1",
            r"^filters\.agreement\.max_distanse: unknown 'max_distanse'; did you mean 'max_distance'\?",
        ),
        ("filters.agreement.max_distance=-1", r"^filters\.agreement\.max_distance: got -1"),
        ("filters.agrement={}", r"^filters\.agrement: unknown 'agrement'; did you mean 'agreement'\?"),
        ("distill.objective=kdd", r"^distill\.objective: unknown 'kdd'; did you mean 'kd'\?"),
        ("objectives.kd.temperature=-1", r"^objectives\.kd\.temperature: got -1"),
        ("student.pruning={kind: magic}", r"^student\.pruning\.kind: unknown 'magic'; Have: capacity, iterative"),
        ("student.decoder_layers={middle: 2}", r"^student\.decoder_layers: got .*expected null, a number"),
        ("prepare.sources=[{name: a, kind: folder}]", r"^prepare\.sources\[0\]\.kind: unknown 'folder'"),
    ],
)
def test_what_is_not_valid_is_refused_and_nothing_is_written(params: Path, word: str, said: str) -> None:
    before = params.read_bytes()
    with pytest.raises((ConfigError, UnknownName), match=said):
        use(params, word)
    assert params.read_bytes() == before
    assert [path.name for path in params.parent.iterdir()] == ["params.yaml"]


def test_a_dry_run_shows_and_writes_nothing(params: Path) -> None:
    before = params.read_bytes()
    changes = recipes.use([{"run": {"seed": 99}}], params, dry_run=True)
    assert [change.new for change in changes] == [99]
    assert params.read_bytes() == before


def test_what_params_say_already_is_no_change(params: Path) -> None:
    stamp = params.stat().st_mtime_ns
    assert use(params, f"run.seed={config.load(params).run.seed}") == []
    assert params.stat().st_mtime_ns == stamp


def test_a_number_does_not_pass_for_a_boolean(params: Path) -> None:
    with pytest.raises(ConfigError, match=r"^student\.freeze_encoder: got 1; input should be a valid boolean"):
        use(params, "student.freeze_encoder=1")


def test_later_words_go_over_earlier_ones(params: Path) -> None:
    recipes.use([{"run": {"seed": 5}}, {"run": {"seed": 6}}], params)
    assert config.load(params).run.seed == 6


def test_a_failed_write_leaves_the_old_file(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = params.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        use(params, "run.seed=7")
    assert params.read_bytes() == before
    assert [path.name for path in params.parent.iterdir()] == ["params.yaml"]


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def test_the_recipes_are_the_ones_that_are_tested_here(root: Path) -> None:
    assert sorted(recipes.available(root / "recipes")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid_and_has_a_description(params: Path, root: Path, name: str) -> None:
    overlay = recipes.read(name, root / "recipes")
    known = set(leaves(config.read_yaml(root / "params.yaml")))
    assert {path for path in leaves(overlay) if path not in known} == set()
    assert recipes.use([overlay], params)
    assert recipes.use([overlay], params) == []
    after = config.read_yaml(params)
    recipes.check(after)
    assert len(recipes.available(root / "recipes")[name]) > 40


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_keeps_every_comment_of_the_values_it_changes(params: Path, root: Path, name: str) -> None:
    before = comments(params.read_text())
    recipes.use([recipes.read(name, root / "recipes")], params)
    lost = set(before) - set(comments(params.read_text()))
    assert all("speech lab" in comment for comment in lost)


def test_the_recipe_for_real_speech_hides_the_transcripts_from_the_filter(root: Path) -> None:
    overlay = recipes.read("l2en", root / "recipes")
    assert "reference_wer" not in overlay["filter"]["keep_if"]


def test_the_recipe_for_real_speech_finds_its_speech_and_models(params: Path, root: Path, shared: Path) -> None:
    recipes.use([recipes.read("l2en", root / "recipes")], params)
    loaded = config.load(params)
    for source in loaded.prepare.sources:
        assert (shared / "data" / source["path"] / "metadata.csv").is_file()
    for section in (loaded.pseudo_label, loaded.validate_):
        assert (shared / "models" / section.model / "model.safetensors").is_file()


def test_an_unknown_recipe_names_the_nearest(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'l2en'\? Have: adakd_hindi_wav2vec2, .*, l2en"):
        recipes.read("l2em", root / "recipes")


def test_a_recipe_without_a_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("run: {seed: 3}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: description: missing"):
        recipes.read("mine", tmp_path)
