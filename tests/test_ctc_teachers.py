"""CTC models that label: greedy units with their measures, times from frames, nothing cut, nothing imitated."""

import itertools
import math
import re

import numpy as np
import pytest
import torch

import tiny_ctc
from small import params, split, tone
from stillsmall import ctc, labelling, manifest
from stillsmall.compute import ModelError
from stillsmall.config import ConfigError, Run, Transcribe
from stillsmall.labelling import Labelling
from stillsmall.teachers import batching
from stillsmall.teachers.base import Clip, Failed
from stillsmall.teachers.ctc import CtcTeacher, _decoded
from stillsmall.teachers.transformers import teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_ctc.ctc(tmp_path_factory.mktemp("m") / "wav2vec2")


def made(folder, **changes):
    given = {**params().pseudo_label.model_dump(), "model": folder.name, "device": "cpu", **changes}
    return teacher(Transcribe(**given), Run(seed=1, threads=1), folder.parent, "pseudo_label")


CLIPS = [Clip(f"c{i}", tone(0.5 + 0.3 * i, 200 + 90 * i, i), "en") for i in range(5)]


def test_the_path_of_frames_is_read_by_hand():
    # blank is 0; frames 7 7 0 7 3: two sevens with a blank between them, then a three
    one = _decoded([7, 7, 0, 7, 3], [-0.5, -0.2, -0.1, -0.3, -0.4], [1.0, 2.0, 3.0, 4.0, 5.0], 0)
    assert one.tokens == (7, 7, 3) and one.spans == ((0, 1), (3, 3), (4, 4))
    assert one.logprob == (-0.2, -0.3, -0.4) and one.entropy == (2.0, 4.0, 5.0)
    assert _decoded([0, 0], [0.0, 0.0], [0.0, 0.0], 0).tokens == ()


def test_text_is_that_of_the_tokenizer_on_the_likeliest_units(folder):
    judge = made(folder)
    assert isinstance(judge, CtcTeacher)
    for clip, rows in zip(CLIPS, judge.transcribe(CLIPS), strict=True):
        (row,) = rows
        with torch.no_grad():
            logits = judge.model(ctc.waveforms(judge.processor.feature_extractor, [clip.audio])).logits
        said = judge.processor.batch_decode(logits.argmax(-1))[0]  # its skip_special_tokens would join "L-L" to "L"
        assert row.text == " ".join(re.sub("<.*?>", "", said).lower().split()) and row.text
        assert (row.utt_id, row.parent, row.language, row.end_s) == (clip.utt_id, clip.utt_id, "en", clip.duration_s)


def test_measures_are_nats_per_unit_and_what_such_a_model_lacks_is_null(folder):
    judge = made(folder)
    for clip in CLIPS:
        (row,) = judge.transcribe([clip])[0]
        with torch.no_grad():
            scores = judge.model(ctc.waveforms(judge.processor.feature_extractor, [clip.audio])).logits.log_softmax(-1)
        shape = torch.tensor([scores.shape[1]]), torch.tensor([len(row.tokens)])
        loss = torch.nn.functional.ctc_loss(scores.transpose(0, 1), torch.tensor([row.tokens]), *shape, reduction="sum")
        assert row.mean_logprob == pytest.approx(-float(loss) / len(row.tokens), rel=1e-3)
        assert row.mean_logprob * len(row.tokens) >= float(scores.max(-1).values.sum()) - 1e-3  # more than one path
        assert len(row.token_logprob) == len(row.token_entropy) == len(row.tokens)
        assert row.mean_entropy == pytest.approx(np.mean(row.token_entropy))
        assert row.no_speech_prob is row.heard_language is row.heard_language_prob is None


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_neither_order_nor_batches_change_a_text(tmp_path, norm):
    folder = tiny_ctc.ctc(tmp_path / "m", "wav2vec2-conformer", norm)
    texts = [[rows[0].text for rows in made(folder, batch_size=n).transcribe(CLIPS)] for n in (1, 2, 5)]
    assert texts[0] == texts[1] == texts[2]
    assert [rows[0].text for rows in made(folder).transcribe(CLIPS[::-1])] == texts[0][::-1]


def test_a_long_recording_is_cut_at_quiet_places_and_nothing_is_lost(folder, monkeypatch):
    monkeypatch.setattr(CtcTeacher, "window_s", 1.0)
    clip = Clip("r", np.concatenate([tone(0.7, 200 + 40 * i, i) for i in range(6)]), "en")
    rows = made(folder).transcribe([clip, CLIPS[0]])[0]
    assert len(rows) > 4 and rows[0].start_s == 0.0 and rows[-1].end_s == pytest.approx(clip.duration_s)
    assert all(a.end_s == pytest.approx(b.start_s) for a, b in itertools.pairwise(rows))
    assert all(row.parent == "r" and row.utt_id == f"r#{round(row.start_s * 1000):08d}" for row in rows)
    assert all(row.end_s - row.start_s <= 1.0 for row in rows)


def test_a_clip_shorter_than_a_frame_is_heard_as_what_it_is(folder):
    (row,) = made(folder).transcribe([Clip("s", tone(0.005), None)])[0]
    assert row.end_s == 0.005 and len(row.tokens) <= 1 and row.language == manifest.UNDETERMINED


def spoken(folder, monkeypatch, path, **changes):
    """Hypotheses of a model that says `path`, a unit a frame, whatever it hears."""
    judge = made(folder, **changes)
    logits = torch.full((1, len(path), 32), -20.0)
    for at, unit in enumerate(path):
        logits[0, at, {"-": 0, " ": 4}.get(unit, 5 + ord(unit) - ord("A"))] = 20.0
    monkeypatch.setattr(ctc, "forward", lambda *_: (logits, None))
    (row,) = judge.transcribe([Clip("c", tone((len(path) - 1) * 0.02 + 0.035), "en")])[0]
    return row


def test_segments_are_what_stands_between_pauses_timed_by_frames(folder, monkeypatch):
    row = spoken(folder, monkeypatch, "-AA B" + "-" * 26 + " C", timestamps=True)  # frames of 20 ms; C is the 33rd
    assert [(s.start, s.end, s.text) for s in row.segments] == [(0.02, 0.1, "a b"), (0.64, 0.66, "c")]
    for path in ("-AA B" + "-" * 22 + " C", "-AA B" + "-" * 26 + "C"):  # too short a pause, or one within a word
        assert len(spoken(folder, monkeypatch, path, timestamps=True).segments) == 1
    whole = spoken(folder, monkeypatch, "A-B", timestamps=False)
    assert [(s.start, s.text) for s in whole.segments] == [(0.0, "ab")]


def test_a_certain_model_has_no_doubt_and_a_silent_one_no_measures(folder, monkeypatch):
    sure = spoken(folder, monkeypatch, "A-B")
    assert sure.mean_logprob == pytest.approx(0.0, abs=1e-6) and sure.mean_entropy == pytest.approx(0.0, abs=1e-6)
    silent = spoken(folder, monkeypatch, "---")
    assert (silent.text, silent.segments, silent.tokens, silent.mean_logprob) == ("", (), (), None)


def test_batches_are_halved_when_memory_runs_out(folder, monkeypatch, capsys):
    judge, decode = made(folder, batch_size=4), CtcTeacher.decode

    def full(self, audio):
        if len(audio) > 1:
            raise RuntimeError("CUDA out of memory")
        return decode(self, audio)

    monkeypatch.setattr(CtcTeacher, "decode", full)
    assert not any(isinstance(rows, Failed) for rows in judge.transcribe(CLIPS))
    assert "pseudo_label.batch_size: memory ran out; 1 works" in capsys.readouterr().err
    assert judge.batches.size == 1 and batching.NO_MEMORY.search("out of memory")


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("num_beams", 5, "give 1"),
        ("temperatures", [0.0, 0.2], r"give \[0\.0\]"),
        ("task", "translate", "give 'transcribe'"),
        ("condition_on_previous_text", True, "give False"),
        ("max_new_tokens", 40, "give null"),
        ("language", "detect", "per_utterance"),
    ],
)
def test_what_a_ctc_model_lacks_is_refused(folder, name, value, instead):
    with pytest.raises(ConfigError, match=rf"pseudo_label\.{name}: got .*is a CTC model.*{instead}"):
        made(folder, **{name: value})


def test_other_backends_and_other_layers_are_refused(folder, tmp_path):
    from stillsmall.teachers.ctranslate2 import CTranslate2Teacher

    config = Transcribe(**{**params().pseudo_label.model_dump(), "model": folder.name, "backend": "ctranslate2"})
    with pytest.raises(ConfigError, match=r"pseudo_label\.backend: got 'ctranslate2'; wav2vec2 is a CTC model"):
        CTranslate2Teacher(config, Run(seed=1, threads=1), folder.parent, "pseudo_label")
    with pytest.raises(ModelError, match="add_adapter"):
        made(tiny_ctc.ctc(tmp_path / "m", add_adapter=True, output_hidden_size=32))


def test_it_labels_and_validates_in_resumable_shards(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling.cache, "ROOT", tmp_path / "cache")
    data = split(tmp_path / "train", [{} for _ in range(6)])
    config = Transcribe(**{**params().pseudo_label.model_dump(), "model": folder.name, "device": "cpu"})
    how = Labelling(config, Run(seed=1, threads=1), str(folder.parent), "pseudo_label")
    assert labelling.transcribe(labelling.utterances(data), how, tmp_path / "labels", tmp_path / "failed.parquet") == 2
    assert labelling.transcribe(labelling.utterances(data), how, tmp_path / "labels") == 0
    rows = manifest.rows(tmp_path / "labels", manifest.HYPOTHESIS)
    assert len(rows) == 6 and all(math.isfinite(row["mean_logprob"]) for row in rows if row["text"])
    check = Labelling(config.model_copy(update={"timestamps": False}), how.run, how.models_root, "validate")
    labelling.transcribe(labelling.chunks(data, tmp_path / "labels"), check, tmp_path / "validations")
    again = manifest.rows(tmp_path / "validations", manifest.HYPOTHESIS)
    assert [(r["utt_id"], r["text"]) for r in again] == [(r["utt_id"], r["text"]) for r in rows]
