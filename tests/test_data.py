"""Targets and batches: what is learnt, what is masked, what a prompt may be, and that nothing is cut in silence."""

import pytest
import torch
from transformers import WhisperForConditionalGeneration

import tiny
from small import score_row, split
from stillsmall import audio, data, manifest
from stillsmall.objectives.base import IGNORED
from stillsmall.whisper_tokens import TokenError, WhisperTokens


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tiny.whisper(tmp_path_factory.mktemp("t") / "teacher")
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    return WhisperTokens.of(tiny.tokenizer(), model.generation_config)


def targets(tokens, timestamps=0.0, prompts=0.0, positions=64):
    return data.Targets(tokens, positions, float(tiny.WINDOW_S), "transcribe", 1, timestamps, prompts)


def example(text="the cat", previous="", parent="u", start_s=0.0, end_s=1.0, **values):
    base = {"utt_id": "u", "language": "en", "source": "s", "recording": "r", "speaker": None, "offset_s": start_s}
    base |= {"parts": (data.Part("u", parent, start_s, end_s),), "segments": ((0.0, 1.0, text),)}
    return data.Example(**{**base, **values}, text=text, previous=previous)


def drawn(made, of, epoch):
    return made.sequence(of, made.variant(of, epoch))


def test_labels_are_the_inputs_one_step_later_and_the_no_timestamps_mark_is_not_learnt(tokens):
    row = targets(tokens).sequence(example(), 0)
    whole = [*tokens.prefix("en", "transcribe", False), *tokens.target("the cat", "en")]
    assert row.inputs == whole[:-1]
    assert row.labels == [IGNORED if t == tokens.no_timestamps else t for t in whole[1:]]
    assert row.labels[-1] == tokens.end


def test_timestamps_stand_around_each_segment(tokens):
    row = drawn(targets(tokens, timestamps=1.0), example(), 0)
    stamps = [t for t in row.labels if t >= tokens.timestamp_begin]
    assert stamps == [tokens.timestamp(0.0), tokens.timestamp(1.0)]
    assert tokens.no_timestamps not in row.inputs


def test_a_prompt_is_seen_but_not_learnt(tokens):
    row = drawn(targets(tokens, prompts=1.0), example(previous="said nothing"), 0)
    start = row.inputs.index(tokens.start)
    assert row.inputs[0] == tokens.previous and start > 1
    assert row.labels[:start] == [IGNORED] * start
    assert row.labels[start:] == targets(tokens).sequence(example(), 0).labels


def test_half_of_the_clips_have_timestamps_and_the_draw_changes_with_the_epoch(tokens):
    made = targets(tokens, timestamps=0.5)
    coins = [
        [tokens.no_timestamps not in drawn(made, example(utt_id=f"u{i}"), epoch).inputs for i in range(400)]
        for epoch in (0, 1)
    ]
    assert 160 < sum(coins[0]) < 240 and coins[0] != coins[1]
    assert coins[0] == [tokens.no_timestamps not in drawn(made, example(utt_id=f"u{i}"), 0).inputs for i in range(400)]


def test_previous_text_never_crosses_recordings_or_speakers(tmp_path):
    rows = [
        score_row(utt_id="a2", recording="a", start_s=5.0, end_s=6.0, teacher_text="second"),
        score_row(utt_id="a1", recording="a", start_s=0.0, teacher_text="first"),
        score_row(utt_id="a3", recording="a", start_s=9.0, end_s=9.5, teacher_text="third", speaker="other"),
        score_row(utt_id="b1", recording="b", start_s=0.0, teacher_text="elsewhere"),
    ]
    manifest.write(tmp_path / "kept.parquet", rows, manifest.SCORE)
    previous = {e.utt_id: e.previous for e in data.examples(tmp_path / "kept.parquet")}
    assert previous == {"a1": "", "a2": "first", "a3": "", "b1": ""}


def test_what_does_not_fit_is_listed_with_its_reason_not_cut(tokens):
    long_text, long_audio = example("the cat sat on the mat " * 20), example(end_s=tiny.WINDOW_S + 1.0)
    fit, skipped = targets(tokens).usable([example(), long_text, long_audio, example(end_s=float(tiny.WINDOW_S))])
    assert len(fit) == 2
    assert [item["reason"] for item in skipped] == [
        "label longer than 64 positions",
        "audio longer than the window of 2.0 s",
    ]


def test_a_language_that_the_model_lacks_is_refused(tokens):
    with pytest.raises(TokenError, match="unknown language 'hi'"):
        targets(tokens).usable([example(language="hi")])


def test_every_example_comes_once_an_epoch_and_the_last_batch_is_kept(tokens):
    found = [example("the cat " * (i % 5 + 1), utt_id=f"u{i}") for i in range(23)]
    batches = data.Batches(found, targets(tokens), 5)
    assert batches.per_epoch == 5
    for epoch in (0, 1):
        seen = [i for step in range(5) for i in batches(epoch * 5 + step).index]
        assert sorted(seen) == list(range(23))
    assert [batches(s).index for s in range(5)] != [batches(s).index for s in range(5, 10)]


def test_a_batch_is_a_function_of_its_step_alone(tokens):
    found = [example("the cat " * (i % 5 + 1), utt_id=f"u{i}") for i in range(12)]
    one, two = (data.Batches(found, targets(tokens, timestamps=0.5), 4) for _ in range(2))
    straight = [one(step) for step in range(9)]
    jumped = two(7)
    assert jumped.index == straight[7].index
    assert torch.equal(jumped.inputs, straight[7].inputs) and torch.equal(jumped.labels, straight[7].labels)


def test_micro_batches_hold_the_same_examples_with_less_padding(tokens):
    found = [example("the cat " * n, utt_id=f"u{n}") for n in (1, 2, 3, 7)]
    batch = data.Batches(found, targets(tokens), 4)(0)
    parts = list(batch.micro(2))
    assert [i for part in parts for i in part.index] == list(batch.index)
    assert sum(part.tokens for part in parts) == batch.tokens
    assert min(part.inputs.shape[1] for part in parts) < batch.inputs.shape[1]


def test_audio_of_a_chunk_is_its_stretch_of_the_recording(tmp_path):
    prepared = split(tmp_path / "train", [{"duration_s": 2.0}, {"duration_s": 1.0}])
    clips = data.Audio(prepared, [example(parent="small/000", start_s=0.5, end_s=1.25)])
    (_, found), *_ = manifest.audio(prepared)
    whole = audio.decode_flac(dict(found)["small/000"])
    assert (clips(0) == whole[8000:20000]).all()
