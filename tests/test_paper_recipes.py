"""Recipes of papers: every value says where it is from, models and data are named, and a plan prices them offline."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from small import ROOT
from stillsmall import config, filtering, recipes, sources
from stillsmall.cli import main

OWN = {"l2en"}  # a corpus, not a paper
PAPERS = sorted(set(recipes.available(ROOT / "recipes")) - OWN)
MARKS = ("[paper]", "[code]", "[secondary]", "[reconstructed]", "[ours]")
RATES = {"prepare": 600.0, "pseudo_label": 200.0, "validate": 400.0, "distill": 0.5, "evaluate": 100.0}


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        pytest.fail("a plan opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def values(text: str) -> list[str]:
    """The lines that give a value: `key: value`, below a section; not the description, not the entries of lists."""
    body = text[text.index("\n\n") :]
    return [line for line in body.splitlines() if re.match(r"\s+\w+:\s+[^#\s]", line)]


@pytest.mark.parametrize("name", PAPERS)
def test_every_value_says_where_it_is_from(name: str) -> None:
    text = (ROOT / "recipes" / f"{name}.yaml").read_text()
    assert all(mark in text.split("description:")[0] for mark in MARKS), "the marks are explained at the top"
    assert len(values(text)) > 15
    assert [line for line in values(text) if not any(mark in line.partition("#")[2] for mark in MARKS)] == []
    before_entries = text[text.index("sources:") : text.index("- {name:")]
    assert any(mark in before_entries for mark in MARKS)
    assert re.search(r"\d{4}\.\d{5}", text), "which paper"
    assert "# Published: " in text


def test_that_test_can_fail() -> None:
    assert values("description: x\n\nfilter:\n  a: 1  # [ours]\n  b: 2\n  - {c: 3}\n# d: 4\n") == [
        "  a: 1  # [ours]",
        "  b: 2",
    ]


@pytest.mark.parametrize("name", PAPERS)
def test_models_and_data_have_real_names(name: str, params: Path) -> None:
    recipes.use([recipes.read(name, ROOT / "recipes")], params)
    loaded = config.load(params)
    assert {"train", "test"} <= {source["split"] for source in loaded.prepare.sources}
    assert not any(source["kind"] == "lab" for source in loaded.prepare.sources)
    for section in (loaded.pseudo_label, loaded.validate_):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", section.model)
        assert section.revision is None, "a commit of the hub is the user's to give"
    for source in loaded.prepare.sources:
        if source["kind"] == "dataset":
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", source["path"]) and source["revision"] is None
    assert sources.load(loaded.prepare.sources)
    assert filtering.rules(loaded.filter, loaded.filters)


@pytest.mark.parametrize("name", PAPERS)
def test_a_plan_prices_the_recipe_without_a_model_audio_or_a_connection(
    name: str, params: Path, no_network: None
) -> None:
    recipes.use([recipes.read(name, ROOT / "recipes")], params)
    rates = [f"--rate={stage}={rate}" for stage, rate in RATES.items()]
    words = ["plan", "--params", str(params), "--hours", "1000", "--price-per-hour", "2.5", *rates]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line.split() for line in done.output.splitlines() if line.strip()}
    steps = config.load(params).distill.steps
    wanted = {"prepare": 1000 / 600, "pseudo_label": 5.0, "validate": 2.5, "distill": steps / 0.5 / 3600}
    for stage, hours in wanted.items():
        found = [float(cell.replace(",", "")) for cell in lines[stage][1:3]]
        assert found == pytest.approx([hours, 2.5 * hours], abs=0.006)
    assert "unknown" not in done.output


def test_the_published_figures_that_define_the_recipes(params: Path) -> None:
    """What the papers state, value by value, so that no later hand changes it unseen."""

    def used(name: str) -> config.Params:
        shutil.copy(ROOT / "params.yaml", params)
        recipes.use([recipes.read(name, ROOT / "recipes")], params)
        return config.load(params)

    whisper, k2d, arabic = used("distil_whisper"), used("k2d"), used("arabic")
    for found, steps in ((whisper, 80_000), (k2d, 120_000)):
        assert (found.distill.steps, found.distill.batch_size, found.distill.learning_rate) == (steps, 256, 1e-4)
        assert (found.student.encoder_layers, found.student.decoder_layers, found.student.freeze_encoder) == (
            None,
            2,
            True,
        )
    assert {found.pseudo_label.model for found in (whisper, k2d, arabic)} == {"openai/whisper-large-v2"}
    assert whisper.filters["reference_wer"] == {"max_wer": 0.1, "strict": True, "without_reference": "drop"}
    assert arabic.filters["reference_wer"]["max_wer"] == 0.8 and not arabic.filters["reference_wer"]["strict"]
    assert arabic.student.decoder_layers == 16
    assert (k2d.filters["agreement"]["measure"], k2d.filters["agreement"]["max_distance"]) == ("composite", 0.4)
    assert (k2d.score.repetition_ngram, k2d.score.repetition_max) == (6, 5)
    for found in (whisper, k2d):
        assert (found.distill.betas, found.distill.weight_decay) == ([0.9, 0.999], 0.0)
    assert k2d.student.language_embedding and k2d.student.freeze == ["positions"]
    assert [mean.model_dump() for mean in k2d.student.language_embedding] == [{"token": "zh", "mean_of": ["zh", "en"]}]
    for found in (whisper, k2d, arabic):
        assert found.objectives["kd"] == {"ce_weight": 0.8, "kl_weight": 1.0, "temperature": 2.0}


def test_the_documented_line_turns_common_voices_table_into_a_source(tmp_path: Path) -> None:
    """The line of docs/sources.md, run as it stands there, on a table with quotes in it as Common Voice has them."""
    docs = (ROOT / "docs/sources.md").read_text()
    (code,) = re.findall(r'python -c "(.*?)" < hi/train\.tsv > hi/train\.jsonl', docs, re.DOTALL)
    table = 'client_id\tpath\tsentence\nabc\ta.mp3\tएक "दो\nabd\tb.mp3\tतीन\n'
    done = subprocess.run([sys.executable, "-c", code], input=table.encode(), capture_output=True, check=True)
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [row["audio_filepath"] for row in rows] == ["clips/a.mp3", "clips/b.mp3"]
    assert [row["sentence"] for row in rows] == ['एक "दो', "तीन"]
    assert len(list(csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE))) == len(rows)


def test_askd_leans_on_the_teacher_up_to_seven_tenths_and_then_on_itself(params: Path) -> None:
    recipes.use([recipes.read("askd", ROOT / "recipes")], params)
    loaded = config.load(params)
    found = loaded.objectives["askd"]
    assert loaded.distill.objective == "askd" and found["mode"] == "subsequent"
    assert (found["lam"]["end"], found["lam"]["until"], found["mu"]["begin"], found["mu"]["end"]) == (
        0.0,
        0.7,
        0.7,
        0.5,
    )


@pytest.mark.parametrize("name", ["adakd_hindi_whisper", "adakd_hindi_wav2vec2"])
def test_adakd_goes_from_easy_to_hard_samples_of_hindi(name: str, params: Path) -> None:
    recipes.use([recipes.read(name, ROOT / "recipes")], params)
    loaded = config.load(params)
    found = loaded.objectives["adakd"]
    assert loaded.distill.objective == "adakd" and found["arm"] == "progressive"
    assert found["k"]["start"] > 0 > found["k"]["end"]
    assert {source["language"] for source in loaded.prepare.sources} == {"hi"}
    assert loaded.pseudo_label.language == loaded.evaluate.language == "hi"
