"""The filters judged by transcripts: areas counted by hand, what cannot be said, and the stage as a program."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from small import ROOT, params, score_row, write_params
from stillsmall import filtering, judgement, manifest
from stillsmall.filters.keep_best import rankable

CONFIG = params().filter.judgement


def draws(clusters, resamples=300):
    return np.random.default_rng(1).multinomial(clusters, np.full(clusters, 1 / clusters), resamples).astype(float)


def area(scores, wrong, clusters=None):
    codes = np.unique(scores, return_inverse=True)[1]
    clusters = np.arange(len(codes)) if clusters is None else np.asarray(clusters)
    return judgement.auc(codes, np.array(wrong, bool), clusters, draws(int(clusters.max()) + 1))


@pytest.mark.parametrize(
    ("scores", "wrong", "value"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),  # both wrong ones above both right ones: 4 of 4 pairs
        ([1, 3, 2, 4], [0, 0, 1, 1], 0.75),  # 2 is below 3: 3 of 4 pairs
        ([1, 2, 2, 4], [0, 0, 1, 1], 0.875),  # a tie is half a pair: 3.5 of 4
        ([1, 1, 1, 1], [0, 0, 1, 1], 0.5),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        (
            [0.0, float("inf"), 1.0, float("inf")],
            [0, 0, 1, 1],
            0.625,
        ),  # infinite is a value like others: 1 + 0 + 1 + .5
    ],
)
def test_areas_by_hand(scores, wrong, value):
    assert area(scores, wrong)["value"] == value


def test_the_resampled_areas_are_those_of_the_definition():
    rng = np.random.default_rng(3)
    scores, wrong, clusters = rng.integers(0, 6, 60), rng.random(60) < 0.4, rng.integers(0, 8, 60)
    drawn, sampled = draws(8, 40), []
    for draw in drawn:
        rows = np.concatenate([np.flatnonzero(clusters == c) for c in range(8) for _ in range(int(draw[c]))])
        bad, good = scores[rows][wrong[rows]], scores[rows][~wrong[rows]]
        pairs = (bad[:, None] > good).astype(float) + 0.5 * (bad[:, None] == good)
        sampled.append(pairs.mean())
    found = judgement.auc(np.unique(scores, return_inverse=True)[1], wrong, clusters, drawn)
    assert (found["low"], found["high"]) == tuple(np.quantile(sampled, [0.025, 0.975]).round(6))


def test_many_scores_and_clusters_merge_for_the_interval_only():
    rng = np.random.default_rng(5)
    wrong = rng.random(6000) < 0.3
    scores = rng.normal(size=6000) + wrong
    found = area(scores, wrong)  # every label its own cluster
    config = CONFIG.model_copy(update={"resamples": 300})
    labels = judgement.take(table(many(3)), rules())
    assert judgement._draws(labels, config).shape == (300, 3)
    place = np.arange(6000)
    merged = judgement.auc(np.unique(scores, return_inverse=True)[1], wrong, place, draws(judgement.MOST_CLUSTERS))
    assert merged["value"] == found["value"]
    assert merged["low"] == pytest.approx(found["low"], abs=0.004)
    assert merged["high"] == pytest.approx(found["high"], abs=0.004)


def test_one_class_only_and_few_speakers_are_said():
    assert area([1, 2], [0, 0]) == {"value": None, "reason": "no label is wrong"}
    assert area([1, 2], [1, 1]) == {"value": None, "reason": "every label is wrong"}
    few = area([1, 2, 3, 4], [0, 1, 0, 1], [0, 1, 2, 3])
    assert (few["value"], few["low"], few["reason"]) == (0.75, None, "too few clusters for an interval")


def test_precision_and_recall_by_hand():
    flagged, wrong = np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool)
    assert judgement.precision_recall(flagged, wrong) == {"precision": 0.333333, "recall": 0.5, "f1": 0.4}
    nothing = judgement.precision_recall(np.zeros(5, bool), wrong)
    assert nothing == {"precision": None, "recall": 0.0, "f1": None, "reason": "it rejects no label"}


def table(rows):
    return pa.Table.from_pylist(rows, schema=manifest.SCORE)


def rules(*entries, **sections):
    loaded = params()
    return filtering.rules(
        loaded.filter.model_copy(update={"keep_if": list(entries or ["agreement"])}), loaded.filters | sections
    )


def many(count, **changes):
    """Labels of which every second is wrong (WER 1), and agreement finds all but the last one."""
    rows = []
    for n in range(count):
        wrong = n % 2
        row = {"utt_id": f"u{n:03d}", "speaker": f"s{n % 7}", "domain": "ab"[n % 4 // 2]}
        row |= {"ref_wer": float(wrong), "ref_wer_errors": 4 * wrong, "ref_words": 4, "duration_s": 3600.0}
        row |= {"agreement_mer": 0.9 * (wrong and n < count - 1), "mean_logprob": -0.1 - 0.01 * n}
        rows.append(score_row(**row | changes))
    return rows


def written(folder, rows, made=None, config=CONFIG):
    manifest.write(folder / "scores.parquet", rows, manifest.SCORE)
    paths = judgement.Paths(*(folder / name for name in ("j.json", "curves.csv", "roc.csv", "domains.csv")))
    judgement.write(folder / "scores.parquet", made or rules(), config, paths)
    tables = [list(csv.DictReader(path.open())) for path in (paths.curves, paths.roc, paths.domains)]
    return json.loads(paths.summary.read_text()), *tables


def test_the_whole_judgement_of_a_small_table(tmp_path):
    found, curves, roc, domains = written(tmp_path, many(40))
    assert (found["labels"], found["with_transcript"], found["clusters"], found["reason"]) == (40, 40, 7, None)
    assert found["wrong"] == {f"above_{n}": {"labels": 20} for n in (0, 40, 80)}
    assert found["auc"]["agreement_mer"]["above_40"]["value"] == 0.975  # 19 of 20 found, the last one tied with all
    assert found["auc"]["speech_share"] == {"higher_is_worse": False, "labels": 0, "reason": "no label has this score"}
    assert found["rules"]["keep_if"] == found["rules"]["agreement"]
    assert found["rules"]["agreement"]["above_80"] == {"precision": 1.0, "recall": 0.95, "f1": 0.974359}
    assert found["rules"]["agreement"]["used"] and not found["rules"]["confidence"]["used"]
    swept = [row for row in curves if row["domain"] == "all" and row["score"] == "agreement_mer"]
    assert [(r["threshold"], r["kept_share"], r["kept_hours"], r["label_wer"]) for r in swept] == [
        ("0", "0.525", "21", "0.0476"),
        ("0.9", "1", "40", "0.5"),
    ]
    assert {row["domain"] for row in curves} == {"all", "a", "b"} and {row["domain"] for row in roc} == {"all"}
    assert {row["domain"] for row in domains} == {"a", "b"}


def test_a_score_is_swept_in_its_own_direction(tmp_path):
    _, curves, _, _ = written(tmp_path, many(40))
    (first, *_) = [row for row in curves if row["domain"] == "all" and row["score"] == "mean_logprob"]
    assert (first["threshold"], first["kept_share"]) == ("-0.1", "0.025")  # the surest label comes first


def test_curves_stay_short_and_end_with_everything_kept(tmp_path):
    config = CONFIG.model_copy(update={"curve_points": 12, "domain_points": 5})
    _, curves, roc, _ = written(tmp_path, many(120), config=config)
    for rows, domain, most in ((curves, "all", 12), (curves, "a", 5), (roc, "all", 12)):
        sizes = {}
        for row in rows:
            if row["domain"] == domain:
                key = row["score"], row.get("wer_above")
                sizes[key] = sizes.get(key, 0) + 1
        assert max(sizes.values()) == most
    last = [row for row in curves if row["domain"] == "all" and row["score"] == "mean_logprob"][-1]
    assert (last["kept_share"], last["label_wer"]) == ("1", "0.5")


def test_a_curve_keeps_its_corners_alone_and_numbers_their_digits():
    x, y = np.array([0, 0, 0, 0.25, 0.5, 1]), np.array([0, 0.3, 0.5, 0.5004, 0.5, 1])
    assert judgement.corners(x, y) == [(0, 0), (0, 0.5), (0.5, 0.5), (1, 1)]
    assert judgement.corners(x[:1], y[:1]) == [(0, 0)]
    assert [judgement.short(v) for v in (0, 1.0, 0.123456, 12.5, 100, 1e-9)] == ["0", "1", "0.1235", "12.5", "100", "0"]


def test_words_where_nothing_was_said_are_wrong_at_every_limit(tmp_path):
    rows = [
        *many(10, ref_wer=0.0, ref_wer_errors=0),
        score_row(reference="", ref_wer=None, ref_words=0, ref_wer_errors=2),
    ]
    found, *_ = written(tmp_path, rows)
    assert found["wrong"] == {f"above_{n}": {"labels": 1} for n in (0, 40, 80)}


def test_a_label_that_the_validator_heard_nothing_of_looks_worst():
    rows = [score_row(agreement_mer=2.0), score_row(agreement_mer=None, agreement_mer_errors=3)]
    assert judgement.suspicion(table(rows), "agreement_mer").tolist() == [2.0, np.inf]


def test_without_transcripts_the_judgement_says_so(tmp_path):
    found, *tables = written(tmp_path, many(6, reference=None, ref_wer=None, ref_wer_errors=None, ref_words=None))
    assert found["reason"] == "no label has a transcript to be judged by"
    assert (found["labels"], found["with_transcript"], found["auc"], found["rules"]) == (6, 0, {}, {})
    assert tables == [[], [], []]


def test_one_right_label_alone_is_judged_as_far_as_it_goes(tmp_path):
    found, *_ = written(tmp_path, many(1))
    assert found["auc"]["mean_logprob"]["above_40"] == {"value": None, "reason": "no label is wrong"}
    assert found["rules"]["agreement"]["above_40"]["recall"] is None


def test_every_number_of_the_schema_is_a_score_or_known_not_to_be_one():
    no_score = {"start_s", "end_s", "offset_s", "confidence"}  # places; and what ranks as mean_logprob does
    counts = {name for name in rankable() if name.endswith(("_errors", "_units", "_phonemes"))}
    references = {name for name in rankable() if name.startswith("ref_")}
    assert set(rankable()) == set(judgement.SCORES) | no_score | counts | references


def stage(folder, *, keep_if):
    names = (
        "kept.parquet",
        "rejected.parquet",
        "metrics.json",
        "judgement.json",
        "curves.csv",
        "roc.csv",
        "domains.csv",
    )
    outs = [part for name in names for part in (f"--{name.partition('.')[0]}", str(folder / name))]
    given = ["--params", str(write_params(folder / "params.yaml", **{"filter.keep_if": keep_if}))]
    command = [sys.executable, str(ROOT / "stages" / "filter.py"), *given, "--scores", str(folder / "scores.parquet")]
    return subprocess.run([*command, *outs], capture_output=True, text=True, check=False)


def test_the_stage_keeps_rejects_and_judges(tmp_path):
    manifest.write(tmp_path / "scores.parquet", many(40), manifest.SCORE)
    done = stage(tmp_path, keep_if=[{"any": ["agreement", {"not": "confidence"}]}])
    assert done.returncode == 0, done.stderr
    rejected = manifest.rows(tmp_path / "rejected.parquet", manifest.REJECTED)
    assert len(rejected) == 19
    assert {v["rule"]: v["reason"] for v in rejected[0]["verdicts"]} == {
        "agreement": "MER against the validator is above 0.4",
        "not confidence": "meets confidence, which must not hold",
    }
    assert json.loads((tmp_path / "judgement.json").read_text())["rules"]["keep_if"]["rejected"] == 19
    assert json.loads((tmp_path / "metrics.json").read_text())["kept"]["labels"] == 21


def test_the_stage_names_a_misspelt_rule_in_one_line(tmp_path):
    manifest.write(tmp_path / "scores.parquet", many(4), manifest.SCORE)
    done = stage(tmp_path, keep_if=[{"any": ["agrement"]}])
    assert done.returncode == 1
    assert done.stderr.startswith("filter: filter.keep_if[0].any[0]: unknown 'agrement'; did you mean 'agreement'?")
