"""A trimmed vocabulary writes the same texts: tokens, ids in every field, generation, the teacher's logits."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from small import tone
from stillsmall import student
from stillsmall.students.vocabulary import MULTIPLE, Trimmed, needed, trimmed
from stillsmall.whisper_tokens import TokenError, WhisperTokens
from students import section

LABELS = [
    ("en", "Turn the engine off, please.", ["Turn the engine", "off, please."]),
    ("zh", "我們 turn 它 off", []),
    ("en", "the engine turns", []),
]
CORPUS = section(vocabulary="corpus")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    """The embedded teacher: 1,327 tokens, 800 merges, suppressed tokens."""
    folder = ROOT / "models/demo/teacher"
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, WhisperProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def made(demo: tuple[Any, Any]) -> tuple[Any, Any, Trimmed]:
    cut, processor, kept = student.trim(student.build(demo[0], CORPUS), demo[1], CORPUS, LABELS)
    assert kept is not None
    return cut.eval(), processor, kept


# three letters; merges in the order of their rank
TOY = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "bc": 5, "ca": 6, "abca": 7}
MERGES = [("a", "b"), ("ab", "c"), ("b", "c"), ("c", "a"), ("abc", "a")]


def test_a_token_keeps_what_it_is_merged_from() -> None:
    assert {"a", "b", "c", "ab", "abc", "abca"} <= needed(TOY, MERGES, {7: 1}, 1, set(), 8)
    assert needed(TOY, MERGES, {3: 5}, 1, set(range(100, 104)), 1000) == {"a", "b", "c", "ab"}


def test_a_rare_token_passes_its_count_on_to_its_parts() -> None:
    # cab twice is too rare for 3; its two counts make ca 1 + 2 = 3, which stays. 4 words + 4: a multiple of 8
    toy, merges, special = {**TOY, "cab": 8}, [*MERGES, ("ca", "b")], set(range(100, 104))
    assert needed(toy, merges, {8: 2, 6: 1}, 3, special, 1000) == {"a", "b", "c", "ca"}


def test_every_way_to_make_a_kept_token_stays_possible() -> None:
    words = needed(TOY, [*MERGES, ("a", "bc")], {4: 1}, 1, set(range(100, 103)), 1000)
    assert "bc" in words  # 5 words and 3 special tokens without it: nothing would be filled up


def test_rows_are_filled_up_to_a_multiple_of_eight_with_the_first_merges() -> None:
    assert needed(TOY, MERGES, {}, 1, set(range(100, 103)), 1000) == {"a", "b", "c", "ab", "abc"}


def test_texts_of_the_corpus_are_cut_as_before_and_read_back(demo: Any, made: Any) -> None:
    whole, small = demo[1].tokenizer, made[1].tokenizer
    for _, text, segments in LABELS:
        for piece in [" " + text, *(" " + segment for segment in segments)]:
            before, after = (t.encode(piece, add_special_tokens=False) for t in (whole, small))
            assert whole.convert_ids_to_tokens(before) == small.convert_ids_to_tokens(after)
            assert made[2].ids(torch.tensor(before)).tolist() == after
            assert made[2].restored(torch.tensor(after)).tolist() == before
            assert small.decode(after) == piece


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_can_still_be_written(made: Any, text: str) -> None:
    tokenizer = made[1].tokenizer
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert max(ids, default=0) < len(made[2].kept)
    text = text.encode("utf-8", "replace").decode()
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_vocabulary_is_smaller_and_its_rows_fill_eights(demo: Any, made: Any) -> None:
    cut, processor, kept = made
    assert len(kept.kept) < 700 < demo[0].config.vocab_size == kept.teacher_size
    assert len(kept.kept) % MULTIPLE == 0
    assert cut.config.vocab_size == len(kept.kept) == len(processor.tokenizer) == cut.proj_out.out_features
    assert cut.proj_out.weight is cut.model.decoder.embed_tokens.weight
    assert torch.equal(cut.proj_out.weight, demo[0].proj_out.weight[list(kept.kept)])


def test_special_tokens_and_times_keep_their_order_and_distance(demo: Any, made: Any) -> None:
    tokens = WhisperTokens.of(made[1].tokenizer, made[0].generation_config)
    before = WhisperTokens.of(demo[1].tokenizer, demo[0].generation_config)
    assert made[1].tokenizer.convert_ids_to_tokens(tokens.timestamp_begin) == "<|0.00|>"
    assert made[1].tokenizer.convert_ids_to_tokens(tokens.timestamp(4.98)) == "<|4.98|>"
    assert set(tokens.languages) == set(before.languages)
    shift = before.end - tokens.end
    assert shift > 0
    for name in ("start", "previous", "no_speech", "no_timestamps"):
        assert getattr(before, name) - getattr(tokens, name) == shift


def test_every_field_with_ids_says_the_same_tokens_as_before(demo: Any, made: Any) -> None:
    whole, small = (t.tokenizer.convert_ids_to_tokens for t in (demo[1], made[1]))
    before, after = demo[0].generation_config, made[0].generation_config
    for name in ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id", "no_timestamps_token_id",
                 "prev_sot_token_id", "suppress_tokens"):  # fmt: skip
        assert small(getattr(after, name)) == whole(getattr(before, name)), name
    for name in ("lang_to_id", "task_to_id"):
        ids = getattr(before, name)
        assert {key: small(value) for key, value in getattr(after, name).items()} == {k: whole(ids[k]) for k in ids}
    for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id"):
        assert small(getattr(made[0].config, name)) == whole(getattr(demo[0].config, name)), name
    same = ("is_multilingual", "max_initial_timestamp_index", "max_length", "return_timestamps")
    assert [getattr(after, n) for n in same] == [getattr(before, n) for n in same]


def test_rarer_fields_move_too(demo: Any) -> None:
    model = copy.deepcopy(demo[0])
    engine, generation = demo[1].tokenizer, model.generation_config
    the, dog = engine.encode(" the", add_special_tokens=False)[0], 1055  # the last merge: surely not filled up with
    generation.begin_suppress_tokens = [dog, generation.eos_token_id]
    generation.eos_token_id = [generation.eos_token_id]
    generation.forced_decoder_ids = [[1, None], [2, generation.task_to_id["transcribe"]]]
    generation.bad_words_ids = [[the], [the, dog]]
    generation.suppress_tokens = [dog]
    cut, processor, kept = trimmed(model, demo[1], Counter({the: 1}), 1)
    assert dog not in kept.kept
    found, small = cut.generation_config, processor.tokenizer.convert_ids_to_tokens
    assert small(found.begin_suppress_tokens) == small(found.eos_token_id) == ["<|endoftext|>"]
    assert found.suppress_tokens is None
    assert found.forced_decoder_ids[0] == [1, None]
    assert small(found.forced_decoder_ids[1][1]) == "<|transcribe|>"
    assert [small(ids) for ids in found.bad_words_ids] == [["Ġthe"]]


def heard(processor: Any, pitch: float) -> torch.Tensor:
    features: torch.Tensor = processor.feature_extractor(
        tone(1.5, pitch=pitch), sampling_rate=16000, return_tensors="pt"
    ).input_features
    return features


@pytest.mark.parametrize("timestamps", [False, True])
def test_the_same_weights_write_the_same_text_with_fewer_tokens(demo: Any, tmp_path: Path, timestamps: bool) -> None:
    torch.manual_seed(3)
    clips = [heard(demo[1], 440.0), torch.randn(1, 80, 500), torch.randn(1, 80, 500).cumsum(-1).tanh()]

    def texts(model: Any, processor: Any) -> list[str]:
        found = [model.generate(clip, language="en", return_timestamps=timestamps, max_new_tokens=20) for clip in clips]
        return [processor.tokenizer.decode(ids[0], decode_with_timestamps=timestamps) for ids in found]

    expected = texts(demo[0], demo[1])
    tokens = Counter(
        int(token)
        for clip in clips
        for token in demo[0].generate(clip, language="en", return_timestamps=timestamps, max_new_tokens=20)[0]
    )
    cut, processor, kept = trimmed(demo[0], demo[1], tokens, 1)
    assert len(kept.kept) < 700
    assert texts(cut.eval(), processor) == expected
    assert len(set(expected)) > 1
    student.save(cut, processor, tmp_path / "s", torch.float32, kept)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "s").eval()
    assert texts(again, WhisperProcessor.from_pretrained(tmp_path / "s")) == expected
    assert Trimmed.read(tmp_path / "s") == kept
    assert again.generation_config.to_dict() == cut.generation_config.to_dict()


def test_a_whole_vocabulary_is_left_as_it_is(demo: Any, tmp_path: Path) -> None:
    learner = student.build(demo[0], CORPUS)
    assert student.trim(learner, demo[1], section(), LABELS) == (learner, demo[1], None)
    assert Trimmed.read(tmp_path) is None


def test_teacher_logits_lose_their_other_columns_and_the_loss_is_known() -> None:
    kept = Trimmed((0, 2), 3)
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.7, 0.2]]).log()
    assert torch.allclose(kept.project(logits).softmax(-1), torch.tensor([[2 / 3, 1 / 3], [1 / 3, 2 / 3]]))
    assert torch.allclose(kept.lost(logits), torch.tensor([0.25, 0.7]))
    assert torch.allclose(Trimmed((0, 1, 2), 3).lost(logits), torch.zeros(2), atol=1e-6)


def test_ids_that_are_gone_are_named_and_ignored_labels_pass() -> None:
    kept = Trimmed((1, 3), 4)
    assert kept.ids(torch.tensor([[3, -100], [1, 1]])).tolist() == [[1, -100], [0, 0]]
    assert kept.restored(torch.tensor([1, -100, 0])).tolist() == [3, -100, 1]
    with pytest.raises(TokenError, match=r"none of the teacher's tokens \[0, 2\]"):
        kept.ids(torch.tensor([0, 1, 2]))


def test_a_trimmed_student_computes_the_teachers_logits_of_what_is_kept(demo: Any, made: Any) -> None:
    features, new = torch.randn(1, 80, 500), torch.tensor([[3, 200, 7]])
    with torch.no_grad():
        ours = made[0](input_features=features, decoder_input_ids=new).logits
        theirs = demo[0](input_features=features, decoder_input_ids=made[2].restored(new)).logits
    torch.testing.assert_close(ours, made[2].project(theirs), atol=1e-4, rtol=1e-4)


def test_frozen_parts_stay_frozen(demo: Any, made: Any) -> None:
    assert not any(p.requires_grad for p in made[0].model.encoder.parameters())
    assert all(p.requires_grad for n, p in made[0].model.decoder.named_parameters())


def test_a_higher_count_keeps_fewer_tokens(demo: Any) -> None:
    learner = student.build(demo[0], CORPUS)
    sizes = [
        len(student.trim(learner, demo[1], CORPUS.model_copy(update={"vocabulary_min_count": least}), LABELS)[2].kept)
        for least in (1, 3)
    ]
    assert sizes[1] <= sizes[0]
