"""Each filter on one row, by its reason; then the table as a whole."""

import json

import numpy as np
import pytest

from judging import kept, many, rules, section, table
from small import ROOT, params, score_row
from stillsmall import config, filtering, manifest
from stillsmall.plugins import UnknownName

FOREIGN = {"language_mismatch": True, "heard_language": "de", "heard_language_prob": 0.95, "text_language": "en"}
REASONS = [
    ("not_empty", {"words": 0}, "the label has no word", 0),
    ("repetition", {"teacher_repeats": True}, "the teacher loops: an n-gram repeats", True),
    ("agreement", {"agreement_mer": 0.41}, "MER against the validator is above 0.4", 0.41),
    ("confidence", {"mean_logprob": -1.2}, "mean log-probability per token is below -1.0", -1.2),
    ("entropy", {"mean_entropy": 2.5}, "mean entropy per token is above 2.0", 2.5),
    ("compression", {"compression_ratio": 2.5}, "compression ratio is above 2.4", 2.5),
    ("duration", {"duration_s": 0.2}, "shorter than 0.3 s", 0.2),
    ("duration", {"duration_s": 30.1}, "longer than 30.0 s", 30.1),
    ("rate", {"words_per_s": 9.0}, "words per second above 8.0", 9.0),
    ("rate", {"words_per_s": 0.05}, "words per second below 0.1", 0.05),
    ("rate", {"chars_per_s": 50.0}, "characters per second above 40.0", 50.0),
    ("rate", {"chars_per_s": 0.2}, "characters per second below 0.5", 0.2),
    ("speech_share", {"speech_share": 0.1}, "share of speech in the audio is below 0.2", 0.1),
    ("language", FOREIGN, "another language, with a probability of at least 0.9", "de 0.950"),
    ("no_speech", {"no_speech_prob": 0.7}, "probability of no speech is above 0.6", 0.7),
    ("likelihood", {"lm_logprob": -9.0}, "log-probability by the language model is below -8.0", -9.0),
    ("reference_wer", {"ref_wer": 0.81}, "WER against the transcript is above 0.8", 0.81),
    ("reference_wer", {"ref_wer": None}, "words were heard where the transcript is empty", None),
]


@pytest.mark.parametrize(("rule", "row", "reason", "value"), REASONS)
def test_a_rejection_says_why(rule, row, reason, value):
    row = score_row(**row)
    (found,) = filtering.judge(row, rules(rule))
    assert found == {"rule": rule, "value": json.dumps(value), "reason": reason}
    assert kept([row, score_row(utt_id="good")], rules(rule)) == ["good"]


@pytest.mark.parametrize("measure", ["mer", "per", "composite"])
def test_agreement_is_measured_as_the_parameters_say(measure):
    made = rules("agreement", **section("agreement", measure=measure, max_distance=0.3))
    row = score_row(agreement_mer=0.0, agreement_per=0.0, agreement_composite=0.0)
    assert filtering.judge(row, made) == []
    (found,) = filtering.judge(row | {f"agreement_{measure}": 0.5}, made)
    assert found["reason"].endswith("against the validator is above 0.3") and found["value"] == "0.5"


@pytest.mark.parametrize("without_value", ["keep", "drop"])
def test_words_where_the_validator_heard_nothing_are_no_agreement(without_value):
    made = rules("agreement", **section("agreement", without_value=without_value))
    row = score_row(agreement_mer=None, agreement_mer_errors=2, agreement_units=0)
    assert filtering.judge(row, made)[0]["reason"] == "the validator heard nothing where the teacher heard words"
    assert kept([row], made) == []


ABSENT = [
    ("not_empty", {"words": None}, "the words of the label were not counted"),
    ("repetition", {"teacher_repeats": None}, "nobody looked for loops"),
    ("agreement", {"agreement_mer": None, "agreement_mer_errors": None}, "there is no MER against the validator"),
    ("confidence", {"mean_logprob": None}, "the teacher gave no log-probabilities"),
    ("confidence", {"mean_logprob": float("nan")}, "the teacher gave no log-probabilities"),
    ("entropy", {"mean_entropy": None}, "the teacher gave no entropies"),
    ("compression", {"compression_ratio": None}, "the label has no compression ratio"),
    ("rate", {"words_per_s": None}, "words per second are not known"),
    ("rate", {"chars_per_s": None}, "characters per second are not known"),
    ("speech_share", {"speech_share": None}, "nobody looked for speech in the audio"),
    ("language", {"language_mismatch": None}, "no language was identified"),
    ("language", {"language_mismatch": True}, "another language, with no probability"),
    ("no_speech", {"no_speech_prob": None}, "the teacher gave no probability of no speech"),
    ("likelihood", {"lm_logprob": None}, "no language model has read the label"),
    ("keep_best", {"mean_logprob": None}, "there is no mean_logprob to rank by"),
    ("reference_wer", {"reference": None, "ref_wer": None}, "there is no transcript to compare with"),
]


@pytest.mark.parametrize(("rule", "row", "reason"), ABSENT)
def test_a_label_without_the_value_is_kept_or_dropped_as_the_parameters_say(rule, row, reason):
    key = "without_reference" if rule == "reference_wer" else "without_value"
    row = score_row(**row)
    assert kept([row], rules(rule, **section(rule, **{key: "keep"}))) == ["u"]
    drop = rules(rule, **section(rule, **{key: "drop"}))
    assert kept([row], drop) == []
    assert [(found["rule"], found["value"], found["reason"]) for found in drop.against(row)] == [(rule, "null", reason)]


def test_every_filter_bears_a_row_of_nulls():
    nothing = {field.name: None for field in manifest.SCORE if field.nullable}
    for name in filtering.TABLE:
        kept([score_row(**nothing)], rules(name))


def test_a_good_label_passes_every_rule():
    names = [name for name in filtering.TABLE if name not in ("random", "keep_best")]
    assert filtering.judge(score_row(), rules(*names)) == []


def test_thresholds_are_inclusive_unless_strict():
    at = score_row(agreement_mer=0.4, ref_wer=0.8, compression_ratio=2.4, mean_logprob=-1.0)
    assert kept([at], rules("agreement", "reference_wer", "compression", "confidence")) == ["u"]
    strict = rules("reference_wer", **section("reference_wer", strict=True))
    assert kept([at], strict) == []
    assert strict.against(at)[0]["reason"] == "WER against the transcript is not below 0.8"


def test_another_language_counts_only_if_somebody_was_sure():
    unsure = score_row(**FOREIGN | {"heard_language_prob": 0.79})
    by_text = {"text_language": "nl", "text_language_prob": 0.9}
    assert kept([unsure], rules("language")) == ["u"]
    assert kept([unsure | by_text], rules("language")) == []
    assert kept([score_row(**FOREIGN | {"language_mismatch": False})], rules("language")) == ["u"]


def outputs(folder):
    return [folder / name for name in ("kept.parquet", "rejected.parquet", "filter.json")]


def test_every_reason_of_a_label_is_kept(tmp_path):
    rows = [score_row(utt_id="good"), score_row(utt_id="bad", agreement_mer=3.0, mean_logprob=-4.0, words=0)]
    manifest.write(tmp_path / "scores.parquet", rows, manifest.SCORE)
    out = outputs(tmp_path)
    filtering.split(tmp_path / "scores.parquet", *out, rules("not_empty", "agreement", "confidence"))
    assert [row["utt_id"] for row in manifest.rows(out[0], manifest.SCORE)] == ["good"]
    (bad,) = manifest.rows(out[1], manifest.REJECTED)
    assert {v["rule"]: v["value"] for v in bad["verdicts"]} == {
        "not_empty": "0",
        "agreement": "3.0",
        "confidence": "-4.0",
    }
    assert json.loads(out[2].read_text())["reasons"]["agreement"] == {"labels": 1, "hours": 0.000556, "label_wer": 0.0}


def test_without_any_rule_everything_is_kept(tmp_path):
    manifest.write(tmp_path / "scores.parquet", [score_row()], manifest.SCORE)
    out = outputs(tmp_path)
    filtering.split(tmp_path / "scores.parquet", *out, rules())
    assert manifest.rows(out[1], manifest.REJECTED) == []
    assert json.loads(out[2].read_text())["kept"]["labels"] == 1


def test_a_rule_that_empties_the_set_is_named(tmp_path):
    manifest.write(tmp_path / "scores.parquet", [score_row(words=0)] * 3, manifest.SCORE)
    with pytest.raises(config.ConfigError, match=r"no label is left.*not_empty \(3 of 3\)"):
        filtering.split(tmp_path / "scores.parquet", *outputs(tmp_path), rules("not_empty", "agreement"))


def test_a_table_of_an_older_version_is_named_with_what_it_lacks(tmp_path):
    old = table([score_row()]).drop_columns(["speech_share", "lm_logprob"])
    manifest.write(tmp_path / "scores.parquet", old, old.schema)
    with pytest.raises(manifest.TableError, match=r"scores\.parquet: missing column\(s\) lm_logprob, speech_share"):
        filtering.split(tmp_path / "scores.parquet", *outputs(tmp_path), rules("not_empty"))


def test_label_wer_sums_counts_and_hours_add_up():
    rows = [
        score_row(ref_wer_errors=1, ref_words=1),
        score_row(ref_wer_errors=0, ref_words=9),
        score_row(reference=None),
    ]
    assert filtering.amount(table(rows)) == {"labels": 3, "hours": pytest.approx(6 / 3600, abs=1e-6), "label_wer": 0.1}


# names and sections


def test_an_unknown_rule_names_the_nearest():
    with pytest.raises(UnknownName, match=r"filter\.keep_if\[0\]: unknown 'agrement'; did you mean 'agreement'\?"):
        rules("agrement")


def test_a_section_of_no_filter_names_the_nearest_even_unused():
    with pytest.raises(UnknownName, match=r"filters\.agrement: unknown 'agrement'; did you mean 'agreement'\?.*a kind"):
        rules("not_empty", agrement={"max_distance": 0.3})


def test_a_misspelt_threshold_names_the_nearest():
    with pytest.raises(
        config.ConfigError,
        match=r"filters\.agreement\.max_distence: unknown 'max_distence'; did you mean 'max_distance'",
    ):
        rules("agreement", agreement={"max_distence": 0.3})


def test_a_filter_may_have_several_sections():
    strict = section("agreement", max_distance=0.1)["agreement"] | {"kind": "agreement"}
    made = rules("agreement", "strict", strict=strict)
    found = made.against(score_row(agreement_mer=0.5))
    assert [(f["rule"], f["reason"][-3:]) for f in found] == [("agreement", "0.4"), ("strict", "0.1")]
    assert [f["rule"] for f in made.against(score_row(agreement_mer=0.2))] == ["strict"]


def test_a_section_has_to_be_of_a_filter_that_there_is():
    with pytest.raises(UnknownName, match=r"filters\.strict\.kind: unknown 'agrement'; did you mean 'agreement'\?"):
        rules("strict", strict={"kind": "agrement"})
    with pytest.raises(config.ConfigError, match=r"filters\.confidence\.kind: got 'agreement'; a section named after"):
        rules("confidence", confidence={"kind": "agreement"})
    with pytest.raises(config.ConfigError, match=r"filters\.strict\.measure: missing"):
        rules("strict", strict={"kind": "agreement", "max_distance": 0.1, "without_value": "drop"})


def test_every_filter_is_documented_with_its_parameters():
    text = (ROOT / "docs" / "filters.md").read_text(encoding="utf-8")
    for name, parameters in params().filters.items():
        row, *_ = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        assert all(f"`{key}`" in row for key in parameters if key not in ("without_value", "without_reference")), name


def test_a_filter_without_columns_of_its_own_speed_is_judged_row_by_row():
    from stillsmall.filters.base import Filter, Verdict

    class Odd(Filter):
        columns = ("words",)

        def judge(self, row):
            return Verdict(row["words"] % 2 == 1, row["words"], "even")

    assert np.array_equal(Odd().keeps(table(many(4, words=[1, 2, 3, 4]))), [True, False, True, False])
