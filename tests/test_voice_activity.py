"""Speech and silence by frame: hand-made signals, stretches, the cache, and a kill."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from small import ROOT, tone
from stillsmall import audio, cache, manifest, voice_activity
from stillsmall.speech_lab import espeak

LIMITS = (0.5, 40.0)


def shard(folder, clips):
    path = folder / "shards" / "shard-00000.parquet"
    rows = [{"utt_id": name, "audio": audio.encode_flac(samples)} for name, samples in clips.items()]
    manifest.write(path, rows, manifest.AUDIO)
    return path


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    return tmp_path


def test_level_is_the_rms_of_each_frame_in_db_below_full_scale():
    samples = np.concatenate([np.full(512, 0.1), np.full(512, 1.0), np.zeros(512), np.full(100, 0.1)])
    assert voice_activity.levels(samples.astype(np.float32)).tolist() == [20, 0, 255, 20]  # the last is part of a frame
    assert voice_activity.levels(np.zeros(0, np.float32)).tolist() == []


def test_shares_are_those_of_the_stretch_and_silence_is_relative_to_the_whole_utterance():
    level, speech = bytes([20, 61, 59, 255]), bytes([255, 127, 128, 0])
    assert voice_activity.shares((level, speech), 0.0, 4 * 0.032, *LIMITS) == (0.5, 0.5)
    assert voice_activity.shares((level, speech), 0.032, 0.064, *LIMITS) == (0.0, 1.0)
    assert voice_activity.shares((level, speech), 0.064, 0.096, *LIMITS) == (1.0, 0.0)
    assert voice_activity.shares((level, None), 0.0, 0.128, *LIMITS) == (None, 0.5)
    assert voice_activity.shares((b"", b""), 0.0, 0.0, *LIMITS) == (None, None)


def test_speech_is_heard_and_silence_noise_and_tones_are_not(root):
    noise = np.random.default_rng(0).normal(0, 0.02, 32_000).astype(np.float32)
    said = espeak.speak("the old clock in the kitchen is broken again", "en-us")
    quiet = np.zeros(32_000, np.float32)
    clips = {"quiet": quiet, "noise": noise, "tone": tone(2.0), "said": said, "half": np.concatenate([said, quiet])}
    found = voice_activity.measured(shard(root, clips), "silero")
    shares = {name: voice_activity.shares(found[name], 0.0, len(x) / 16_000, *LIMITS) for name, x in clips.items()}
    assert shares["quiet"] == (0.0, 1.0)
    assert shares["noise"][0] < 0.1 and shares["noise"][1] == 0.0
    assert shares["tone"][0] < 0.1
    assert shares["said"][0] > 0.7
    end = len(said) / 16_000
    assert voice_activity.shares(found["half"], end + 0.5, end + 2.0, *LIMITS) == (0.0, 1.0)
    assert voice_activity.shares(found["half"], 0.0, end, *LIMITS)[0] > 0.7


def test_what_is_measured_once_is_read_from_then_on(root, monkeypatch):
    path = shard(root, {"a": tone(1.0), "b": tone(0.5)})
    first = voice_activity.measured(path, "silero")
    assert len(first["a"][0]) == len(first["a"][1]) == 32  # 16,000 samples: 31 frames and a part
    monkeypatch.setattr(voice_activity, "_activity", lambda *_: pytest.fail("measured again"))
    assert voice_activity.measured(path, "silero") == first
    monkeypatch.undo()


def test_by_energy_no_model_is_asked(root, monkeypatch):
    monkeypatch.setattr(voice_activity, "_model", lambda: pytest.fail("the model was loaded"))
    level, speech = voice_activity.measured(shard(root, {"a": tone(1.0)}), "energy")["a"]
    assert len(level) == 32 and speech is None


SCRIPT = "import sys; from pathlib import Path; from stillsmall import voice_activity as v;\
[v.measured(p, 'silero') for p in sorted(Path(sys.argv[1]).rglob('shard-*.parquet'))]"


def test_a_kill_in_the_middle_leaves_whole_files_and_the_next_run_ends_with_the_same_bytes(tmp_path, monkeypatch):
    for number in range(1, 7):
        clips = {f"{number}/{n}": tone(8.0, 100 + 10 * n, n) for n in range(2)}
        shard(tmp_path, clips).rename(tmp_path / "shards" / f"shard-{number:05d}.parquet")

    def run(name):
        environment = {**os.environ, "STILLSMALL_CACHE": str(tmp_path / name), "PYTHONPATH": str(ROOT / "src")}
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "shards")], env=environment)

    def bytes_of(name):
        return {path.name: path.read_bytes() for path in sorted((tmp_path / name).rglob("*.parquet"))}

    monkeypatch.setattr(cache, "ROOT", tmp_path / "whole")
    for path in sorted((tmp_path / "shards").iterdir()):
        voice_activity.measured(path, "silero")
    killed = run("killed")
    while not bytes_of("killed"):
        assert killed.poll() is None
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert 1 <= len(bytes_of("killed")) < 6 and bytes_of("killed").items() <= bytes_of("whole").items()
    assert run("killed").wait() == 0
    assert bytes_of("killed") == bytes_of("whole") and len(bytes_of("whole")) == 6
