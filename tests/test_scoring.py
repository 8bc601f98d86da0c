"""The score table: values by hand, missing pieces, and text that says nothing."""

import pytest

from small import split
from stillsmall import manifest, scoring
from stillsmall.config import Score

CONFIG = Score(repetition_ngram=6, repetition_max=5)


def label(text, utt_id="small/000", parent="small/000", **values):
    row = {"utt_id": utt_id, "parent": parent, "start_s": 0.0, "end_s": 2.0, "language": "en", "text": text}
    row |= {"segments": [], "tokens": [], "mean_logprob": -0.5, "mean_entropy": 0.1, "compression_ratio": 0.9}
    return row | {"no_speech_prob": 0.0} | values


def utterance(text, language="en"):
    keys = ("source", "domain", "speaker", "recording")
    return {"utt_id": "small/000", "language": language, "text": text, "offset_s": 0.0} | dict.fromkeys(keys, "x")


def test_a_row_holds_the_hand_counted_measures():
    row = scoring.score_row(utterance("The cat sat."), label("the cat sat down"), label("a cat sat"), CONFIG)
    assert (row["ref_wer_errors"], row["ref_words"], row["ref_wer"]) == (1, 3, pytest.approx(1 / 3))
    assert (row["agreement_mer_errors"], row["agreement_units"]) == (2, 3)  # the for a, and one word more
    assert (row["words"], row["words_per_s"]) == (4, 2.0)
    assert row["confidence"] == pytest.approx(0.60653, abs=1e-5)


def test_without_a_transcript_there_is_no_reference_measure():
    row = scoring.score_row(utterance(None), label("hello"), label("hello"), CONFIG)
    assert row["reference"] is None and "ref_wer" not in row and row["agreement_mer"] == 0.0


def test_a_language_that_nobody_knew_is_the_one_that_the_teacher_heard():
    row = scoring.score_row(utterance("我买", "und"), label("我買。", language="zh"), label("我買"), CONFIG)
    assert row["language"] == "zh" and row["ref_wer"] == 0.0


def test_punctuation_alone_is_no_word_and_an_empty_transcript_has_no_rate():
    row = scoring.score_row(utterance("..."), label("?!"), label(""), CONFIG)
    assert row["words"] == 0 and row["ref_wer"] == 0.0 and row["agreement_mer"] == 0.0
    heard = scoring.score_row(utterance(""), label("thank you"), label(""), CONFIG)
    assert heard["ref_wer"] is None and heard["ref_wer_errors"] == 2 and heard["agreement_mer"] is None


def test_chunks_of_a_recording_are_not_compared_with_the_whole_transcript():
    row = scoring.score_row(utterance("all of it"), label("part", "small/000#00001000"), label("part"), CONFIG)
    assert row["reference"] is None


def test_labels_without_validation_are_named(tmp_path):
    prepared = split(tmp_path / "train", [{}])
    manifest.write(tmp_path / "labels" / "a.parquet", [label("x")], manifest.HYPOTHESIS)
    manifest.write(tmp_path / "validations" / "a.parquet", [label("x", "other")], manifest.HYPOTHESIS)
    with pytest.raises(scoring.ScoreError, match="small/000"):
        scoring.score(prepared, tmp_path / "labels", tmp_path / "validations", tmp_path / "out.parquet", CONFIG)
