"""The stage as people start it: killed in the midst of it with everything on, it ends as if nothing had been."""

import os
import signal
import subprocess
import sys
import time

import pytest

from small import ROOT, write_params
from test_training import CHANGES, contents, corpus
from test_training_loop import EVERY, dev


def program(folder, store, *before):
    """The stage as people start it, with its own cache."""
    out = {"student": "student", "curve": "curve.csv", "samples": "samples.parquet", "metrics": "distill.json"}
    names = {"split": "train", "kept": "kept.parquet", "dev": "dev", "params": "params.yaml"}
    names |= {name: f"{store}-out/{path}" for name, path in out.items()} | {"speed": f"{store}-speed.json"}
    words = [word for name, value in names.items() for word in (f"--{name}", value)]
    environment = {**os.environ, "STILLSMALL_CACHE": str(folder / store)}
    return subprocess.Popen(
        [sys.executable, *before, str(ROOT / "stages/distill.py"), *words], cwd=folder, env=environment,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.timeout(300)
def test_killed_with_everything_on_it_ends_with_the_same_bytes(tmp_path):
    corpus(tmp_path)
    dev(tmp_path)
    changes = {"distill.steps": 40, "distill.keep": "best", "distill.patience": 30, "student.freeze_encoder": False}
    write_params(tmp_path / "params.yaml", **CHANGES | EVERY | changes)
    undisturbed = program(tmp_path, "undisturbed")
    _, said = undisturbed.communicate()
    assert undisturbed.returncode == 0, said
    killed = program(tmp_path, "killed")
    while killed.poll() is None and not any(
        int(p.name.split("-")[1]) >= 15 for p in (tmp_path / "killed" / "distill").glob("*/step-*")
    ):
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    _, said = (again := program(tmp_path, "killed")).communicate()
    assert again.returncode == 0 and "going on at step" in said
    assert contents(tmp_path / "killed-out") == contents(tmp_path / "undisturbed-out")
    assert "dev_wer" in (tmp_path / "killed-out" / "curve.csv").read_text()
