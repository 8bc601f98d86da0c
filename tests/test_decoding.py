"""Decoding options: sampling that depends on the utterance alone, fallback, prompts, beams, silence, and memory."""

import pytest
import torch

import tiny
from small import params, tone
from stillsmall import backends, cache, metrics
from stillsmall.config import ConfigError, Run, Transcribe, parse
from stillsmall.teachers.base import Clip, Failed
from stillsmall.teachers.transformers import TransformersTeacher
from stillsmall.teachers.whisper import Decoded

CLIPS = [Clip(f"c{i}", tone(s, 200 + 90 * i, i), "en") for i, s in enumerate([1.0, 0.4, 1.9, 0.7, 1.2])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.whisper(tmp_path_factory.mktemp("models") / "teacher")


def teacher(folder, seed=1, **changes):
    config = params().pseudo_label.model_copy(update={"device": "cpu", "max_new_tokens": 10, **changes})
    return TransformersTeacher(config, Run(seed=seed, threads=1), folder.parent, "pseudo_label")


def texts(found):
    return [rows[0].text for rows in found]


def test_samples_depend_on_the_seed_and_the_utterance_and_not_on_the_batch(folder):
    wild = {"temperatures": [0.0, 1.5], "logprob_threshold": -1e-6, "no_speech_threshold": None}
    one = texts(teacher(folder, batch_size=5, **wild).transcribe(CLIPS))
    assert one == texts(teacher(folder, batch_size=2, **wild).transcribe(CLIPS[::-1]))[::-1]
    assert one != texts(teacher(folder, seed=2, **wild).transcribe(CLIPS))
    assert one != texts(teacher(folder).transcribe(CLIPS))


def test_a_higher_temperature_is_tried_only_where_the_text_is_bad(folder, monkeypatch):
    made, tried = teacher(folder, temperatures=[0.0, 0.4, 0.8], logprob_threshold=-1.0), []

    def decode(requests, temperature):
        tried.append((temperature, [r.name for r in requests]))
        good = {"c0": 0.0, "c1": 0.4}
        unsure = [good.get(r.name, 9.0) > temperature for r in requests]
        return [Decoded((made.tokens.end,), "en", 0.0, None, (-5.0 if bad else -0.1,)) for bad in unsure]

    monkeypatch.setattr(made, "decode", decode)
    made.transcribe(CLIPS[:3])
    assert tried == [(0.0, ["c1", "c0", "c2"]), (0.4, ["c1"]), (0.4, ["c2"]), (0.8, ["c2"])]


def test_silence_is_no_reason_to_try_again_and_a_silent_window_is_passed_over(folder, monkeypatch):
    made, tried = teacher(folder, temperatures=[0.0, 0.4]), []

    def decode(requests, temperature):
        tried.append(temperature)
        return [Decoded((*made.tokens.plain("the cat", "en"), made.tokens.end), "en", 0.9, None, (-5.0,) * 3)] * len(
            requests
        )

    monkeypatch.setattr(made, "decode", decode)
    assert made.transcribe([Clip("long", tone(5.0), "en")]) == [[]]
    assert tried == [0.0] * 3


def test_a_full_memory_changes_no_text(folder, monkeypatch, capsys):
    made, sizes = teacher(folder, batch_size=5), []
    encode = made._encode

    def full(requests):
        sizes.append(len(requests))
        if len(requests) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return encode(requests)

    monkeypatch.setattr(made, "_encode", full)
    found = made.transcribe(CLIPS)
    assert texts(found) == texts(teacher(folder, batch_size=2).transcribe(CLIPS))
    assert sizes == [5, 2, 2, 1] and "2 works" in capsys.readouterr().err


def test_one_clip_that_breaks_the_model_is_named_and_the_others_are_heard(folder, monkeypatch):
    made = teacher(folder)
    encode = made._encode

    def fragile(requests):
        if any(r.name == "c2" for r in requests):
            raise RuntimeError("no")
        return encode(requests)

    monkeypatch.setattr(made, "_encode", fragile)
    found = made.transcribe(CLIPS)
    assert found[2] == Failed("c2", "RuntimeError", "no")
    assert texts(found[:2] + found[3:]) == texts(teacher(folder).transcribe(CLIPS[:2] + CLIPS[3:]))


@pytest.mark.parametrize("changes", [{"num_beams": 2}, {"condition_on_previous_text": True}, {"long_form": "chunked"}])
def test_long_and_short_clips_come_out_under_every_option(folder, changes):
    found = teacher(folder, max_new_tokens=None, **changes).transcribe([*CLIPS[:2], Clip("long", tone(5.0, 300), "en")])
    assert all(rows and rows[0].heard_language in tiny.LANGUAGES for rows in found[:2])
    assert all(0 < row.heard_language_prob <= 1 for row in found[0])
    assert not isinstance(found[2], Failed) and all(row.end_s - row.start_s <= 2.0 + 1e-6 for row in found[2])


def test_own_greedy_decoding_is_transformers_own(folder):
    made = teacher(folder, max_new_tokens=None, timestamps=True)
    for clip, rows in zip(CLIPS, made.transcribe(CLIPS), strict=True):
        features = made.processor.feature_extractor(clip.audio, sampling_rate=16000, return_tensors="pt").input_features
        out = made.model.generate(features, language="en", task="transcribe", return_timestamps=True, max_new_tokens=60, force_unique_generate_call=True)  # fmt: skip  # noqa: E501
        assert made._generated(out[0].tolist())[:40] == list(rows[0].tokens)[:40]


def test_options_that_cannot_be_are_refused_by_their_path():
    section = params().pseudo_label.model_dump()
    with pytest.raises(ConfigError, match=r"pseudo_label\.long_form: got 'loops'"):
        parse(Transcribe, {**section, "long_form": "loops"}, "pseudo_label")
    with pytest.raises(ConfigError, match=r"pseudo_label\.temperatures"):
        parse(Transcribe, {**section, "temperatures": []}, "pseudo_label")


@pytest.mark.parametrize(
    ("what", "names"), [("backend", ["transformers", "ctranslate2"]), ("window", ["full", "silence"])]
)
def test_backends_and_windows_are_compared_text_by_text(folder, tmp_path, monkeypatch, what, names):
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    root = str(folder.parent)
    made = params(**{"models.root": root, "pseudo_label.device": "cpu", "pseudo_label.compute_type": "float32"})
    made = made.model_copy(update={"pseudo_label": made.pseudo_label.model_copy(update={"max_new_tokens": 8})})
    found = backends.compare(made, CLIPS[:3], what=what)
    assert found.clips == 3 and found.identical == 3 - len(found.different)
    lines = backends.show(found)
    assert lines[0].startswith(f"{found.identical} of 3 texts are identical")
    assert [line.split(":")[0].strip() for line in lines[2:4]] == (names if found.different else [])


def test_what_differs_is_shown_under_the_names_of_both_ways():
    counts = metrics.mer("a b", "a c")
    shown = backends.show(backends.Agreement(2, 1, counts, (("x", "a b", "a c"),), ("full", "clip")))
    assert shown == [
        "1 of 2 texts are identical (50.0%), mixed error rate between them 50.00%",
        "x",
        "  full: a b",
        "  clip: a c",
    ]
