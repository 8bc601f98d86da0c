"""The measurements of the filters run, and the trouble that one of them injects is what it says."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from small import params, score_row, split
from stillsmall import audio, filtering, manifest


def script(root: Path, name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "benchmarks"))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def real(root: Path) -> ModuleType:
    return script(root, "filters_on_real_speech")


@pytest.fixture(scope="module")
def heard(root: Path) -> ModuleType:
    return script(root, "trouble_in_audio")


def rows(count: int) -> list[dict[str, Any]]:
    words = ["red", "green", "blue", "old", "new", "warm", "cold", "house", "tree"]
    made = []
    for n in range(count):
        text = " ".join(words[(n + k) % 9] for k in range(6))
        made.append(score_row(utt_id=f"u{n:03d}", teacher_text=text, validator_text=text, reference=text))
        made[-1] |= {"ref_words": 6, "words": 6}
    return made


@pytest.mark.parametrize(
    ("kind", "text", "errors", "repeats"),
    [
        ("word loop", "red green blue" + " blue" * 20, 20, True),
        ("label loop", " ".join(["red green blue"] * 6), 15, True),
        ("swapped", "old house", 3, False),
        ("cut", "red", 2, False),
    ],
)
def test_trouble_is_what_it_says(real: ModuleType, kind: str, text: str, errors: int, repeats: bool) -> None:
    row = score_row(**dict.fromkeys(("teacher_text", "validator_text", "reference"), "red green blue"))
    found = real.trouble(kind, row, score_row(teacher_text="old house"), np.random.default_rng(0), params().score)
    assert (found["teacher_text"], found["ref_wer_errors"], found["teacher_repeats"]) == (text, errors, repeats)
    assert (found["agreement_mer_errors"], found["agreement_mer"]) == (errors, pytest.approx(errors / 3))
    assert found["mean_logprob"] is None
    assert found["agreement_composite"] == (1.0 if repeats else min(found["agreement_per"], 1.0)) > 0


def test_silence_has_no_transcript_and_no_rate(real: ModuleType) -> None:
    found = real.trouble("silence", score_row(), score_row(), np.random.default_rng(0), params().score)
    assert (found["reference"], found["ref_wer"], found["agreement_mer"]) == ("", None, None)
    assert found["ref_wer_errors"] == found["words"] > 0


def test_every_kind_has_its_share(real: ModuleType) -> None:
    _, kinds = real.inject(rows(40), 0.1, 3, params().score)
    assert {kind: kinds.count(kind) for kind in real.KINDS} == dict.fromkeys(real.KINDS, 4)


def test_the_table_is_printed(root: Path, tmp_path: Path) -> None:
    manifest.write(tmp_path / "scores.parquet", rows(40), manifest.SCORE)
    command = [sys.executable, str(root / "benchmarks" / "filters_on_real_speech.py"), "--draws", "2"]
    said = subprocess.run(
        [*command, "--scores", str(tmp_path / "scores.parquet"), "--params", str(root / "params.yaml")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "| `agreement` | 100 % | 100 % | 100 % | 100 % | 100 % | 100.0 % | 75.0 % | 0.0 % |" in said
    absent = "speech_share, language, likelihood, agreement_per, agreement_composite"
    assert f"No values in this table for: {absent}." in said


def test_what_cannot_be_known_of_a_kind_shows_a_dash(real: ModuleType) -> None:
    made = [{**row, "speech_share": 0.1, "mean_logprob": -0.1} for row in rows(40)]
    loaded = params()
    rules = filtering.rules(loaded.filter, loaded.filters | {"random": {"labels": 5, "seed": 1}})
    found: Any = defaultdict(lambda: defaultdict(list))
    real.measure(*real.inject(made, 0.1, 3, loaded.score), rules, found)
    table = {line.split("`")[1]: line for line in real.markdown(rules, made, found).splitlines() if "`" in line}
    assert table["speech_share"] == "| `speech_share` | – | 100 % | 100 % | 100 % | 100 % | 0.0 % | – | – |"
    assert table["confidence"].startswith("| `confidence` | – | – | – | – | – | 100.0 %")


def test_trouble_in_the_audio_is_what_it_says(heard: ModuleType, tmp_path: Path) -> None:
    known = split(tmp_path / "train", [{} for _ in range(20)])
    heard.make(known, tmp_path / "made", 4, seed=1)
    made = {row["utt_id"]: row for row in manifest.rows(tmp_path / "made/manifest.parquet", manifest.UTTERANCE)}
    spoken = {row["utt_id"]: row for row in manifest.rows(known / "manifest.parquet", manifest.UTTERANCE)}
    plain, clips = (
        {name: audio.decode_flac(flac) for _, found in manifest.audio(folder) for name, flac in found}
        for folder in (known, tmp_path / "made")
    )
    assert sorted(made) == sorted(clips) and len(made) == 16
    for name, row in made.items():
        own = name.removeprefix(f"{row['domain']}/")
        assert row["text"] == ("" if row["domain"] in ("silence", "noise") else spoken[own]["text"])
        assert len(clips[name]) == len(plain[own]) and abs(clips[name]).max() <= 1
        if row["domain"] == "silence":
            assert heard.rms(clips[name]) == pytest.approx(0.001, rel=0.1)
        if row["domain"] == "noise":
            assert heard.rms(clips[name]) == pytest.approx(heard.rms(plain[own]), rel=0.1)
        if row["domain"] == "0 dB":
            assert heard.rms(clips[name] - plain[own]) == pytest.approx(heard.rms(plain[own]), rel=0.1)


def test_labels_of_such_audio_are_made_and_judged(heard: ModuleType, tmp_path: Path) -> None:
    heard.make(split(tmp_path / "train", [{} for _ in range(20)]), tmp_path / "made", 2, seed=1)
    loaded = params(**{"pseudo_label.backend": "fake", "validate.backend": "fake", "score.workers": 1})
    made = heard.scored(tmp_path / "made", tmp_path, loaded)
    assert sorted({row["domain"] for row in made}) == sorted(heard.KINDS) and len(made) == 8
    lost = {"validator_text": "red", "agreement_mer": 0.9, "agreement_mer_errors": 1}
    kinds = [score_row(domain="noise", ref_wer=None, ref_wer_errors=2, ref_words=0, **lost), score_row()]
    said = heard.table([*kinds, score_row(ref_wer=0.9, ref_wer_errors=3)], loaded)
    assert "noise (1 of 1 wrong) | 0 dB (0 of 0 wrong) | two speak (0 of 0 wrong) | as it is (1 of 2 wrong)" in said
    assert "| `agreement` | – | 100 % | – | – | 0 % | 100 % | 67 % | 50.0 % |" in said
    assert "Label WER before: 83.3 % (50.0 % of the labels as they are)." in said


def test_many_labels_are_filtered_and_judged(root: Path) -> None:
    command = [sys.executable, str(root / "benchmarks" / "filtering.py"), "--rows", "2000"]
    said = subprocess.run(
        [*command, "--params", str(root / "params.yaml")], capture_output=True, text=True, check=True
    ).stdout
    assert "filtering" in said and "judgement" in said
