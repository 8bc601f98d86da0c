"""The making of the embedded models goes on where it was killed, and ends with the same bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from small import ROOT

DEMO = ROOT / "models/demo"
DRIVER = """
import os, sys
from dataclasses import replace
from pathlib import Path

demo, work, kill_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
sys.path.insert(0, demo)
import shapes

shapes.WORK, shapes.WINDOWS, shapes.HELD_OUT = work, 24, 8
tiny = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "steps": 5, "batch": 4, "easy_steps": 0}
shapes.SHAPES["teacher"] = replace(shapes.SHAPES["teacher"], **tiny)
import torch

import corpus

torch.set_num_threads(1)
corpus.SHARD = 8
(work / "windows").mkdir(exist_ok=True)
for first in range(0, 24, 8):
    corpus._shard(first)
    if kill_at == 0 and first == 8:
        os._exit(9)
import train

train.SAVE_EVERY, train.LOOK_EVERY, train.PRINT_EVERY = 2, 5, 5
run = train.Run(shapes.SHAPES["teacher"])
print("from step", run.step)
advance = run.advance
def advance_or_die():
    if run.step == kill_at:
        os._exit(9)
    return advance()
run.advance = advance_or_die
run.finish()
"""
NEVER = -1


def build(work: Path, kill_at: int) -> subprocess.CompletedProcess[str]:
    """The windows and five steps of a tiny teacher, killed before step `kill_at`; 0: while windows are made."""
    if not work.is_dir():
        work.mkdir()
        shutil.copytree(DEMO / "teacher", work / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
    command = [sys.executable, "-c", DRIVER, str(DEMO), str(work), str(kill_at)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.timeout(180)
def test_a_killed_build_of_the_demo_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole", NEVER)
    assert whole.returncode == 0, whole.stderr
    work = tmp_path / "killed"
    assert build(work, 0).returncode == 9
    done = {path.name: path.stat().st_mtime_ns for path in (work / "windows").iterdir()}
    assert "000008.json" in done and "000016.json" not in done
    (work / "windows/000016.npy").write_bytes(b"half a sh")  # as a kill between the two files of a shard leaves it
    assert build(work, 3).returncode == 9
    assert {name: (work / "windows" / name).stat().st_mtime_ns for name in done} == done  # finished shards are kept
    last = build(work, NEVER)
    assert (last.returncode, last.stdout) == (0, "from step 2\n"), last.stderr
    for path in sorted((tmp_path / "whole").rglob("*")):
        if path.is_file() and path.name != "log.jsonl":
            assert path.read_bytes() == (work / path.relative_to(tmp_path / "whole")).read_bytes(), path.name
    steps = [json.loads(line)["step"] for line in (work / "teacher/log.jsonl").read_text().splitlines()]
    assert steps == [5, 5]
