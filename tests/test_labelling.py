"""Labelling in shards: nothing lost on a kill, nothing computed twice, the same bytes in the end."""

import pytest

from small import params, split
from stillsmall import cache, labelling, manifest
from stillsmall.config import ConfigError
from stillsmall.teachers.base import Failed


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    return tmp_path


def fake(model="one"):
    config = params(**{"pseudo_label.backend": "fake", "pseudo_label.model": model}).pseudo_label
    return labelling.Labelling(config, params().run, "nowhere", "pseudo_label")


def test_every_utterance_gets_its_label_and_a_second_run_computes_nothing(place):
    prepared = split(place / "train", [{} for _ in range(10)])
    assert labelling.transcribe(labelling.utterances(prepared), fake(), place / "out") == 3
    rows = manifest.rows(place / "out", manifest.HYPOTHESIS)
    assert [row["utt_id"] for row in rows] == [f"small/{i:03d}" for i in range(10)]
    assert rows[0]["text"] == "6 tenths"
    assert labelling.transcribe(labelling.utterances(prepared), fake(), place / "again") == 0
    assert contents(place / "out") == contents(place / "again")


def test_another_model_or_another_shard_is_another_result(place):
    prepared = split(place / "train", [{} for _ in range(8)])
    jobs = labelling.utterances(prepared)
    names = {fake(model).key(job, f"fake-{model}") for model in ("one", "two") for job in jobs}
    assert len(names) == 4


def test_validation_hears_what_the_teacher_cut(place):
    prepared = split(place / "train", [{"duration_s": 65.0}, {"duration_s": 1.0}])
    labelling.transcribe(labelling.utterances(prepared), fake(), place / "labels")
    jobs = labelling.chunks(prepared, place / "labels")
    clips = [clip for job in jobs for clip in job.clips()]
    assert [round(clip.duration_s, 3) for clip in clips] == [30.0, 30.0, 5.0, 1.0]
    labelling.transcribe(jobs, fake("two"), place / "validations")
    ids = [row["utt_id"] for row in manifest.rows(place / "validations", manifest.HYPOTHESIS)]
    assert ids == [row["utt_id"] for row in manifest.rows(place / "labels", manifest.HYPOTHESIS)]


def test_an_empty_split_is_said_so(place):
    with pytest.raises(ConfigError, match="no audio to transcribe"):
        labelling.transcribe(labelling.utterances(split(place / "train", [])), fake(), place / "out")


def test_a_full_disk_leaves_no_half_shard_and_says_where(place, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    prepared = split(place / "train", [{}])
    monkeypatch.setattr(manifest.pq, "write_table", full)
    with pytest.raises(OSError, match="free some space"):
        labelling.transcribe(labelling.utterances(prepared), fake(), place / "out")
    assert list((place / "cache").rglob("*.parquet*")) == [] and not (place / "out").exists()


class Failing:
    """A teacher that fails on some clips by their ids, as a backend reports it."""

    window_s, revision = 30.0, "failing"

    def __init__(self, *bad):
        self.bad = bad

    def transcribe(self, clips):
        ok = labelling.Labelling(fake().config, fake().run, "nowhere", "x").teacher().transcribe(clips)
        return [
            Failed(clip.utt_id, "out_of_memory", "too long") if clip.utt_id in self.bad else rows
            for clip, rows in zip(clips, ok, strict=True)
        ]


def failing(monkeypatch, *bad, share=0.5):
    monkeypatch.setattr(
        labelling.Labelling, "teacher", lambda self: Failing(*bad) if self.path == "bad" else made(self)
    )
    config = fake().config.model_copy(update={"max_failed_share": share})
    return labelling.Labelling(config, fake().run, "nowhere", "bad")


made = labelling.Labelling.teacher


def test_what_cannot_be_decoded_or_labelled_is_listed_with_the_reason_and_the_rest_is_labelled(place, monkeypatch):
    prepared = split(place / "train", [{} for _ in range(6)])
    shard = prepared / "shards/shard-00000.parquet"
    rows = manifest.rows(shard, manifest.AUDIO)
    rows[1]["audio"] = b"no flac"
    manifest.write(shard, [row for row in rows if row["utt_id"] != "small/002"], manifest.AUDIO)
    who = failing(monkeypatch, "small/004", share=0.6)
    labelling.transcribe(labelling.utterances(prepared), who, place / "out", place / "failed.parquet")
    failed = {row["utt_id"]: row["reason"] for row in manifest.rows(place / "failed.parquet", manifest.FAILED)}
    assert failed == {"small/001": "unreadable", "small/002": "missing", "small/004": "out_of_memory"}
    labelled = [row["utt_id"] for row in manifest.rows(place / "out", manifest.HYPOTHESIS)]
    assert labelled == ["small/000", "small/003", "small/005"]
    counts = labelling.summarise(place / "out", place / "failed.parquet")
    assert counts["utterances"] == counts["hypotheses"] == 3 and counts["shards"] == 2
    assert counts["failed"] == {"missing": 1, "out_of_memory": 1, "unreadable": 1}
    assert labelling.transcribe(labelling.utterances(prepared), who, place / "again", place / "f2.parquet") == 0
    assert (place / "f2.parquet").read_bytes() == (place / "failed.parquet").read_bytes()


def test_a_failed_validation_is_listed_and_leaves_an_empty_hypothesis_in_its_place(place, monkeypatch):
    prepared = split(place / "train", [{} for _ in range(4)])
    labelling.transcribe(labelling.utterances(prepared), fake(), place / "labels")
    who = failing(monkeypatch, "small/002")
    labelling.transcribe(labelling.chunks(prepared, place / "labels"), who, place / "checks", place / "failed.parquet")
    rows = manifest.rows(place / "checks", manifest.HYPOTHESIS)
    assert [row["utt_id"] for row in rows] == [f"small/{i:03d}" for i in range(4)]
    assert rows[2]["text"] == "" and rows[2]["mean_logprob"] is None and rows[1]["text"] == "7 tenths"
    assert [row["utt_id"] for row in manifest.rows(place / "failed.parquet", manifest.FAILED)] == ["small/002"]


def test_too_many_failures_stop_the_stage_and_name_the_first(place, monkeypatch):
    prepared = split(place / "train", [{} for _ in range(8)])
    jobs = labelling.utterances(prepared)
    with pytest.raises(labelling.LabellingError, match=r"1 clips failed \(12\.5%; 1 out_of_memory\).*small/001: too"):
        labelling.transcribe(jobs, failing(monkeypatch, "small/001", share=0.1), place / "out")
    assert not (place / "out").exists()
    every = failing(monkeypatch, *(f"small/{i:03d}" for i in range(8)))
    monkeypatch.setattr(cache, "ROOT", place / "other")
    with pytest.raises(labelling.LabellingError, match="failed on all 4 clips"):
        labelling.transcribe(jobs, every, place / "out")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
