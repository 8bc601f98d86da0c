"""CTC models: text as units, frames by the model's formula, a pass that padding does not change, the loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_ctc
from small import tone
from stillsmall import ctc
from stillsmall.compute import ModelError
from stillsmall.ctc import Units
from stillsmall.objectives.base import IGNORED, Signals, frame_ctc, token_kl

LETTERS = {letter: 5 + i for i, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_ctc.ctc(tmp_path_factory.mktemp("m") / "wav2vec2")


@pytest.fixture(scope="module")
def model(folder):
    return ctc.load(str(folder), None, torch.float32, "student")


@pytest.fixture(scope="module")
def processor(folder):
    return ctc.processor(str(folder), None)


@pytest.fixture(scope="module")
def units(processor, model):
    return Units.of(processor.tokenizer, model.config, "student")


def of(vocabulary):
    return Units({unit: i + 1 for i, unit in enumerate(vocabulary)}, 0, lower=False)


def test_units_are_the_vocabulary_without_its_special_tokens(units):
    assert units.ids == {" ": 4, **LETTERS} and units.blank == 0 and units.lower


@pytest.mark.parametrize("text", ["HELLO WORLD", "IT'S A", "Z"])
def test_a_text_is_spelt_as_the_tokenizer_spells_it(units, processor, text):
    assert units.spell(text) == (processor.tokenizer(text).input_ids, None)


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("Hello, world!", "hello world"),
        ("caf\u00e9 na\u00efve", "cafe naive"),
        ("it\u2019s  \n twenty-one", "it's twenty one"),
        ("\uff28\uff25\uff39 \ufb01ne", "hey fine"),
        ("stra\u00dfe", "strasse"),
        ("it\u00b4s rock\u200bs", "it's rocks"),
        ("...", ""),
        ("", ""),
    ],
)
def test_characters_that_the_vocabulary_lacks_are_written_as_it_can(units, text, spelt):
    ids, lacking = units.spell(text)
    assert lacking is None and units.text(ids) == spelt


@pytest.mark.parametrize(
    ("text", "kind"),
    [("room 5", "digits"), ("$", "symbols"), ("five %", "symbols"), ("\u4f60\u597d", "letters")],
)
def test_what_is_spoken_and_cannot_be_written_is_not_guessed(units, text, kind):
    assert units.spell(text) == ([], kind)


def test_arabic_points_are_left_out_and_indic_vowels_are_not():
    arabic, hindi = of("\u0643\u062a\u0628 "), of("\u0915\u0924 ")
    assert arabic.spell("\u0643\u064e\u062a\u064e\u0628") == arabic.spell("\u0643\u062a\u0628") == ([1, 2, 3], None)
    assert arabic.spell("\u0643\u0640\u062a\u0628") == ([1, 2, 3], None)
    assert hindi.spell("\u0915\u093f\u0924") == ([], "marks")


def test_case_follows_the_vocabulary():
    assert of("abc ").spell("A cab") == ([1, 4, 3, 1, 2], None)
    assert of("aA").spell("Aa") == ([2, 1], None)


def test_longer_units_come_first_and_a_vocabulary_without_spaces_has_none():
    assert of(["a", "ab", "b", "c"]).spell("abc a") == ([2, 4, 1], None)
    assert of(["ab"]).spell("ab a") == ([], "letters")


@given(st.lists(st.sampled_from(sorted(LETTERS)), max_size=20).map("".join))
def test_what_is_spelt_reads_as_it_was(text):
    made = Units({" ": 4, **LETTERS}, 0, lower=False)
    assert made.text(made.spell(text)[0]) == text


def test_a_tokenizer_of_another_model_is_refused(processor, model):
    class Config:
        vocab_size, pad_token_id = 20, 0

    with pytest.raises(ModelError, match=r"student\.model: the tokenizer has 28 units with ids up to 31.*20 outputs"):
        Units.of(processor.tokenizer, Config, "student")

    class Phonemes:
        phonemize = None

    with pytest.raises(ModelError, match="its units are phonemes"):
        Units.of(Phonemes, Config, "student")
    Config.vocab_size, Config.pad_token_id = 32, 7
    with pytest.raises(ModelError, match=r"the blank 0; .*the blank 7"):
        Units.of(processor.tokenizer, Config, "student")


@pytest.mark.parametrize(("ids", "frames"), [([], 0), ([1, 2, 3], 3), ([1, 1], 3), ([1, 1, 1, 2, 2], 8)])
def test_repeats_need_a_blank_between_them(ids, frames):
    assert ctc.needed(ids) == frames
    scores = torch.zeros(frames, 1, 4).log_softmax(-1)
    for count, fits in ((frames, True), (frames - 1, False)):
        if count > 0:
            lengths = torch.tensor([count]), torch.tensor([len(ids)])
            loss = torch.nn.functional.ctc_loss(scores[:count], torch.tensor([ids]), *lengths, reduction="sum")
            assert bool(loss.isfinite()) is fits


@given(st.integers(0, 60_000))
def test_frames_are_the_models_own_formula(count):
    config = SHAPED.config
    assert ctc.frames(config, count) == max(0, int(SHAPED._get_feat_extract_output_lengths(torch.tensor(count))))
    if (made := ctc.frames(config, count)) > 0:
        least = ctc.samples(config, made)
        assert least <= count and ctc.frames(config, least) == made and ctc.frames(config, least - 1) == made - 1


SHAPED = tiny_ctc.MODELS["wav2vec2"][1](
    tiny_ctc.MODELS["wav2vec2"][0](hidden_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=5)
)  # the convolutions of real models: 25 ms every 20 ms


def test_a_second_at_16_khz_is_49_frames():
    assert ctc.frames(SHAPED.config, 16_000) == 49 and ctc.samples(SHAPED.config, 1) == 400


CLIPS = [tone(1.0), tone(0.63, 300, 1), tone(0.41, 500, 2)]


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("kind", tiny_ctc.KINDS)
def test_frames_are_those_of_transformers_on_the_clip_alone_whatever_pads_it(tmp_path, kind, norm):
    folder = tiny_ctc.ctc(tmp_path / kind, kind, norm)
    model, processor = ctc.load(str(folder), None, torch.float32, "x"), ctc.processor(str(folder), None)
    values = ctc.waveforms(processor.feature_extractor, CLIPS)
    with torch.no_grad():
        logits, hidden = ctc.forward(model, values, [len(clip) for clip in CLIPS], hidden=True)
        assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())
        for row, clip in enumerate(CLIPS):
            alone = model(ctc.waveforms(processor.feature_extractor, [clip]), output_hidden_states=True)
            count = ctc.frames(model.config, len(clip))
            assert alone.logits.shape[1] == count and len(hidden) == 4
            assert torch.allclose(logits[row, :count], alone.logits[0], atol=1e-4)
            for ours, theirs in zip(hidden[:3], alone.hidden_states[:3], strict=True):
                assert torch.allclose(ours[row, :count], theirs[0], atol=1e-4)


@pytest.mark.parametrize("kind", tiny_ctc.KINDS)
def test_layers_that_are_computed_again_for_backward_give_the_same_gradients(tmp_path, kind):
    dropout = {"hidden_dropout", "attention_dropout", "activation_dropout", "conformer_conv_dropout", "final_dropout"}
    still = {**dict.fromkeys(dropout, 0.0), "feat_proj_dropout": 0.0, "apply_spec_augment": False, "layerdrop": 0.0}
    folder = tiny_ctc.ctc(tmp_path / kind, kind, **still)
    extractor, found = ctc.processor(str(folder), None).feature_extractor, []
    values, lengths = ctc.waveforms(extractor, CLIPS), [len(clip) for clip in CLIPS]
    for checkpointing in (False, True):
        model = ctc.load(str(folder), None, torch.float32, "x").train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.eval()
        model.requires_grad_(True)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        ctc.forward(model, values, lengths, hidden=True)[0].square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
        model.gradient_checkpointing_disable()
        ctc.forward(model.eval(), values, lengths)
        assert not any(layer._forward_pre_hooks for layer in model.modules() if isinstance(layer, torch.nn.Conv1d))
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(*found, strict=True))


def test_each_clip_is_normalised_by_itself_and_padded_with_zeros(processor):
    values = ctc.waveforms(processor.feature_extractor, CLIPS)
    for row, clip in zip(values, CLIPS, strict=True):
        assert row[: len(clip)].mean().abs() < 1e-4 and abs(float(row[: len(clip)].std()) - 1) < 1e-3
        assert not row[len(clip) :].any()


def signals(logits, labels, counts, **more):
    frames = torch.arange(logits.shape[1])[None] < torch.tensor(counts)[:, None]
    ids = tuple(map(str, range(len(labels))))
    return Signals(logits, labels, ids, 0.0, frames=frames, blank=0, **more)


def test_the_loss_of_a_clip_is_torchs_and_transformers_own(model, processor):
    values = ctc.waveforms(processor.feature_extractor, CLIPS)
    labels = torch.tensor([[8, 9, 9, 4, 5], [6, 7, IGNORED, IGNORED, IGNORED], [5, 5, 5, IGNORED, IGNORED]])
    counts, lengths = [ctc.frames(model.config, len(clip)) for clip in CLIPS], [5, 2, 3]
    with torch.no_grad():
        logits, _ = ctc.forward(model, values, [len(clip) for clip in CLIPS])
        ours = frame_ctc(signals(logits, labels, counts), logits)
        for row, (count, length) in enumerate(zip(counts, lengths, strict=True)):
            alone = logits[row, :count].log_softmax(-1)[:, None]
            shape = torch.tensor([count]), torch.tensor([length])
            theirs = torch.nn.functional.ctc_loss(alone, labels[row, :length][None], *shape, reduction="sum")
            own = ctc.waveforms(processor.feature_extractor, [CLIPS[row]])
            model.config.ctc_loss_reduction = "sum"
            whole = model(own, labels=labels[row : row + 1]).loss
            assert float(ours[row, 0]) == pytest.approx(float(theirs) / length, rel=1e-4)
            assert float(ours[row, 0]) == pytest.approx(float(whole) / length, rel=1e-4)
            assert ours[row, :count].unique().numel() == 1 and not ours[row, count:].any()


def test_the_loss_and_the_kl_of_two_frames_by_hand():
    # P(blank, a) = (1/4, 3/4), then (1/2, 1/2): "a" by (a, -), (-, a) and (a, a): 3/8 + 1/8 + 3/8 = 7/8
    student = torch.tensor([[[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]]]).log()
    teacher = torch.tensor([[[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]]]).log()
    given = signals(student, torch.tensor([[1]]), [2], teacher_logits=teacher)
    loss = -torch.tensor(7 / 8).log()
    assert torch.allclose(frame_ctc(given, student), torch.tensor([[loss, loss, 0.0]]))
    first = 0.5 * torch.tensor(0.5 / 0.25).log() + 0.5 * torch.tensor(0.5 / 0.75).log()
    assert torch.allclose(token_kl(teacher, student, given.mask, 1.0), torch.tensor([[first, 0.0, 0.0]]))
