"""The transformers teacher on a tiny random Whisper: what it gives, in what order, and what it refuses."""

import numpy as np
import pytest
import torch

import tiny
from small import params, tone
from stillsmall.compute import ModelError, locate
from stillsmall.config import Run
from stillsmall.teachers.base import Clip, Segment, chunk
from stillsmall.teachers.transformers import TransformersTeacher
from stillsmall.whisper_tokens import TokenError, WhisperTokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.whisper(tmp_path_factory.mktemp("models") / "teacher")


def teacher(folder, **changes):
    config = params().pseudo_label.model_copy(update={"device": "cpu", "max_new_tokens": 12, **changes})
    return TransformersTeacher(config, Run(seed=1, threads=1), folder.parent, "pseudo_label")


CLIPS = [Clip(f"c{i}", tone(s, 200 + 90 * i, i), "en") for i, s in enumerate([1.0, 0.4, 1.9, 0.7])]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([10, 15, 6, 29, 1], [[10, 15], [6], [29, 1]]), ([30], [[30]]), ([15, 15, 1], [[15, 15], [1]])],
)
def test_chunking_is_greedy_up_to_the_window(lengths, expected):
    ends = np.cumsum(lengths)
    segments = [Segment(float(e - n), float(e), "x") for n, e in zip(lengths, ends, strict=True)]
    assert [[round(s.end - s.start) for s in part] for part in chunk(segments, 30.0)] == expected


def test_a_pause_counts_towards_the_length_of_a_chunk():
    assert len(chunk([Segment(0, 10, "a"), Segment(29, 31, "b")], 30.0)) == 2


def test_each_token_is_the_likeliest_after_those_before_it(folder):
    made = teacher(folder, timestamps=False)
    for clip, (row,) in zip(CLIPS, made.transcribe(CLIPS), strict=True):
        features = made.processor.feature_extractor(clip.audio, sampling_rate=16000, return_tensors="pt").input_features
        prefix = made.tokens.prefix("en", "transcribe", False)
        with torch.no_grad():
            ids = torch.tensor([prefix + list(row.tokens[:-1])])
            logits = made.model(input_features=features, decoder_input_ids=ids).logits[0, len(prefix) - 1 :]
        generated = list(row.tokens[:12])  # the end of text is set after the last token where none was generated
        assert len(generated) == 12 or generated[-1] == made.tokens.end
        for at, token in zip(logits, generated, strict=False):
            assert at[token] >= at[: made.tokens.timestamp_begin].max() - 1e-2


def test_confidence_is_the_log_probability_of_what_was_said(folder):
    made = teacher(folder, timestamps=False)
    (row,) = made.transcribe(CLIPS[:1])[0]
    prefix = made.tokens.prefix("en", "transcribe", False)
    features = made.processor.feature_extractor(CLIPS[0].audio, sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        ids = torch.tensor([prefix + list(row.tokens[:-1])])
        logprobs = made.model(input_features=features, decoder_input_ids=ids).logits.log_softmax(-1)[0]
    by_hand = [logprobs[len(prefix) - 1 + i, token].item() for i, token in enumerate(row.tokens)]
    assert row.token_logprob == pytest.approx(by_hand, abs=1e-4)
    words = [p for p, token in zip(by_hand, row.tokens, strict=True) if token < made.tokens.timestamp_begin]
    assert row.mean_logprob == pytest.approx(np.mean(words), abs=1e-4)
    assert row.no_speech_prob == pytest.approx(logprobs[0, made.tokens.no_speech].exp().item(), abs=1e-5)
    entropy = -(logprobs.exp() * logprobs).sum(-1)[len(prefix) - 1]
    assert row.token_entropy[0] == pytest.approx(entropy.item(), abs=1e-4)


def test_hypotheses_come_in_the_order_of_the_clips(folder):
    found = teacher(folder).transcribe(CLIPS)
    assert [rows[0].utt_id for rows in found] == [clip.utt_id for clip in CLIPS]
    backwards = teacher(folder).transcribe(CLIPS[::-1])[::-1]
    assert [r[0].text for r in found] == [r[0].text for r in backwards]


def test_a_long_recording_becomes_chunks_within_the_window_and_within_the_audio(folder):
    clip = Clip("long", np.concatenate([tone(3, 200), tone(3, 500), tone(1.5, 900)]), "en")
    rows = teacher(folder, max_new_tokens=None).transcribe([clip])[0]
    assert rows and all(row.parent == "long" and row.utt_id.startswith("long#") for row in rows)
    for row in rows:
        assert 0 <= row.start_s < row.end_s <= clip.duration_s + 1e-6
        assert row.end_s - row.start_s <= tiny.WINDOW_S + 1e-6
    assert len({row.utt_id for row in rows}) == len(rows)


def test_the_language_is_detected_where_none_is_known(folder):
    rows = teacher(folder).transcribe([Clip("x", tone(1.0), None)])
    assert rows[0][0].language in tiny.LANGUAGES


def test_an_unknown_language_is_refused_with_the_nearest(folder):
    with pytest.raises(TokenError, match=r"pseudo_label\.language: unknown language 'eng'; did you mean 'en'"):
        teacher(folder, language="eng")
    with pytest.raises(TokenError, match="unknown language 'xx'"):
        teacher(folder).transcribe([Clip("x", tone(1.0), "xx")])


def test_models_that_cannot_be_used_say_what_is_wrong(folder, tmp_path):
    with pytest.raises(ModelError, match=r"pseudo_label\.model: no folder 'techer' under .*have: teacher"):
        locate(folder.parent, "techer", None, "pseudo_label")
    with pytest.raises(ModelError, match="give the commit"):
        locate(folder.parent, "openai/whisper-tiny", None, "pseudo_label")
    bare = tiny.whisper(tmp_path / "bare")
    for name in ("tokenizer.json", "vocab.json"):
        (bare / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="has no tokenizer"):
        locate(tmp_path, "bare", None, "pseudo_label")
    (bare / "tokenizer.json").write_text("{}")
    (bare / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        locate(tmp_path, "bare", None, "pseudo_label")


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    import json

    mixed = tiny.whisper(tmp_path / "mixed")
    vocabulary = json.loads((mixed / "tokenizer.json").read_text())
    vocabulary["added_tokens"].append({**vocabulary["added_tokens"][-1], "id": 9000, "content": "<|far|>"})
    vocabulary["model"]["vocab"]["<|far|>"] = 9000
    (mixed / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(
        ModelError, match=r"pseudo_label\.model: the tokenizer has ids up to 9000, the model embeds \d+"
    ):
        teacher(mixed, model="mixed")


def test_revision_follows_the_weights(tmp_path):
    one, two = (locate(tmp_path, tiny.whisper(tmp_path / f"m{seed}", seed).name, None, "x")[1] for seed in (0, 1))
    assert one != two


def test_segments_are_read_from_timestamps_and_a_last_open_one_ends_with_the_audio(folder):
    tokens = teacher(folder).tokens
    assert isinstance(tokens, WhisperTokens)
    target = tokens.timed_target([(0.0, 0.5, "the cat"), (0.6, 1.2, "sat on")], "en")
    assert tokens.segments(target, 1.2) == [(0.0, 0.5, "the cat"), (0.6, 1.2, "sat on")]
    opened = [*target[:-2], tokens.end]
    assert tokens.segments(opened, 1.9)[-1] == (0.6, 1.9, "sat on")
    assert tokens.segments(tokens.target("the mat", "en"), 2.0) == [(0.0, 2.0, "the mat")]
