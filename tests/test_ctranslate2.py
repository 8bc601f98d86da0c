"""The CTranslate2 backend says what the transformers backend says, on the embedded teacher and on a tiny model."""

import itertools

import numpy as np
import pytest

import tiny
from small import ROOT, params, split, tone
from stillsmall import cache, evaluation
from stillsmall.config import Run
from stillsmall.speech_lab.corpus import clips
from stillsmall.teachers import ctranslate2 as backend
from stillsmall.teachers.base import Clip
from stillsmall.teachers.ctranslate2 import CTranslate2Teacher
from stillsmall.teachers.transformers import TransformersTeacher

RUN = Run(seed=1, threads=1)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "ROOT", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.whisper(tmp_path_factory.mktemp("models") / "teacher")


def teacher(kind, models=ROOT / "models/demo", **changes):
    changes = {"device": "cpu", "compute_type": "float32", "batch_size": 16, **changes}
    return kind(params().pseudo_label.model_copy(update=changes), RUN, models, "pseudo_label")


@pytest.fixture(scope="module")
def spoken():
    return [Clip(str(i), clip.audio, "en") for i, clip in enumerate(clips("en-us", "test", 24, seed=3))]


@pytest.mark.parametrize("timestamps", [False, True])
def test_the_text_is_the_transformers_backends_for_the_same_options(spoken, timestamps):
    ours, theirs = (
        [rows[0] for rows in teacher(kind, timestamps=timestamps).transcribe(spoken)]
        for kind in (CTranslate2Teacher, TransformersTeacher)
    )
    same = [a.text == b.text for a, b in zip(ours, theirs, strict=True)]
    assert sum(same) / len(same) >= 0.95
    for a, b, alike in zip(ours, theirs, same, strict=True):
        if alike and a.tokens == b.tokens:
            assert a.mean_logprob == pytest.approx(b.mean_logprob, abs=0.02)
            assert a.mean_entropy == pytest.approx(b.mean_entropy, abs=0.05)
            assert a.no_speech_prob == pytest.approx(b.no_speech_prob, abs=1e-3)
            assert a.heard_language == b.heard_language
            assert a.heard_language_prob == pytest.approx(b.heard_language_prob, abs=1e-3)
            assert len(a.token_logprob) == len(a.tokens)


def test_a_long_recording_is_read_alike_and_chunks_are_measured_by_their_words():
    clip = next(iter(clips("en-long", "test", 1, seed=2)))
    long = [Clip("long", clip.audio[: 16000 * 20], "en")]
    ours, theirs = (teacher(kind).transcribe(long)[0] for kind in (CTranslate2Teacher, TransformersTeacher))
    assert [(row.start_s, row.end_s, row.text) for row in ours] == [(r.start_s, r.end_s, r.text) for r in theirs]
    assert all(row.token_logprob is None and row.mean_logprob < 0 for row in ours)


def test_quiet_cuts_cover_every_second_of_a_recording():
    long = [Clip("long", np.concatenate([tone(4.0, 300 + 50 * i, i) for i in range(3)]), "en")]
    rows = teacher(CTranslate2Teacher, long_form="chunked").transcribe(long)[0]
    assert rows[0].start_s == 0.0 and rows[-1].end_s == pytest.approx(12.0)
    assert all(a.end_s == pytest.approx(b.start_s) for a, b in itertools.pairwise(rows))


def test_a_model_is_converted_once_and_int8_is_another_conversion(folder, monkeypatch):
    first = teacher(CTranslate2Teacher, folder.parent)
    assert {"model.bin", "tokenizer.json", "preprocessor_config.json"} <= {p.name for p in first.folder.iterdir()}
    monkeypatch.setattr(backend.ctranslate2.converters, "TransformersConverter", None)
    assert teacher(CTranslate2Teacher, folder.parent).folder == first.folder
    monkeypatch.undo()
    assert teacher(CTranslate2Teacher, folder.parent, compute_type="int8").folder != first.folder


def test_a_conversion_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    other = tiny.whisper(tmp_path / "teacher", seed=5)

    def broken(self, where, **_):
        from pathlib import Path

        Path(where).mkdir()
        (Path(where) / "model.bin").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backend.ctranslate2.converters.TransformersConverter, "convert", broken)
    before = sorted((cache.ROOT / "ctranslate2").glob("*"))
    with pytest.raises(OSError, match="No space left"):
        teacher(CTranslate2Teacher, other.parent)
    assert sorted((cache.ROOT / "ctranslate2").glob("*")) + sorted((cache.ROOT / "ctranslate2").glob(".*")) == before


def test_a_tiny_model_and_an_unknown_language(folder):
    rows = teacher(CTranslate2Teacher, folder.parent, max_new_tokens=12).transcribe([Clip("x", tone(1.0), None)])[0]
    assert rows[0].language in tiny.LANGUAGES and rows[0].language == rows[0].heard_language
    assert len(rows[0].tokens) <= 13


WILD = {"temperatures": [0.0, 0.6], "logprob_threshold": -1e-6, "no_speech_threshold": None}


@pytest.mark.parametrize("timestamps", [False, True])
def test_samples_are_those_of_the_transformers_backend(spoken, timestamps):
    ours, theirs = (
        [rows[0] for rows in teacher(kind, timestamps=timestamps, **WILD).transcribe(spoken)]
        for kind in (CTranslate2Teacher, TransformersTeacher)
    )
    assert sum(a.tokens == b.tokens for a, b in zip(ours, theirs, strict=True)) >= 22
    greedy = [rows[0] for rows in teacher(CTranslate2Teacher, timestamps=timestamps).transcribe(spoken)]
    assert any(a.tokens != b.tokens for a, b in zip(ours, greedy, strict=True))


def test_samples_depend_on_the_seed_and_the_utterance_and_not_on_those_before_it(folder):
    clips = [Clip(f"c{i}", tone(s, 200 + 90 * i, i), "en") for i, s in enumerate([1.0, 0.4, 1.9])]
    made = teacher(CTranslate2Teacher, folder.parent, max_new_tokens=12, **WILD | {"temperatures": [0.0, 1.5]})
    forwards = [rows[0].tokens for rows in made.transcribe(clips)]
    assert forwards == [made.transcribe([clip])[0][0].tokens for clip in clips[::-1]][::-1]
    made.decoder.seed = 2
    assert forwards != [rows[0].tokens for rows in made.transcribe(clips)]


def test_the_torch_decoder_is_loaded_when_a_text_is_bad_and_not_before(spoken):
    sure = teacher(
        CTranslate2Teacher, temperatures=[0.0, 0.4], logprob_threshold=None, compression_ratio_threshold=None
    )
    sure.detects = True
    sure._heard_languages = lambda states: [None] * states.shape[0]  # these models detect languages in torch
    sure.transcribe(spoken[:3])
    assert sure._torch is None
    wild = teacher(CTranslate2Teacher, **WILD)
    wild._heard_languages = sure._heard_languages
    wild.transcribe(spoken[:1])
    assert wild._torch is not None and "encoder" not in dict(wild._torch.model.model.named_children())


@pytest.mark.parametrize("beams", [1, 3])
def test_the_mean_that_decides_on_another_try_is_that_of_all_tokens(spoken, beams):
    ours = teacher(CTranslate2Teacher, timestamps=False, num_beams=beams)
    theirs = teacher(TransformersTeacher, timestamps=False)
    requests = [ours._request(clip, False) for clip in spoken[:8]]
    pairs = list(zip(ours.decode(requests, 0.0), theirs.decode(requests, 0.0), strict=True))
    same = [(a, b) for a, b in pairs if a.tokens == b.tokens]
    assert len(same) >= 4
    for a, b in same:
        assert a.mean_logprob == pytest.approx(np.mean(b.token_logprob), abs=0.02)
        assert (a.token_logprob is None) == (beams > 1) and a.surety == pytest.approx(b.surety, abs=0.02)
    rows = [found[0] for found in ours.transcribe(spoken[:8])]
    assert all(row.mean_logprob is not None and row.mean_logprob < 0 for row in rows)


def test_a_conversion_has_the_models_parameters_and_int8_takes_less_room(folder):
    ours = teacher(CTranslate2Teacher, folder.parent)
    parameters, size = teacher(TransformersTeacher, folder.parent).size()
    assert ours.size()[0] == parameters
    assert 0.9 * size < ours.size()[1] < 1.2 * size  # another format with names of its own
    assert teacher(CTranslate2Teacher, folder.parent, compute_type="int8").size()[1] < ours.size()[1]


def test_evaluation_times_this_backend_too(folder, tmp_path):
    made = params(**{"models.root": str(folder.parent), "evaluate.backend": "ctranslate2", "evaluate.speed_rounds": 1})
    made = made.model_copy(update={"evaluate": made.evaluate.model_copy(update={"max_new_tokens": 4, "device": "cpu"})})
    found = evaluation.speed(made, split(tmp_path / "test", [{}, {}]), folder)
    assert found["clips"] == 2 and found["teacher"]["parameters"] == found["student"]["parameters"] > 0
