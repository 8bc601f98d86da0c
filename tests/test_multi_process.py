"""Two processes learn what one learns: gradients, error rates, buffers and rows are sums over both."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

import together
from small import split, write_params
from stillsmall import cache, multi_process
from stillsmall.loading import micro_size
from stillsmall.multi_process import LaunchError, Team
from stillsmall.objectives import TABLE
from test_training import CHANGES, contents, corpus

SCRIPT = Path(__file__).with_name("together.py")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
TRAINED = CHANGES | {
    "distill.objective": "counting", "objectives.counting": {}, "distill.steps": 9, "distill.micro_batch": 2,
    "distill.dev_every": 3, "distill.keep": "best", "distill.checkpoint_every": 2, "augment.noise_probability": 0.5,
}  # fmt: skip


def start(folder, *words, store="cache"):
    environment = {**os.environ, "STILLSMALL_CACHE": str(folder / store), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(SCRIPT.parent)
    return subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finished(run):
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said[-3000:]
    return said


def test_sums_over_two_processes(tmp_path):
    finished(start(tmp_path, *TWO, str(SCRIPT), "sums", str(tmp_path / "out.json")))
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["both"] == [3.0, 6.0] and found["one"] == [5.0, 6.0] and found["none"] is None
    assert found["buffers"] == {"mean": 1 + 0.75 * 4 + 0.25 * 8, "count": 10, "flag": True, "still": pytest.approx(0.1)}
    assert found["joined"] == [0, 1, 1] and found["shares"] == [[0, 1], [2, 3, 4]]
    assert found["total"] == {"b": 2.0, "a": 4.0}


def test_one_process_is_a_team_of_itself():
    team = Team()
    assert team.first and team.share([1, 2]) == [1, 2] and team.join([3]) == [3] and team.total({"a": 1.0}) == {"a": 1}


def place(folder, **changes):
    corpus(folder)
    split(folder / "dev", [{"duration_s": 0.5 + 0.2 * i, "text": t} for i, t in enumerate(("the cat", "sat", "mat"))])
    config = folder / "models/teacher/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dropout": 0.1, "attention_dropout": 0.1}))
    write_params(folder / "params.yaml", **TRAINED | changes)
    return folder


def rows(folder):
    names, *lines = [line.split(",") for line in (folder / "curve.csv").read_text().splitlines()]
    return names, [[float(value or "nan") for value in line] for line in lines]


@pytest.mark.timeout(300)
def test_two_processes_learn_what_one_learns_and_a_killed_team_goes_on_as_one(tmp_path, monkeypatch):
    """Losses agree to 1e-5 of their size, weights to 1e-6; dropout, noise, error rates and sample tables too."""
    place(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TABLE, "counting", "together:Counting")
    monkeypatch.setattr(cache, "ROOT", tmp_path / "one-cache")
    together.train(tmp_path / "one")
    write_params(tmp_path / "params.yaml", **TRAINED | {"distill.processes": 2})
    killed = start(tmp_path, str(SCRIPT), "train", "two", store="two-cache")
    while killed.poll() is None and not list((tmp_path / "two-cache/distill").glob("*/step-00000000[6-8]")):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    _, said = killed.communicate()  # returns only once the copies, which hold its standard error, have ended
    assert killed.returncode == -signal.SIGKILL, said[-3000:]
    write_params(tmp_path / "params.yaml", **TRAINED)
    monkeypatch.setattr(cache, "ROOT", tmp_path / "two-cache")
    together.train(tmp_path / "two")
    equal(tmp_path / "one", tmp_path / "two")


def equal(one, other):
    (names, ours), (their_names, theirs) = rows(one), rows(other)
    assert names == their_names and "dev_wer" in names and "easy" in names
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-5, nan_ok=True)
    a, b = (load_file(folder / "student/model.safetensors") for folder in (one, other))
    assert max(float((a[name] - b[name]).abs().max()) for name in a) <= 1e-6
    a, b = (pq.read_table(folder / "samples.parquet").to_pydict() for folder in (one, other))
    assert a["utt_id"] == b["utt_id"] and a["step"] == b["step"] and len(a["step"]) >= 27
    assert a["difficulty"] == pytest.approx(b["difficulty"], rel=1e-4)
    assert set(contents(one)) == set(contents(other))


def test_a_launcher_of_another_number_is_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    multi_process.launch(4, [])
    multi_process.launch(1, [])
    with pytest.raises(LaunchError, match=r"distill\.processes: got 2, but 4 processes were launched"):
        multi_process.launch(2, [])


def test_every_process_has_a_part_of_a_whole_batch():
    asked = ((24, 1), (24, 2), (24, 5), (4, 2))  # micro_batch, processes
    assert [micro_size(24, micro, Team(0, size)) for micro, size in asked] == [24, 12, 5, 4]
    shares = [Team(rank, 3).share(range(7)) for rank in range(3)]
    assert shares == [[0, 1], [2, 3], [4, 5, 6]]
