"""Labelling is killed at twenty random moments: no finished shard is computed again, and the bytes are the same."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

import tiny
from small import ROOT, split, write_params

SLOW = """
import sys, time
from pathlib import Path
from stillsmall import config, labelling, teachers
from stillsmall.teachers import fake

class Slow(fake.FakeTeacher):
    def transcribe(self, clips):
        with open("computed", "a") as log:
            log.write(clips[0].utt_id + "\\n")
        time.sleep(0.03)
        return super().transcribe(clips)

fake.FakeTeacher = Slow
params = config.load(Path("params.yaml"))
who = labelling.Labelling(params.pseudo_label, params.run, "models", "pseudo_label")
labelling.transcribe(labelling.utterances(Path("train")), who, Path(sys.argv[1]), Path(sys.argv[1] + ".parquet"))
"""
KILLS, SHARDS = 20, 60


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.timeout(240)
def test_killed_at_twenty_random_moments_no_shard_is_computed_twice_but_the_one_in_hand(tmp_path):
    split(tmp_path / "train", [{"duration_s": 0.2} for _ in range(SHARDS)], per_shard=1)
    write_params(tmp_path / "params.yaml", **{"pseudo_label.backend": "fake"})

    def start(store, out):
        environment = {**os.environ, "STILLSMALL_CACHE": str(tmp_path / store)}
        return subprocess.Popen(
            [sys.executable, "-c", SLOW, out], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
        )

    assert start("undisturbed", "once").wait() == 0
    (tmp_path / "computed").unlink()
    dice, killed = random.Random(1), 0
    store = tmp_path / "killed/labels"
    for _ in range(KILLS):
        before = len(list(store.glob("*.parquet")))
        run = start("killed", "out")
        target = min(before + dice.randrange(0, 4), SHARDS - 1)
        while run.poll() is None and len(list(store.glob("*.parquet"))) < target:
            time.sleep(0.001)
        time.sleep(dice.random() * 0.04)
        run.send_signal(signal.SIGKILL)
        killed += run.wait() == -signal.SIGKILL
        assert not (tmp_path / "out").exists() or killed < KILLS
    assert killed == KILLS, "the run ended before it had been killed often enough"
    assert start("killed", "out").wait() == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "once")
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "once.parquet").read_bytes()
    computed = (tmp_path / "computed").read_text().split()
    assert len(set(computed)) == SHARDS
    assert len(computed) <= SHARDS + KILLS, "each kill may cost the shard in hand, and no other"


@pytest.mark.timeout(240)
def test_a_killed_stage_with_a_real_model_ends_with_the_same_bytes(tmp_path):
    tiny.whisper(tmp_path / "models" / "teacher")
    split(tmp_path / "train", [{"duration_s": 0.5} for _ in range(12)], per_shard=2)
    changes = {"models.root": "models", "run.threads": 1, "pseudo_label.device": "cpu"}
    write_params(tmp_path / "params.yaml", **changes)

    def start(store):
        command = [sys.executable, ROOT / "stages/pseudo_label.py", "--params", "params.yaml", "--split", "train"]
        outs = ["--out", f"out-{store}", "--failed", f"failed-{store}.parquet", "--metrics", f"{store}.json"]
        environment = {**os.environ, "STILLSMALL_CACHE": str(tmp_path / store)}
        return subprocess.Popen([*command, *outs], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

    assert start("undisturbed").wait() == 0
    run, store = start("killed"), tmp_path / "killed/labels"
    while run.poll() is None and len(list(store.glob("*.parquet"))) <= 2:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "out-killed").exists()
    stamps = {p.name: p.stat().st_mtime_ns for p in store.glob("*.parquet")}
    assert start("killed").wait() == 0
    now = {p.name: p.stat().st_mtime_ns for p in store.glob("*.parquet")}
    assert stamps.items() <= now.items(), "a finished shard was computed again"
    assert contents(tmp_path / "out-killed") == contents(tmp_path / "out-undisturbed")
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "undisturbed.json").read_bytes()
