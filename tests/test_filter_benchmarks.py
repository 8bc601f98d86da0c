"""The measurements of the filters run, and the trouble that one of them injects is what it says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from small import params, score_row
from stillsmall import manifest


@pytest.fixture(scope="module")
def real(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("real", root / "benchmarks" / "filters_on_real_speech.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert "No values in this table for: speech_share, language, likelihood." in said


def test_many_labels_are_filtered_and_judged(root: Path) -> None:
    command = [sys.executable, str(root / "benchmarks" / "filtering.py"), "--rows", "2000"]
    said = subprocess.run(
        [*command, "--params", str(root / "params.yaml")], capture_output=True, text=True, check=True
    ).stdout
    assert "filtering" in said and "judgement" in said
