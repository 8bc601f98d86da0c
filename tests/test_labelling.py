"""Labelling in shards: nothing lost on a kill, nothing computed twice, the same bytes in the end."""

import os
import signal
import subprocess
import sys
import time

import pytest

import tiny
from small import ROOT, params, split, write_params
from stillsmall import cache, labelling, manifest
from stillsmall.config import ConfigError


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


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.timeout(240)
def test_killed_at_several_moments_it_ends_with_the_same_bytes_and_redoes_no_shard(tmp_path):
    tiny.whisper(tmp_path / "models" / "teacher")
    split(tmp_path / "train", [{"duration_s": 0.5} for _ in range(12)], per_shard=2)
    write_params(tmp_path / "params.yaml", **{"models.root": "models", "run.threads": 1, "pseudo_label.device": "cpu"})

    def start(store):
        command = [sys.executable, ROOT / "stages/pseudo_label.py", "--params", "params.yaml", "--split", "train"]
        environment = {**os.environ, "STILLSMALL_CACHE": str(tmp_path / store)}
        return subprocess.Popen(
            [*command, "--out", f"out-{store}"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
        )

    assert start("undisturbed").wait() == 0
    stamps = {}
    for shards in (0, 1, 3, 4):
        run = start("killed")
        store = tmp_path / "killed" / "labels"
        while run.poll() is None and len(list(store.glob("*.parquet"))) <= shards:
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert not (tmp_path / "out-killed").exists()
        now = {p.name: p.stat().st_mtime_ns for p in store.glob("*.parquet")}
        assert stamps.items() <= now.items(), "a finished shard was computed again"
        stamps = now
    assert start("killed").wait() == 0
    assert contents(tmp_path / "out-killed") == contents(tmp_path / "out-undisturbed")
