"""The report's section on the filters themselves, from what the filter stage writes, read back as HTML."""

from __future__ import annotations

from pathlib import Path

import pytest

import small
from report_inputs import Made
from stillsmall import config, filtering, judgement, manifest
from stillsmall.reporting import judgement as part
from stillsmall.reporting import words
from stillsmall.reporting.examples import rejected


@pytest.fixture
def made(tmp_path: Path, root: Path) -> Made:
    return Made(tmp_path, config.load(root / "params.yaml"))


def judged(made: Made, transcribed: bool = True) -> None:
    """What the filter stage would write of 40 labels: odd ones are wrong, agreement misses one of them."""
    rows = []
    for n in range(40):
        row = {"utt_id": f"u{n}", "speaker": f"s{n % 8}", "ref_wer_errors": 3 * (n % 2), "ref_wer": float(n % 2)}
        row |= {"agreement_mer": 0.9 if n % 2 and n != 39 else 0.0, "duration_s": 1800.0, "domain": "ab"[n % 4 // 2]}
        rows.append(small.score_row(**row | ({} if transcribed else {"reference": None})))
    path, folder = made.inputs.metrics / "judged.parquet", made.inputs.metrics
    manifest.write(path, rows, manifest.SCORE)
    chosen = made.params.filter.model_copy(update={"keep_if": ["agreement"]})
    outs = [folder / name for name in ("filter_curves.csv", "filter_roc.csv", "filter_domains.csv")]
    paths = judgement.Paths(folder / "filter_judgement.json", *outs)
    judgement.write(path, filtering.rules(chosen, made.params.filters), chosen.judgement, paths)


def test_areas_rules_domains_and_the_curve_are_shown(made: Made) -> None:
    judged(made)
    page = made.page()
    assert page.open == []
    assert "40 labels of 40 can be compared with a transcript." in page.words
    assert "WER above 0 %: 20; WER above 40 %: 20; WER above 80 %: 20" in page.words
    assert "rejected, 100.0 % have a WER above 40 %; of all labels that have one, they rejected 95.0 %." in page.words
    assert "agreement merhigher0.975 [" in page.words
    assert "all filtersyes19100.0 %95.0 %97.4 %" in page.words
    assert "All labels with a transcript: 20.00 h at 50.0 %; all filters together keep 10.50 h at 4.8 %" in page.words
    assert "Scores that no label has: agreement composite, agreement per" in page.words
    html = made.html()
    assert made.html() == html
    assert "a random subset, on average" in html


def test_without_transcripts_the_page_says_so(made: Made) -> None:
    judged(made, transcribed=False)
    assert "Not judged: no label has a transcript to be judged by." in made.page().words


def test_without_a_judgement_the_page_says_so(made: Made) -> None:
    assert "Not judged: there is no record of it." in made.page().words


def test_limits_stand_in_the_order_of_their_numbers() -> None:
    at = {"precision": 1.0, "recall": 0.5, "f1": 0.6}
    keys = ["above_0", "above_100", "above_40"]
    found = {"wrong": {key: {"labels": 1} for key in keys}, "labels": 2, "with_transcript": 2, "reason": None}
    found["auc"] = {"words": {"higher_is_worse": False, "labels": 2, **{key: {"value": 0.5} for key in keys}}}
    found["rules"] = {"keep_if": {"used": True, "rejected": 1, **dict.fromkeys(keys, at)}}
    (areas, *_) = part.section(found, [], []).tables
    assert [column.label for column in areas.columns[2:5]] == [f"AUC, WER above {n} %" for n in (0, 40, 100)]


def test_a_rejected_label_is_marked_against_transcript_and_validator(made: Made) -> None:
    table = manifest.read(made.inputs.rejected, manifest.REJECTED)
    from stillsmall.reporting.clips import Room

    shown = {one.utt_id: one.lines for one in rejected(table, made.inputs.split, 9, Room(0.0))}
    assert [line.who for line in shown["u1"]] == ["Reference", "Teacher", "Validator", "Teacher, against the validator"]
    row = {row["utt_id"]: row for row in table.to_pylist()}["u1"]
    assert shown["u1"][3].marks == words.compare(row["validator_text"], row["teacher_text"], "en")
    assert [line.who for line in shown["u2"]] == ["Teacher"]
    assert [line.who for line in shown["u3"]] == ["Validator", "Teacher"]
