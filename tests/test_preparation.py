"""The prepare stage: the same bytes on every run, whole recordings, disjoint splits, a reason for what is left out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from heaps import STAGE, audio, heap, noise, params, quarantine, rows, run, speak, tree
from stillsmall import cache
from stillsmall.audio import SAMPLE_RATE
from stillsmall.config import ConfigError
from stillsmall.preparation import PreparationError, fingerprint, prepare
from stillsmall.sources import shards


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")


def test_every_split_is_written_with_manifest_shards_and_metrics(tmp_path: Path) -> None:
    train = heap(tmp_path, "a", 9, speaker=lambda n: f"s{n % 3}", domain=lambda n: "x" if n < 4 else "y")
    test = heap(tmp_path, "b", 2, seed=1) | {"split": "test"}
    summary = run(tmp_path, train, test)
    assert summary == json.loads((tmp_path / "out.json").read_text())
    found = rows(tmp_path)
    assert [row["utt_id"] for row in found] == [f"a/{n:02d}.wav" for n in range(9)]
    assert found[3] == {
        "utt_id": "a/03.wav", "source": "a", "split": "train", "domain": "x", "language": "en", "recording": "a/03.wav",
        "offset_s": 0.0, "duration_s": 0.8, "shard": found[3]["shard"], "speaker": "s0", "text": "text 3",
    }  # fmt: skip
    heard = audio(tmp_path)
    assert set(heard) == {row["utt_id"] for row in found}
    assert np.abs(heard["a/03.wav"] - noise(0.8, 3)).max() < 1e-4
    for row in found:
        shard = pq.read_table(tmp_path / "out/train/shards" / row["shard"])
        assert row["utt_id"] in shard["utt_id"].to_pylist()
        assert shard.num_rows <= 4
    assert rows(tmp_path, "dev") == []
    assert (tmp_path / "out/dev/shards").is_dir()
    assert summary["splits"]["train"] | {"hours": 0} == {"hours": 0, "utterances": 9, "speakers": 3, "transcribed": 9}
    assert summary["splits"]["train"]["hours"] == pytest.approx(8.1 / 3600, abs=1e-6)
    assert summary["domains"]["y"]["train"]["utterances"] == 5
    assert summary["domains"]["b"]["test"]["utterances"] == 2
    assert summary["sources"]["b"]["split"] == "test"
    assert summary["quarantine"] == {}


def test_the_bytes_are_the_same_with_any_number_of_workers_and_on_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = heap(tmp_path, "a", 12), heap(tmp_path, "b", 5, seed=1)
    run(tmp_path, source, other, out="one")
    run(tmp_path, source, other, out="one-again")
    monkeypatch.setattr(cache, "ROOT", tmp_path / "another")
    run(tmp_path, source, other, out="two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "one-again") == tree(tmp_path / "two")
    assert (tmp_path / "one.json").read_text() == (tmp_path / "two.json").read_text()


def test_8_khz_stereo_44_khz_and_float_just_work(tmp_path: Path) -> None:
    speak(tmp_path / "data/a/8k.wav", rate=8000)
    speak(tmp_path / "data/a/44k.flac", rate=44_100)
    speak(tmp_path / "data/a/float.wav", subtype="FLOAT")
    sf.write(tmp_path / "data/a/stereo.ogg", np.stack([noise(1.0), noise(1.0, 1)], axis=1), SAMPLE_RATE)
    run(tmp_path, {"name": "a", "kind": "recordings", "split": "dev", "path": "a", "language": "en"})
    assert {row["utt_id"]: round(row["duration_s"], 1) for row in rows(tmp_path, "dev")} == {
        "a/8k.wav": 1.0, "a/44k.flac": 1.0, "a/float.wav": 1.0, "a/stereo.ogg": 1.0,
    }  # fmt: skip


def test_shards_that_new_files_do_not_fall_into_keep_their_names_and_bytes(tmp_path: Path) -> None:
    source = heap(tmp_path, "b", 40)
    run(tmp_path, source, shard_utterances=8, out="before")
    run(tmp_path, heap(tmp_path, "a", 9, seed=1), heap(tmp_path, "b", 41), shard_utterances=8, out="after")
    before, after = (tree(tmp_path / out / "train/shards") for out in ("before", "after"))
    kept = {name for name in before if after.get(name) == before[name]}
    assert len(kept) >= len(before) - 2


def test_a_rerun_replaces_what_was_there(tmp_path: Path) -> None:
    run(tmp_path, heap(tmp_path, "a", 12))
    run(tmp_path, heap(tmp_path, "b", 2, seed=1))
    assert set(audio(tmp_path)) == {"b/00.wav", "b/01.wav"}
    assert not list((tmp_path / "out").glob(".*"))


def test_a_fingerprint_follows_the_items_not_their_order() -> None:
    items: list[list[str | None]] = [["a", "d1", "x"], ["b", "d2", None]]
    assert fingerprint(items) == fingerprint(items[::-1])
    assert len({fingerprint(items), fingerprint([["a", "d1", "y"], items[1]]), fingerprint(items[:1])}) == 3


def test_the_fingerprint_changes_with_one_byte_of_audio(tmp_path: Path) -> None:
    source = heap(tmp_path, "a", 3)
    before = run(tmp_path, source)["sources"]["a"]["fingerprint"]
    assert run(tmp_path, source, shard_utterances=2)["sources"]["a"]["fingerprint"] == before
    speak(tmp_path / "data/a/01.wav", 0.6, seed=99)
    assert run(tmp_path, source)["sources"]["a"]["fingerprint"] != before


def test_a_long_recording_becomes_pieces_and_loses_nothing(tmp_path: Path) -> None:
    minutes = 20
    (tmp_path / "data/a").mkdir(parents=True)
    with sf.SoundFile(str(tmp_path / "data/a/long.flac"), "w", SAMPLE_RATE, 1) as file:
        for minute in range(minutes):
            file.write(noise(60, minute))
    source = {"name": "a", "kind": "recordings", "split": "train", "path": "a", "language": "en"}
    run(tmp_path, source, max_piece_s=60.0, shard_utterances=8)
    found, heard = rows(tmp_path), audio(tmp_path)
    assert found[0]["utt_id"] == "a/long.flac@00000"
    assert {row["recording"] for row in found} == {"a/long.flac"}
    assert max(row["duration_s"] for row in found) <= 60
    joined = np.concatenate([heard[row["utt_id"]] for row in found])
    assert np.array_equal(joined, sf.read(tmp_path / "data/a/long.flac", dtype="float32")[0])
    starts = np.cumsum([0.0] + [row["duration_s"] for row in found])[:-1]
    assert [row["offset_s"] for row in found] == pytest.approx(starts)


def test_a_transcript_of_a_recording_that_is_cut_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    speak(tmp_path / "data/a/00.wav", 70)
    (tmp_path / "data/a/metadata.csv").write_text("file_name,text\n00.wav,all of it\n")
    source = {"name": "a", "kind": "audiofolder", "split": "train", "path": "a", "language": "en"}
    run(tmp_path, source, max_piece_s=60.0)
    assert [row["text"] for row in rows(tmp_path)] == [None, None]
    assert "1 transcript(s) left out" in caplog.text


def spoil(folder: Path) -> None:
    """One of each fault of a file."""
    (folder / "empty.wav").touch()
    sf.write(folder / "header-only.wav", np.empty(0, np.float32), SAMPLE_RATE)
    (folder / "text.wav").write_text("this is not audio")
    speak(folder / "short.wav", 0.05)
    sf.write(folder / "silent.wav", np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE)
    speak(folder / "quiet.wav")
    sf.write(folder / "quiet.wav", noise(1.0) * 1e-4, SAMPLE_RATE, subtype="FLOAT")
    sf.write(folder / "nan.wav", np.append(noise(1.0), np.float32("nan")), SAMPLE_RATE, subtype="FLOAT")
    sf.write(folder / "integers.wav", noise(1.0) * 30_000, SAMPLE_RATE, subtype="FLOAT")
    good = speak(folder / "good.flac").read_bytes()
    (folder / "cut.flac").write_bytes(good[: len(good) // 2])


def test_each_broken_file_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "data/a").mkdir(parents=True)
    spoil(tmp_path / "data/a")
    names = [*sorted(path.name for path in (tmp_path / "data/a").iterdir()), "good.flac", "gone.wav", "../out.wav"]
    (tmp_path / "data/a/metadata.csv").write_text("\n".join(["file_name", *names]) + "\n")
    source = {"name": "a", "kind": "audiofolder", "split": "train", "path": "a", "language": "en"}
    summary = run(tmp_path, source, max_broken_share=1.0)
    assert quarantine(tmp_path) == {
        "../out.wav": "path_outside_source", "cut.flac": "unreadable", "empty.wav": "empty", "gone.wav": "missing_file",
        "good.flac": "duplicate_id", "header-only.wav": "empty", "integers.wav": "overscaled", "nan.wav": "non_finite",
        "quiet.wav": "silent", "short.wav": "too_short", "silent.wav": "silent", "text.wav": "unreadable",
    }  # fmt: skip
    assert [row["utt_id"] for row in rows(tmp_path)] == ["a/good.flac"]
    assert summary["sources"]["a"]["quarantine"]["silent"] == 2
    assert summary["quarantine"]["unreadable"] == 2
    assert set(quarantine(tmp_path).values()) | {"misdeclared_duration"} == set(shards.REASONS)


@pytest.mark.parametrize(
    ("declared", "kept_s"),
    [({}, 4.0), ({"duration": 4.4}, 4.0), ({"duration": 3.4}, None), ({"duration": 9.0}, None),
     ({"offset": 1.0, "duration": 2.0}, 2.0), ({"offset": 1.0}, 3.0), ({"offset": 3.0, "duration": 1.4}, 1.0),
     ({"offset": 3.0, "duration": 1.6}, None), ({"offset": 9.0, "duration": 0.2}, None), ({"duration": -1.0}, None)],
)  # fmt: skip
def test_a_declared_duration_is_checked_against_the_audio(
    tmp_path: Path, declared: dict[str, float], kept_s: float | None
) -> None:
    speak(tmp_path / "data/a.wav", 4.0)
    (tmp_path / "data/m.jsonl").write_text(json.dumps({"audio_filepath": "a.wav", "text": "x"} | declared))
    source = {"name": "a", "kind": "jsonl", "split": "train", "path": "m.jsonl", "language": "en"}
    run(tmp_path, source, max_broken_share=1.0)
    assert list(quarantine(tmp_path).values()) == ([] if kept_s else ["misdeclared_duration"])
    assert [row["duration_s"] for row in rows(tmp_path)] == ([kept_s] if kept_s else [])
    assert [row["offset_s"] for row in rows(tmp_path)] == ([declared.get("offset", 0.0)] if kept_s else [])


def test_silence_stays_where_the_reference_says_that_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "data/a").mkdir(parents=True)
    sf.write(tmp_path / "data/a/0.wav", np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE)
    (tmp_path / "data/a/metadata.csv").write_text("file_name,text\n0.wav,\n")
    source = {"name": "a", "kind": "audiofolder", "split": "train", "path": "a", "language": "en"}
    run(tmp_path, source | {"empty_text": "nothing_said"})
    assert [row["text"] for row in rows(tmp_path)] == [""]


def test_a_transcript_of_punctuation_stays(tmp_path: Path) -> None:
    speak(tmp_path / "data/a/0.wav")
    (tmp_path / "data/a/metadata.csv").write_text("file_name,text\n0.wav,...\n")
    run(tmp_path, {"name": "a", "kind": "audiofolder", "split": "train", "path": "a", "language": "en"})
    assert [row["text"] for row in rows(tmp_path)] == ["..."]


def test_too_many_broken_items_stop_the_stage_and_leave_the_output_alone(tmp_path: Path) -> None:
    source = heap(tmp_path, "a", 10)
    run(tmp_path, source)
    before = tree(tmp_path / "out")
    (tmp_path / "data/a/03.wav").write_bytes(b"")
    with pytest.raises(PreparationError) as caught:
        run(tmp_path, source)
    message = str(caught.value)
    assert "prepare.sources[0] ('a'): 1 of 10 items are broken" in message
    assert "10.0%; prepare.max_broken_share allows 5.0%" in message
    assert "reasons: empty 1" in message
    assert "03.wav: empty: 03.wav: zero bytes" in message
    assert tree(tmp_path / "out") == before
    run(tmp_path, source, max_broken_share=0.1)


def test_a_speaker_in_two_splits_is_an_error_that_names_them(tmp_path: Path) -> None:
    train = heap(tmp_path, "a", 3, speaker=lambda n: f"s{n}")
    test = heap(tmp_path, "b", 3, seed=1, speaker=lambda n: f"s{n + 2}") | {"split": "test"}
    with pytest.raises(PreparationError) as caught:
        run(tmp_path, train, test)
    assert "1 speaker(s) in more than one split" in str(caught.value)
    assert "s2 in test: b; train: a" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_recording_in_two_splits_is_an_error(tmp_path: Path) -> None:
    train = heap(tmp_path, "a", 3)
    with pytest.raises(
        PreparationError, match=r"3 recording\(s\) in more than one split(?s:.*)a/00.wav in dev: b; train: a"
    ):
        run(tmp_path, train, train | {"name": "b", "split": "dev"})


def test_the_same_bytes_under_another_name_are_an_error_too(tmp_path: Path) -> None:
    train, test = heap(tmp_path, "a", 3), heap(tmp_path, "b", 3) | {"split": "test"}
    with pytest.raises(
        PreparationError, match=r"3 audio\(s\) in more than one split(?s:.*)test: b/00.wav; train: a/00.wav"
    ):
        run(tmp_path, train, test)


def test_unknown_speakers_are_not_compared(tmp_path: Path) -> None:
    run(tmp_path, heap(tmp_path, "a", 2), heap(tmp_path, "b", 2, seed=1) | {"split": "test"})
    assert [row["speaker"] for row in rows(tmp_path, "test")] == [None, None]


def test_the_labs_silences_and_empty_references_stay(tmp_path: Path) -> None:
    pytest.importorskip("stillsmall.speech_lab.corpus")
    lab = {"name": "lab", "kind": "lab", "split": "train", "seed": 11, "domains": {"trouble": 12, "zh-en": 1}}
    summary = run(tmp_path, lab, lab | {"name": "lab-test", "split": "test", "seed": 13})
    assert summary["quarantine"] == {}
    found = rows(tmp_path)
    assert len(found) == 13
    assert {row["text"] for row in found if row["speaker"] is None} == {""}
    assert found[-1]["language"] == "zh"


def test_the_lab_is_spoken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = pytest.importorskip("stillsmall.speech_lab.corpus")
    lab = {"name": "lab", "kind": "lab", "split": "train", "seed": 11, "domains": {"en-us": 2}}
    before = run(tmp_path, lab)
    monkeypatch.setattr(corpus, "clips", lambda *_, **__: pytest.fail("spoken again"))
    assert run(tmp_path, lab) == before


@pytest.mark.parametrize(
    ("section", "message"),
    [({"splt": "train"}, "prepare: prepare.sources[0].splt: unknown 'splt'; did you mean 'split'?"),
     ({"kind": "fodler"}, "prepare: prepare.sources[0].kind: unknown 'fodler'"),
     ({"path": "nowhere"}, "prepare: prepare.sources[0].path:")],
)  # fmt: skip
def test_the_stage_says_what_is_wrong_in_words(tmp_path: Path, section: dict[str, Any], message: str) -> None:
    source = {"name": "a", "kind": "recordings", "split": "train", "path": "a", "language": "en"}
    command = [sys.executable, STAGE, "--params", params(tmp_path, source | section)]
    done = subprocess.run(
        [*command, "--out", tmp_path / "o", "--metrics", tmp_path / "m"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(message)


def test_a_section_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {root: x}\n")
    with pytest.raises(ConfigError, match=r"^prepare: "):
        prepare(tmp_path / "params.yaml", tmp_path / "out", tmp_path / "m.json")


@pytest.mark.shared
def test_real_speech_at_8_16_and_22_khz_is_prepared(tmp_path: Path, shared: Path) -> None:
    sources = [
        {"name": name, "kind": "audiofolder", "split": split, "path": name, "take": {"count": 8}}
        for name, split in (("digits", "train"), ("lj", "dev"), ("arabic", "test"))
    ]
    path = params(tmp_path, *sources)
    path.write_text(path.read_text().replace(str(tmp_path / "data"), str(shared / "data")))
    summary = prepare(path, tmp_path / "out", tmp_path / "m.json")
    assert [summary["splits"][split]["utterances"] for split in ("train", "dev", "test")] == [8, 8, 8]
    assert {row["language"] for row in rows(tmp_path, "test")} == {"ar"}
