"""`transcribe_files` on a tiny Whisper: any form, any length, times on the file's own clock."""

import numpy as np
import pytest
import soundfile

import tiny
from small import tone
from stillsmall import transcription
from stillsmall.audio import AudioError
from stillsmall.compute import ModelError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.whisper(tmp_path_factory.mktemp("m") / "student")


def transcribe(path, model, **options):
    settings = {"language": "en", "timestamps": True, "device": "cpu", "threads": 1, **options}
    return next(transcription.transcribe_files([path], str(model), **settings))


def test_a_stereo_file_of_another_rate_is_heard(tmp_path, model):
    stereo = np.stack([tone(1.5, 300), tone(1.5, 500)], axis=1)
    soundfile.write(tmp_path / "a.ogg", stereo, 16000)
    path, segments, text = transcribe(tmp_path / "a.ogg", model)
    assert path == tmp_path / "a.ogg"
    assert all(0 <= s["start"] <= s["end"] <= 1.51 for s in segments)
    assert text == " ".join(s["text"] for s in segments)


def test_a_file_longer_than_a_piece_is_heard_to_its_end_on_one_clock(tmp_path, model, monkeypatch):
    monkeypatch.setattr(transcription, "PIECE_S", 4.0)
    samples = np.concatenate([tone(2.5, 200 + 150 * i, i) for i in range(4)])
    soundfile.write(tmp_path / "long.flac", samples, 16000)
    _, segments, _ = transcribe(tmp_path / "long.flac", model)
    starts = [s["start"] for s in segments]
    assert starts == sorted(starts)
    assert starts[-1] > 6.0 and segments[-1]["end"] <= 10.01


def test_a_language_can_be_detected(tmp_path, model):
    soundfile.write(tmp_path / "a.wav", tone(1.0), 16000)
    assert transcribe(tmp_path / "a.wav", model, language=None)[0].name == "a.wav"


def test_what_is_no_audio_or_no_model_is_said_so(tmp_path, model):
    (tmp_path / "a.wav").write_text("not audio")
    with pytest.raises(AudioError):
        transcribe(tmp_path / "a.wav", model)
    soundfile.write(tmp_path / "b.wav", tone(1.0), 16000)
    with pytest.raises(ModelError, match="no folder 'nowhere'"):
        transcribe(tmp_path / "b.wav", "nowhere")
