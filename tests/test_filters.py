"""Each filter on one row, by its reason; then the table as a whole."""

import pytest

from small import params, score_row
from stillsmall import config, filtering, manifest
from stillsmall.plugins import UnknownName


def rules(*names, **sections):
    everything = params().filters | sections
    return filtering.rules(config.Filter(keep_if=list(names), mixture=None), everything)


@pytest.mark.parametrize(
    ("rule", "row", "reason"),
    [
        ("not_empty", {"words": 0}, "the label has no word"),
        ("repetition", {"teacher_repeats": True}, "the teacher loops: an n-gram repeats"),
        ("agreement", {"agreement_mer": 0.41}, "MER against the validator is above 0.4"),
        ("agreement", {"agreement_mer": None}, "the validator heard nothing where the teacher heard words"),
        ("confidence", {"mean_logprob": -1.2}, "mean log-probability per token is below -1.0"),
        ("compression", {"compression_ratio": 2.5}, "compression ratio is above 2.4"),
        ("reference_wer", {"ref_wer": 0.81}, "WER against the transcript is above 0.8"),
        ("reference_wer", {"ref_wer": None}, "words were heard where the transcript is empty"),
    ],
)
def test_a_rejection_says_why(rule, row, reason):
    (verdict,) = filtering.judge(score_row(**row), rules(rule))
    assert verdict["rule"] == rule and verdict["reason"] == reason


def test_a_good_label_passes_every_rule():
    assert filtering.judge(score_row(), rules(*(name for name in filtering.TABLE if name != "random"))) == []


def test_thresholds_are_inclusive_unless_strict():
    at = score_row(agreement_mer=0.4, ref_wer=0.8)
    assert filtering.judge(at, rules("agreement", "reference_wer")) == []
    strict = {"max_wer": 0.8, "strict": True, "without_reference": "keep"}
    (verdict,) = filtering.judge(at, rules("reference_wer", reference_wer=strict))
    assert verdict["reason"] == "WER against the transcript is not below 0.8"


def test_labels_without_transcript_are_kept_or_dropped_as_the_parameters_say():
    row = score_row(reference=None, ref_wer=None)
    drop = {"max_wer": 0.8, "strict": False, "without_reference": "drop"}
    assert filtering.judge(row, rules("reference_wer")) == []
    assert filtering.judge(row, rules("reference_wer", reference_wer=drop))[0]["reason"].startswith("there is no")


def test_every_reason_of_a_label_is_kept(tmp_path):
    rows = [score_row(utt_id="good"), score_row(utt_id="bad", agreement_mer=3.0, mean_logprob=-4.0, words=0)]
    manifest.write(tmp_path / "scores.parquet", rows, manifest.SCORE)
    out = [tmp_path / name for name in ("kept.parquet", "rejected.parquet", "filter.json")]
    filtering.split(tmp_path / "scores.parquet", *out, rules("not_empty", "agreement", "confidence"))
    assert [row["utt_id"] for row in manifest.rows(out[0], manifest.SCORE)] == ["good"]
    (bad,) = manifest.rows(out[1], manifest.REJECTED)
    assert {v["rule"]: v["value"] for v in bad["verdicts"]} == {
        "not_empty": "0",
        "agreement": "3.0",
        "confidence": "-4.0",
    }


def test_a_rule_that_empties_the_set_is_named(tmp_path):
    manifest.write(tmp_path / "scores.parquet", [score_row(words=0)] * 3, manifest.SCORE)
    with pytest.raises(config.ConfigError, match=r"no label is left.*not_empty \(3 of 3\)"):
        filtering.split(tmp_path / "scores.parquet", *[tmp_path / n for n in "abc"], rules("not_empty", "agreement"))


def test_an_unknown_rule_names_the_nearest():
    with pytest.raises(UnknownName, match=r"filter\.keep_if\[0\]: unknown 'agrement'; did you mean 'agreement'\?"):
        rules("agrement")


def test_a_section_of_no_filter_names_the_nearest_even_unused():
    with pytest.raises(UnknownName, match=r"filters\.agrement: unknown 'agrement'; did you mean 'agreement'\?"):
        rules("not_empty", agrement={"max_mer": 0.3})


def test_a_misspelt_threshold_names_the_nearest():
    with pytest.raises(
        config.ConfigError, match=r"filters\.agreement\.max_mr: unknown 'max_mr'; did you mean 'max_mer'"
    ):
        rules("agreement", agreement={"max_mr": 0.3})


def test_label_wer_sums_counts_and_hours_add_up():
    rows = [
        score_row(ref_wer_errors=1, ref_words=1),
        score_row(ref_wer_errors=0, ref_words=9),
        score_row(reference=None),
    ]
    assert filtering.amount(rows) == {"labels": 3, "hours": pytest.approx(6 / 3600, abs=1e-6), "label_wer": 0.1}


def test_a_random_subset_has_the_asked_size_whatever_the_order(tmp_path):
    def drawn(rows, seed=1):
        manifest.write(tmp_path / "scores.parquet", rows, manifest.SCORE)
        out = [tmp_path / name for name in ("kept.parquet", "rejected.parquet", "filter.json")]
        filtering.split(tmp_path / "scores.parquet", *out, rules("random", random={"labels": 7, "seed": seed}))
        return {row["utt_id"] for row in manifest.rows(out[0], manifest.SCORE)}

    rows = [score_row(utt_id=f"u{i}") for i in range(30)]
    assert len(drawn(rows)) == 7
    assert drawn(rows) == drawn(rows[::-1]) != drawn(rows, seed=2)
