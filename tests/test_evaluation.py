"""Judging on hand-made hypotheses: counts, slices, silence as hallucination, long recordings, intervals."""

import pytest

from small import split
from stillsmall import evaluation, manifest
from stillsmall.evaluation import EvaluationError


def hypothesis(parent, text, start=0.0, language="en"):
    utt_id = parent if start == 0.0 else f"{parent}#{round(start * 1000):08d}"
    row = {"utt_id": utt_id, "parent": parent, "start_s": start, "end_s": start + 1, "language": language, "text": text}
    row |= {"segments": [], "tokens": [], "mean_logprob": -0.1, "mean_entropy": 0.1}
    return row | {"compression_ratio": 1.0, "no_speech_prob": 0.0}


@pytest.fixture
def judged(tmp_path):
    rows = [
        {"text": "The cat sat.", "domain": "clean"},
        {"text": "on the mat", "domain": "noisy"},
        {"text": "", "domain": "silence"},
        {"text": None, "domain": "clean"},
        {"text": "red green blue grey", "domain": "long"},
    ]
    prepared = split(tmp_path / "test", rows)
    heard = {
        "teacher": [("small/000", "the cat sat"), ("small/001", "on a mat"), ("small/002", ""), ("small/003", "x")],
        "student": [
            ("small/000", "the cat"),
            ("small/001", "on a mat"),
            ("small/002", "thank you"),
            ("small/003", "x"),
        ],
    }
    for name, found in heard.items():
        table = [hypothesis(*pair) for pair in found]
        table += [hypothesis("small/004", "blue grey", 2.0), hypothesis("small/004", "red green", 0.5)]
        manifest.write(tmp_path / "h" / name / "a.parquet", table, manifest.HYPOTHESIS)
    return evaluation.judge(prepared, tmp_path / "h")


def test_corpus_rates_sum_counts_over_utterances(judged):
    found = evaluation.summarise(judged, seed=1)
    assert found["teacher"]["wer"]["normalised"] == 0.1  # 1 of 10 words
    assert found["student"]["wer"]["normalised"] == 0.2
    assert found["difference"]["wer"] == 0.1
    assert found["teacher"]["wer"]["orthographic"] == pytest.approx(0.3)  # the case and the full stop count too
    assert found["utterances"] == {"with_speech": 3, "without_speech": 1}


def test_output_on_silence_is_hallucination_and_no_part_of_the_rate(judged):
    found = evaluation.summarise(judged, seed=1)
    assert found["teacher"]["without_speech"] == {"utterances": 1, "with_output": 0, "words": 0}
    assert found["student"]["without_speech"] == {"utterances": 1, "with_output": 1, "words": 2}


def test_chunks_of_a_recording_are_read_in_order_of_time(judged):
    (row,) = [row for row in judged if row["domain"] == "long"]
    assert row["teacher"] == "red green blue grey"


def test_slices_hold_their_own_rates(judged):
    domains = evaluation.summarise(judged, seed=1)["student"]["domains"]
    assert domains["noisy"]["wer"] == pytest.approx(1 / 3, abs=1e-6) and domains["long"]["wer"] == 0.0
    assert domains["noisy"]["words"] == 3


def test_utterances_without_a_transcript_are_not_judged(judged):
    assert "small/003" not in {row["utt_id"] for row in judged}


def test_the_table_holds_raw_counts(judged, tmp_path):
    import pyarrow.parquet as pq

    evaluation.write_table(judged, tmp_path / "u.parquet")
    first = pq.read_table(tmp_path / "u.parquet").to_pylist()[0]
    assert first["student_wer_normalised_deletions"] == 1 and first["student_wer_normalised_hits"] == 2
    assert first["teacher"] == "the cat sat"


def test_a_test_set_without_transcripts_or_words_is_an_error(tmp_path):
    prepared = split(tmp_path / "test", [{"text": None}])
    for name in evaluation.SYSTEMS:
        manifest.write(tmp_path / "h" / name / "a.parquet", [hypothesis("small/000", "x")], manifest.HYPOTHESIS)
    with pytest.raises(EvaluationError, match="no test utterance has a transcript"):
        evaluation.judge(prepared, tmp_path / "h")
    punctuation = split(tmp_path / "other", [{"text": "?!"}])
    with pytest.raises(EvaluationError, match="no words to judge by"):
        evaluation.summarise(evaluation.judge(punctuation, tmp_path / "h"), seed=1)
