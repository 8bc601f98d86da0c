"""Preparing is killed, runs out of disk or loses a worker: finished work stays, and nothing half is left."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from heaps import STAGE, heap, params, rows, run, speak, tree
from stillsmall import cache, preparation
from stillsmall.preparation import PreparationError
from stillsmall.sources import shards


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")


def test_a_finished_shard_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = heap(tmp_path, "a", 12)
    run(tmp_path, source)
    made: list[Path] = []
    write = shards._write
    monkeypatch.setattr(
        shards, "_write", lambda batch, settings, folder: (made.append(folder), write(batch, settings, folder))
    )
    run(tmp_path, source)
    assert made == []
    speak(tmp_path / "data/a/11.wav", 1.0, seed=99)
    run(tmp_path, source)
    assert len(made) == 1


@pytest.mark.parametrize("name", ["shard-*.parquet", "batch.json"])
def test_finished_work_that_someone_has_thinned_out_is_made_again(tmp_path: Path, name: str) -> None:
    source = heap(tmp_path, "a", 12)
    run(tmp_path, source)
    before = tree(tmp_path / "out")
    for path in (tmp_path / "cache").rglob(name):
        path.unlink()
    run(tmp_path, source)
    assert tree(tmp_path / "out") == before


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    for number in range(24):
        speak(tmp_path / f"data/a/{number:02d}.wav", 8, number, 44_100)
    source = {"name": "a", "kind": "recordings", "split": "train", "path": "a", "language": "en"}
    paths = [
        "--params",
        params(tmp_path, source, workers=2, shard_utterances=3),
        "--metrics",
        tmp_path / "m.json",
        "--out",
        tmp_path / "out",
    ]
    kept = tmp_path / "kept/prepare"
    environment = os.environ | {"STILLSMALL_CACHE": str(tmp_path / "kept")}
    process = subprocess.Popen([sys.executable, STAGE, *paths], env=environment, stderr=subprocess.DEVNULL)
    while not (finished := sorted(kept.glob("[!.]*/batch.json"))) and process.poll() is None:
        time.sleep(0.005)
    workers = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert finished
    assert not (tmp_path / "out").exists()
    _wait_until_gone(workers)
    stamps = {path: path.stat().st_mtime_ns for path in finished}
    done = subprocess.run([sys.executable, STAGE, *paths], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == stamps
    assert not list(kept.glob(".*"))
    run(tmp_path, source, out="undisturbed", shard_utterances=3)
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait_until_gone(pids: list[int]) -> None:
    """Workers end when their parent is killed."""
    deadline = time.monotonic() + 10
    while alive := [pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists() and _running(pid)]:
        assert time.monotonic() < deadline, f"workers outlive their parent: {alive}"
        time.sleep(0.05)


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_leftovers_of_a_killed_process_are_cleared_and_of_a_living_one_are_not(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    folder = tmp_path / "batches/abc"
    names = [f".abc.{dead.pid}.partial", f".abc.{os.getpid()}.partial"]
    for name in names:
        (folder.parent / name).mkdir(parents=True)
    shards._clear_leftovers(folder)
    assert [path.name for path in folder.parent.iterdir()] == names[1:]


def test_leftovers_of_a_killed_process_that_nobody_has_waited_for_are_cleared(tmp_path: Path) -> None:
    zombie = subprocess.Popen(["sleep", "60"])
    zombie.kill()
    while _running(zombie.pid):
        time.sleep(0.01)
    (tmp_path / f".abc.{zombie.pid}.partial").mkdir()
    shards._clear_leftovers(tmp_path / "abc")
    assert not list(tmp_path.iterdir())
    zombie.wait()


@pytest.mark.parametrize("where", ["shard", "publish"])
def test_a_full_disk_is_said_with_the_path_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    source = heap(tmp_path, "a", 12)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if where == "shard":
            patch.setattr(shards.pq.ParquetWriter, "write_table", full)
        else:
            patch.setattr(preparation.shutil, "copyfile", full)
        with pytest.raises(PreparationError) as caught:
            run(tmp_path, source)
    assert str(tmp_path / ("cache/prepare" if where == "shard" else "out")) in str(caught.value)
    assert "the disk is full (No space left on device)" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert not list(tmp_path.rglob("*.partial"))
    assert where == "publish" or not list(tmp_path.rglob("*.parquet"))
    run(tmp_path, source)
    assert len(rows(tmp_path)) == 12


def test_a_dead_worker_is_said_in_words(tmp_path: Path) -> None:
    class Deadly:
        def __len__(self) -> int:
            return 1

        def __reduce__(self) -> tuple[Any, ...]:
            return os._exit, (9,)

    with pytest.raises(PreparationError, match="a worker process died"):
        list(preparation._results([(0, Deadly(), None)], workers=2))  # type: ignore[list-item]
