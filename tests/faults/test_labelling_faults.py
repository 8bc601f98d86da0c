"""Labelling is killed at twenty random moments: no finished shard is computed again, and the bytes are the same."""

import os
import signal
import subprocess
import sys
import time

import pytest

import tiny
from small import ROOT, split, write_params

KILLS, SHARDS = 20, 45
# Imports once and forks every run: what is killed is a process of its own, and none waits for its imports.
DRIVER = """
import os, random, signal, sys, time
from pathlib import Path
from stillsmall import cache, config, labelling
from stillsmall.teachers import fake

KILLS, SHARDS = int(sys.argv[1]), int(sys.argv[2])
class Slow(fake.FakeTeacher):
    def transcribe(self, clips):
        with open("computed", "a") as log:
            log.write(clips[0].utt_id + "\\n")
        time.sleep(0.02)
        return super().transcribe(clips)

fake.FakeTeacher = Slow
params = config.load(Path("params.yaml"))

def start(store, out):
    pid = os.fork()
    if pid:
        return pid
    cache.ROOT = Path(store)
    who = labelling.Labelling(params.pseudo_label, params.run, "models", "pseudo_label")
    labelling.transcribe(labelling.utterances(Path("train")), who, Path(out), Path(out + ".parquet"))
    os._exit(0)

def finished():
    return len(list(Path("killed/labels").glob("*.parquet")))

def status(pid):
    return os.waitpid(pid, 0)[1]

assert status(start("undisturbed", "once")) == 0
os.unlink("computed")
dice = random.Random(1)
for _ in range(KILLS):
    target = min(finished() + dice.randrange(4), SHARDS - 2)
    pid = start("killed", "out")
    while finished() < target:
        time.sleep(0.001)
    time.sleep(dice.random() * 0.05)
    os.kill(pid, signal.SIGKILL)
    assert status(pid) == signal.SIGKILL, "the run ended before it was killed"
    assert not Path("out").exists()
assert status(start("killed", "out")) == 0
"""


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.timeout(240)
def test_killed_at_twenty_random_moments_no_shard_is_computed_twice_but_the_one_in_hand(tmp_path):
    split(tmp_path / "train", [{"duration_s": 0.2} for _ in range(SHARDS)], per_shard=1)
    write_params(tmp_path / "params.yaml", **{"pseudo_label.backend": "fake"})
    command = [sys.executable, "-c", DRIVER, str(KILLS), str(SHARDS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
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
