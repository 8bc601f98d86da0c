"""Windows of a clip's own length: the log-mel, the encoder's states, the batches, and the name of what is made."""

import copy

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

import tiny
from small import ROOT, params, tone
from stillsmall import cache, labelling
from stillsmall.config import ConfigError, Run, Transcribe, parse
from stillsmall.labelling import Job, Labelling
from stillsmall.speech_lab.corpus import clips
from stillsmall.teachers import window
from stillsmall.teachers.base import Clip
from stillsmall.teachers.ctranslate2 import CTranslate2Teacher
from stillsmall.teachers.transformers import TransformersTeacher

EXTRACTOR = WhisperFeatureExtractor(feature_size=80, chunk_length=30)
BACKENDS = (TransformersTeacher, CTranslate2Teacher)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "ROOT", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.whisper(tmp_path_factory.mktemp("models") / "teacher")


def teacher(folder, kind=TransformersTeacher, **changes):
    changes = {"device": "cpu", "compute_type": "float32", "max_new_tokens": 10, **changes}
    config = params().pseudo_label.model_copy(update=changes)
    return kind(config, Run(seed=1, threads=1), folder.parent, "pseudo_label")


CLIPS = [Clip(f"c{i}", tone(s, 200 + 90 * i, i), "en") for i, s in enumerate([0.9, 0.4, 1.9, 0.7, 1.2])]


@pytest.mark.parametrize(
    ("seconds", "margin", "expected"),
    [(2.4, None, 30), (2.4, 0.0, 3), (3.0, 0.0, 3), (2.4, 1.0, 4), (29.5, 1.0, 30), (30.0, 0.0, 30), (0.0, 0.0, 1)],
)
def test_a_window_is_the_clip_with_its_margin_in_whole_seconds_up_to_the_models_own(seconds, margin, expected):
    assert window.samples_for(round(seconds * 16000), margin, 30 * 16000) == expected * 16000


@pytest.mark.parametrize("seconds", [(0.3, 2.99, 2.1), (3.0,), (0.01, 1.0)])
def test_the_log_mel_is_that_of_the_whole_window_cut_where_the_clip_ends(seconds):
    audio = [tone(s, 150 + 100 * i, i) for i, s in enumerate(seconds)]
    whole = EXTRACTOR(audio, sampling_rate=16000, return_tensors="np").input_features
    for samples in (3 * 16000, 4 * 16000, 30 * 16000):
        made = window.log_mel(EXTRACTOR, audio, samples)
        assert made.shape == (len(audio), 80, samples // 160) and made.dtype == np.float32
        np.testing.assert_allclose(made, whole[..., : samples // 160], atol=2e-6)


def test_that_log_mel_is_not_the_one_of_the_clip_alone_at_its_end():
    audio = [tone(3.0)]
    alone = EXTRACTOR(audio, sampling_rate=16000, max_length=48000, return_tensors="np").input_features
    assert np.abs(window.log_mel(EXTRACTOR, audio, 48000) - alone)[..., -2:].max() > 1e-3


def encoders(folder, positions, dtype):
    """A narrowed view of the tiny model's encoder, and one built with that many positions and the same weights."""
    encoder = teacher(folder, dtype=dtype).model.get_encoder()
    config = copy.deepcopy(encoder.config)
    config.max_source_positions = positions
    built = WhisperEncoder(config).to(encoder.conv1.weight.dtype).eval()
    weights = encoder.state_dict()
    built.load_state_dict({**weights, "embed_positions.weight": weights["embed_positions.weight"][:positions]})
    return encoder, window.narrowed(encoder, positions), built


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("positions", [1, 50, 99])
def test_a_narrowed_encoder_is_one_built_with_that_many_positions(folder, positions, dtype):
    encoder, view, built = encoders(folder, positions, dtype)
    features = torch.randn(2, 80, 2 * positions, generator=torch.manual_seed(1)).to(encoder.conv1.weight.dtype)
    with torch.no_grad():
        assert torch.equal(view(features).last_hidden_state, built(features).last_hidden_state)


def test_the_encoder_itself_stays_as_it_was_and_nothing_is_copied(folder):
    encoder, view, _ = encoders(folder, 50, "float32")
    assert encoder.config.max_source_positions == 100 and len(encoder.embed_positions.weight) == 100
    assert view.embed_positions.weight.data_ptr() == encoder.embed_positions.weight.data_ptr()
    assert view.layers is encoder.layers and window.narrowed(encoder, 100) is encoder
    with torch.no_grad():
        assert encoder(torch.zeros(1, 80, 200)).last_hidden_state.shape == (1, 100, 32)
    with pytest.raises(ValueError, match="101 positions are asked of an encoder with 100"):
        window.narrowed(encoder, 101)


@pytest.mark.parametrize("changes", [{}, {"num_beams": 2}, {"timestamps": False}])
def test_a_clip_window_says_what_a_model_with_that_window_says(folder, changes):
    """The tiny model hears 2 s; the same weights as a model that hears 1 s say the same to clips of under a second."""
    made = teacher(folder, window="clip", clip_margin_s=0.0, **changes)
    narrow = teacher(folder, **changes)
    narrow.model.model.encoder = window.narrowed(narrow.model.get_encoder(), 50)
    narrow.window_s = 1.0
    short = [clip for clip in CLIPS if clip.duration_s <= 1.0]
    assert [rows[0] for rows in made.transcribe(short)] == [rows[0] for rows in narrow.transcribe(short)]


@pytest.mark.parametrize("window_of", ["clip", "silence"])
@pytest.mark.parametrize("kind", BACKENDS)
def test_a_clips_window_does_not_depend_on_its_company(folder, kind, window_of):
    made = teacher(folder, kind, window=window_of, clip_margin_s=0.0, batch_size=3)
    together = [rows[0].text for rows in made.transcribe(CLIPS)]
    assert together == [made.transcribe([clip])[0][0].text for clip in CLIPS]


@pytest.mark.parametrize("kind", BACKENDS)
def test_both_backends_encode_as_many_positions_as_the_clips_have(folder, kind):
    made = teacher(folder, kind, window="clip", clip_margin_s=0.0)
    shapes = [tuple(made._encode([made._request(clip, False)]).shape) for clip in (CLIPS[1], CLIPS[2])]
    assert shapes == [(1, 50, 32), (1, 100, 32)]
    assert teacher(folder, kind)._encode([made._request(CLIPS[1], False)]).shape[1] == 100


@pytest.mark.parametrize("kind", BACKENDS)
def test_silence_fills_the_window_with_the_states_of_a_silent_one(folder, kind):
    made = teacher(folder, kind, window="silence", clip_margin_s=0.0)
    clip = CLIPS[1]  # 0.4 s: 1 s is encoded, 50 of 100 positions
    features = made.log_mel([made._request(clip, False)])
    whole = EXTRACTOR([clip.audio], sampling_rate=16000, max_length=32000, return_tensors="np").input_features
    floor = round(whole[0, 0, -1] / window.FLOOR_STEP) * window.FLOOR_STEP  # the last frame is padding
    states = plain(made._encode([made._request(clip, False)]))
    own, silent = made._states(features), made._states(np.full((1, 80, 200), floor, np.float32))
    assert states.shape == (1, 100, 32) and whole[0, 0, -1] == pytest.approx(floor, abs=window.FLOOR_STEP / 2 + 1e-6)
    np.testing.assert_allclose(states[:, :50], plain(own), atol=1e-5)
    np.testing.assert_allclose(states[:, 50:], plain(silent)[:, 50:], atol=1e-5)


def plain(states):
    return states.detach().numpy() if isinstance(states, torch.Tensor) else np.array(states)


@pytest.mark.parametrize("kind", BACKENDS)
def test_silence_is_encoded_once_and_a_full_window_has_none(folder, kind, monkeypatch):
    made, seen = teacher(folder, kind, window="silence", clip_margin_s=0.0), []
    encode = made.silence.encode
    monkeypatch.setattr(made.silence, "encode", lambda features: (seen.append(features.shape), encode(features))[1])
    made.transcribe([CLIPS[2]])  # 1.9 s of 2
    assert seen == []
    for _ in range(2):
        made.transcribe([CLIPS[0], CLIPS[1]])
    assert set(seen) == {(1, 80, 200)} and len(seen) == len(made.silence.states) <= 2


@pytest.mark.parametrize("window_of", ["clip", "silence"])
def test_batches_hold_clips_of_one_window_only(folder, monkeypatch, window_of):
    made, seen = teacher(folder, window=window_of, clip_margin_s=0.0), []
    decode = made.decode
    monkeypatch.setattr(made, "decode", lambda rs, t: (seen.append([r.name for r in rs]), decode(rs, t))[1])
    found = made.transcribe(CLIPS)
    assert seen == [["c1", "c3", "c0"], ["c4", "c2"]]  # up to a second, up to two; each by length
    assert [rows[0].utt_id for rows in found] == [clip.utt_id for clip in CLIPS]


@pytest.mark.parametrize("window_of", ["clip", "silence"])
def test_both_backends_say_the_same_in_windows_of_the_clips(window_of):
    spoken = [Clip(str(i), clip.audio, "en") for i, clip in enumerate(clips("en-us", "test", 16, seed=3))]
    short = {"window": window_of, "clip_margin_s": 1.0, "max_new_tokens": None, "timestamps": False}
    ours, theirs = (
        [rows[0].text for rows in teacher(ROOT / "models/demo/teacher", kind, **short).transcribe(spoken)]
        for kind in BACKENDS
    )
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 15


@pytest.mark.parametrize("long_form", ["sequential", "chunked"])
@pytest.mark.parametrize("kind", BACKENDS)
def test_long_recordings_come_out_in_windows_of_their_pieces(folder, kind, long_form):
    changes = {"window": "silence", "clip_margin_s": 0.0, "max_new_tokens": None, "long_form": long_form}
    (rows,) = teacher(folder, kind, **changes).transcribe([Clip("long", tone(4.5, 300), "en")])
    assert all(0 <= row.start_s < row.end_s <= 4.5 + 1e-6 for row in rows)


def test_labels_of_another_window_have_another_name():
    job = Job("shard-00000", "digest", list)
    section = params().pseudo_label

    def key(**changes):
        config = section.model_copy(update=changes)
        return Labelling(config, params().run, "models", "pseudo_label").key(job, "revision")

    names = [key(), key(window="clip"), key(window="clip", clip_margin_s=2.0), key(window="silence")]
    assert len(set(names)) == 4 and "stillsmall.teachers.window" in labelling.CODE


def test_a_window_that_is_none_is_refused_by_its_path():
    section = params().pseudo_label.model_dump()
    with pytest.raises(ConfigError, match=r"pseudo_label\.window: got 'short'"):
        parse(Transcribe, {**section, "window": "short"}, "pseudo_label")
    with pytest.raises(ConfigError, match=r"pseudo_label\.clip_margin_s"):
        parse(Transcribe, {**section, "clip_margin_s": -1.0}, "pseudo_label")
