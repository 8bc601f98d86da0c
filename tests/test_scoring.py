"""The score table: values by hand, missing pieces, text that says nothing, and the same bytes however it is made."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from small import params, split
from stillsmall import audio, cache, manifest, measures, metrics, scoring
from stillsmall.processes import WorkerDied, in_order

CONFIG = params().score
LOOP = "谢谢大家收看" * 6


def label(text, utt_id="small/000", parent="small/000", **values):
    row = {"utt_id": utt_id, "parent": parent, "start_s": 0.0, "end_s": 2.0, "language": "en", "text": text}
    row |= {"segments": [], "tokens": [], "mean_logprob": -0.5, "mean_entropy": 0.1, "compression_ratio": 0.9}
    return row | {"no_speech_prob": 0.0} | values


def utterance(text, language="en"):
    keys = ("source", "domain", "speaker", "recording")
    return {"utt_id": "small/000", "language": language, "text": text, "offset_s": 0.0} | dict.fromkeys(keys, "x")


def row(known, labelled, heard, **more):
    """The one row of one label."""
    tables = pa.Table.from_pylist([known | {"shard": "s"}], scoring.UTTERANCE)
    labels = pa.Table.from_pylist([labelled], manifest.HYPOTHESIS).select(measures.LABEL)
    made = measures.table(tables, labels, [heard], CONFIG, more.get("activity"), more.get("lm_logprob"))
    made.validate(full=True)
    return made.to_pylist()[0]


def test_a_row_holds_the_hand_counted_measures():
    found = row(utterance("The cat sat."), label("the cat sat down"), "a cat sat")
    assert (found["ref_wer_errors"], found["ref_words"], found["ref_wer"]) == (1, 3, pytest.approx(1 / 3))
    assert (found["ref_mer_errors"], found["ref_units"], found["ref_mer"]) == (1, 3, pytest.approx(1 / 3))
    assert (found["ref_cer_errors"], found["ref_chars"]) == (5, 11)  # " down" of "the cat sat"
    assert (found["agreement_mer_errors"], found["agreement_units"]) == (2, 3)  # the for a, and one word more
    assert (found["words"], found["words_per_s"], found["chars_per_s"]) == (4, 2.0, 6.5)
    assert found["confidence"] == pytest.approx(0.60653, abs=1e-5)
    assert found["agreement_phonemes"] == 7  # eɪ, k æ t, s æ t
    assert found["agreement_per_errors"] == 5  # ð and ə for eɪ, and d aʊ n
    assert found["agreement_composite"] == found["agreement_per"] == pytest.approx(5 / 7)


def test_words_that_sound_alike_agree_in_phonemes_though_not_in_characters():
    found = row(utterance(None, "zh"), label("她很高", language="zh"), "他很高")
    assert (found["agreement_mer"], found["agreement_per"]) == (pytest.approx(1 / 3), 0.0)


@pytest.mark.parametrize(
    ("teacher", "validator", "flags", "composite"),
    [
        (LOOP, "谢谢", (True, False), 1.0),
        (LOOP, LOOP, (True, True), 1.0),
        ("谢谢", LOOP, (False, True), 0.0),
        ("谢谢", "谢谢", (False, False), 0.0),
        ("谢谢大家收看吧好了", "谢", (False, False), 1.0),  # the PER is above one
        ("谢谢", "", (False, False), None),
    ],
)
def test_a_loop_of_the_teacher_counts_and_one_of_the_validator_alone_does_not(teacher, validator, flags, composite):
    found = row(utterance(None, "zh"), label(teacher, language="zh"), validator)
    assert (found["teacher_repeats"], found["validator_repeats"]) == flags
    assert found["agreement_composite"] == composite


@pytest.mark.parametrize(
    ("teacher", "validator", "per", "composite"),
    [(True, True, 0.2, 1), (True, False, 0.2, 1), (False, True, 0.9, 0), (False, False, 0.9, 0.9), (0, 0, 1.7, 1)],
)
def test_composite_is_k2ds(teacher, validator, per, composite):
    assert metrics.composite(teacher, validator, per) == composite
    assert composite == max(float(teacher), min(1.0 - validator, per))


def test_without_a_transcript_there_is_no_reference_measure():
    found = row(utterance(None), label("hello"), "hello")
    assert found["reference"] is None and found["ref_wer"] is None and found["ref_words"] is None
    assert found["agreement_mer"] == 0.0


def test_a_language_that_nobody_knew_is_the_one_that_the_teacher_heard():
    found = row(utterance("我买", "und"), label("我買。", language="zh"), "我買")
    assert found["language"] == "zh" and found["ref_wer"] == 0.0 and found["ref_words"] == 2


def test_punctuation_alone_is_no_word_and_an_empty_transcript_has_no_rate():
    found = row(utterance("..."), label("?!"), "")
    assert found["words"] == 0 and found["ref_wer"] == 0.0 and found["agreement_mer"] == 0.0
    heard = row(utterance(""), label("thank you"), "")
    assert heard["ref_wer"] is None and heard["ref_wer_errors"] == 2 and heard["agreement_mer"] is None
    assert heard["agreement_per"] is None and heard["agreement_per_errors"] > 0 and heard["agreement_composite"] is None


def test_chunks_of_a_recording_are_not_compared_with_the_whole_transcript():
    assert row(utterance("all of it"), label("part", "small/000#00001000"), "part")["reference"] is None


def test_sound_and_likelihood_are_carried_in_and_null_where_they_were_not_measured():
    level, speech = bytes([20] * 32 + [90] * 31), bytes([255] * 16 + [0] * 47)
    found = row(utterance(None), label("x"), "x", activity={"small/000": (level, speech)}, lm_logprob=[-2.5])
    assert (found["speech_share"], found["silence_share"]) == (pytest.approx(16 / 63), pytest.approx(31 / 63))
    assert found["lm_logprob"] == -2.5
    without = row(utterance(None), label("x"), "x")
    assert without["speech_share"] is without["silence_share"] is without["lm_logprob"] is None


def corpus(folder, count=40):
    """A prepared split of tones and a silence, its labels and its validations."""
    rows = [{"utt_id": f"small/{n:03d}", "duration_s": 0.6} for n in range(count)]
    prepared = split(folder / "train", rows)
    shards = {}
    for number, found in enumerate(manifest.rows(prepared / "manifest.parquet", manifest.UTTERANCE)):
        text = f"the cat sat {number} times" if number % 7 else LOOP
        made = label(text, found["utt_id"], found["utt_id"], end_s=0.6)
        shards.setdefault(found["shard"].removesuffix(".parquet"), []).append(made)
    for number, (name, made) in enumerate(shards.items()):
        manifest.write(folder / "labels" / f"{name}-{number}a.parquet", made, manifest.HYPOTHESIS)
        heard = [found | {"text": found["text"].replace("cat", "hat")} for found in reversed(made)]
        manifest.write(folder / "validations" / f"{name}-{number}b.parquet", heard, manifest.HYPOTHESIS)
    return prepared, folder / "labels", folder / "validations"


def test_the_table_has_the_same_bytes_whatever_the_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("STILLSMALL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    places = corpus(tmp_path)
    for workers in (1, 2):
        scoring.score(*places, tmp_path / f"{workers}.parquet", params(**{"score.workers": workers}))
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    found = manifest.rows(tmp_path / "1.parquet", manifest.SCORE)
    assert [one["utt_id"] for one in found] == [f"small/{n:03d}" for n in range(40)]
    assert [one["teacher_repeats"] for one in found] == [n % 7 == 0 for n in range(40)]
    assert {one["agreement_mer_errors"] for one in found if not one["teacher_repeats"]} == {1}
    assert all(one["speech_share"] is not None and one["silence_share"] == 0.0 for one in found)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["activity"]  # nothing temporary is left


def test_parts_of_the_manifest_and_groups_of_rows_hold_all_of_it(tmp_path, monkeypatch):
    places = corpus(tmp_path)
    plain = params(**{"score.workers": 1, "score.voice_activity": "none"})
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    scoring.score(*places, tmp_path / "one.parquet", plain)
    for name, value in (("PART_ROWS", 6), ("GROUP_ROWS", 9), ("BATCH_ROWS", 5)):
        monkeypatch.setattr(scoring, name, value)
    scoring.score(*places, tmp_path / "many.parquet", plain)
    assert pq.ParquetFile(tmp_path / "many.parquet").num_row_groups == 5
    assert pq.read_table(tmp_path / "many.parquet").equals(pq.read_table(tmp_path / "one.parquet"))


def test_silence_has_no_speech(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    prepared, labels, validations = corpus(tmp_path, 1)
    silence = [{"utt_id": "small/000", "audio": audio.encode_flac(np.zeros(9_600, np.float32))}]
    manifest.write(prepared / "shards" / "shard-00000.parquet", silence, manifest.AUDIO)
    scoring.score(prepared, labels, validations, tmp_path / "out.parquet", params(**{"score.workers": 1}))
    (found,) = manifest.rows(tmp_path / "out.parquet", manifest.SCORE)
    assert found["speech_share"] < 0.05 and found["silence_share"] == 1.0


@pytest.mark.parametrize("lost", ["validation", "utterance", "shard"])
def test_labels_without_validation_or_utterance_are_named(tmp_path, monkeypatch, lost):
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    prepared = split(tmp_path / "train", [{}])
    name = "other-a.parquet" if lost == "shard" else "shard-00000-a.parquet"
    parent = "other" if lost == "utterance" else "small/000"
    manifest.write(tmp_path / "labels" / name, [label("x", "small/000", parent)], manifest.HYPOTHESIS)
    heard = label("x", "other" if lost == "validation" else "small/000")
    manifest.write(tmp_path / "validations" / name, [heard], manifest.HYPOTHESIS)
    with pytest.raises(scoring.ScoreError, match=r"no utterance, first \['small/000'\]; run validate again"):
        scoring.score(prepared, tmp_path / "labels", tmp_path / "validations", tmp_path / "out.parquet", params())
    assert not (tmp_path / "out.parquet").exists() and not list(tmp_path.glob(".*partial"))


def test_a_worker_that_dies_is_said_in_words():
    with pytest.raises(WorkerDied, match=r"score\.workers"):
        list(in_order(os._exit, [9, 9], 2, "score.workers"))
