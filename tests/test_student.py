"""Students: which layers they copy, and that they reload and generate as their teacher does."""

import copy

import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

import tiny
from small import tone
from stillsmall import student
from stillsmall.config import ConfigError
from students import section


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tiny.whisper(tmp_path_factory.mktemp("t") / "teacher", encoder_layers=2, decoder_layers=3)
    return WhisperForConditionalGeneration.from_pretrained(folder).eval(), WhisperProcessor.from_pretrained(folder)


def config(encoder=None, decoder=2, freeze=True, **more):
    return section(encoder_layers=encoder, decoder_layers=decoder, freeze_encoder=freeze, **more)


@pytest.mark.parametrize(
    ("teacher_layers", "layers", "copied"),
    [(32, 2, [0, 31]), (32, 3, [0, 15, 31]), (4, 4, [0, 1, 2, 3]), (12, 1, [0]), (4, 2, [0, 3])],
)
def test_layers_are_evenly_spaced_with_first_and_last_kept(teacher_layers, layers, copied):
    assert student.evenly_spaced(teacher_layers, layers) == copied


def test_sixteen_of_thirty_two_are_distinct_and_in_order():
    copied = student.evenly_spaced(32, 16)
    assert copied == sorted(set(copied)) and copied[0] == 0 and copied[-1] == 31 and len(copied) == 16


# (encoder, decoder) of a teacher with 32 + 32 layers, and which layers those are
SHAPES = {
    "16-16": (16, 16, student.evenly_spaced(32, 16), student.evenly_spaced(32, 16)),
    "32-16": (None, 16, list(range(32)), student.evenly_spaced(32, 16)),
    "32-2": (None, 2, list(range(32)), [0, 31]),
    "first 4, last 2": ({"first": 4}, {"last": 2}, [0, 1, 2, 3], [30, 31]),
    "one each": ({"first": 1}, {"last": 1}, [0], [31]),
    "all, said otherwise": ({"first": 32}, {"last": 32}, list(range(32)), list(range(32))),
    "listed": ([0, 7, 31], [3, 1], [0, 7, 31], [3, 1]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_the_papers_by_their_layers(shape):
    encoder, decoder, heard, said = SHAPES[shape]
    made = config(encoder, decoder)
    assert student.chosen_layers(made.encoder_layers, 32, "student.encoder_layers") == heard
    assert student.chosen_layers(made.decoder_layers, 32, "student.decoder_layers") == said


def test_sixteen_of_thirty_two_by_hand():
    evens = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 31]  # i * 31 // 15
    assert student.evenly_spaced(32, 16) == evens


@pytest.mark.parametrize(
    "wanted", ["two", 0, -1, True, 2.0, {"first": 0}, {"middle": 2}, {"first": 1, "last": 1}, [0.5]]
)
def test_layers_that_make_no_sense_are_refused_with_what_is_allowed(wanted):
    with pytest.raises(
        ConfigError, match=r"student\.decoder_layers: got .*expected null, a number above 0, \{first: n\}"
    ):
        config(decoder=wanted)


def test_copied_layers_hold_the_teachers_weights(teacher):
    made = student.build(teacher[0], config(decoder=2))
    for new, old in ((0, 0), (1, 2)):
        ours = made.model.decoder.layers[new].state_dict()
        theirs = teacher[0].model.decoder.layers[old].state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_student_with_every_layer_is_its_teacher(teacher):
    made = student.build(teacher[0], config(decoder=None)).eval()
    features = torch.randn(1, 80, tiny.WINDOW_S * 100)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        ours, theirs = (m(input_features=features, decoder_input_ids=ids).logits for m in (made, teacher[0]))
    assert torch.equal(ours, theirs)


def test_round_trip_keeps_every_generation_field_and_the_text(teacher, tmp_path):
    made = student.build(teacher[0], config()).eval()
    student.save(made, teacher[1], tmp_path / "s", torch.float32)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "s").eval()
    ours, theirs = again.generation_config.to_dict(), teacher[0].generation_config.to_dict()
    for name in (
        "lang_to_id",
        "task_to_id",
        "is_multilingual",
        "no_timestamps_token_id",
        "max_initial_timestamp_index",
    ):
        assert ours[name] == theirs[name]
    extractor = WhisperProcessor.from_pretrained(tmp_path / "s").feature_extractor
    features = extractor(tone(1.0), sampling_rate=16000, return_tensors="pt").input_features
    for timestamps in (False, True):
        ids = [
            m.generate(features, language="zh", return_timestamps=timestamps, max_new_tokens=9) for m in (made, again)
        ]
        assert torch.equal(*ids)
    assert [p.suffix for p in (tmp_path / "s").iterdir() if "model" in p.name] == [".safetensors"]


def test_building_moves_nobodys_seed(teacher):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    student.build(teacher[0], config())
    assert torch.equal(torch.rand(1), expected)


def test_a_frozen_encoder_has_no_gradient(teacher):
    made = student.build(teacher[0], config())
    assert not any(p.requires_grad for p in made.model.encoder.parameters())
    assert all(p.requires_grad for p in student.build(teacher[0], config(freeze=False)).model.decoder.parameters())


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        *[(9, "has 3 layers"), ([0, 5], "from 0 to 2"), ([], "from 0 to 2")],
        *[({"first": 4}, "has 3 layers"), ({"last": 4}, "has 3 layers")],
    ],
)
def test_layers_that_the_teacher_lacks_are_refused(teacher, wanted, words):
    with pytest.raises(ConfigError, match=rf"student\.decoder_layers: got .*{words}"):
        student.build(teacher[0], config(decoder=wanted))


def test_the_encoder_is_shared_only_where_it_is_whole_and_frozen():
    assert student.shares_encoder(config(), 2) and student.shares_encoder(config(encoder=2), 2)
    assert not student.shares_encoder(config(encoder=1), 2)
    assert not student.shares_encoder(config(freeze=False), 2)
    assert student.shares_encoder(config(encoder={"last": 2}), 2)
    assert not student.shares_encoder(config(encoder={"first": 1}), 2)
    assert not student.shares_encoder(config(encoder=[1, 0]), 2)


def test_a_language_token_begins_as_the_mean_of_two(teacher):
    ids = teacher[0].generation_config.lang_to_id
    zh, en = (teacher[0].model.decoder.embed_tokens.weight[ids[f"<|{name}|>"]] for name in ("zh", "en"))
    mean = [{"token": "zh", "mean_of": ["zh", "en"]}]
    made = student.build(teacher[0], config(language_embedding=mean))
    rows = made.model.decoder.embed_tokens.weight
    assert torch.equal(rows[ids["<|zh|>"]], (zh + en) / 2)
    assert made.proj_out.weight is rows  # tied: the output row is the same row, and moves with it
    others = [i for i in range(len(rows)) if i != ids["<|zh|>"]]
    assert torch.equal(rows[others], teacher[0].model.decoder.embed_tokens.weight[others])
    assert not torch.equal(rows[ids["<|zh|>"]], zh)


def test_means_are_all_of_the_teachers_own_embeddings_and_a_name_given_twice_counts_twice(teacher):
    ids = teacher[0].generation_config.lang_to_id
    zh, en = (teacher[0].model.decoder.embed_tokens.weight[ids[f"<|{name}|>"]] for name in ("zh", "en"))
    swap = [{"token": "zh", "mean_of": ["en"]}, {"token": "en", "mean_of": ["zh", "zh", "en"]}]
    rows = student.build(teacher[0], config(language_embedding=swap)).model.decoder.embed_tokens.weight
    assert torch.equal(rows[ids["<|zh|>"]], en)
    torch.testing.assert_close(rows[ids["<|en|>"]], (2 * zh + en) / 3)


def test_untied_the_output_row_of_a_language_stays(teacher):
    untied = copy.deepcopy(teacher[0])
    untied.config.tie_word_embeddings = False
    untied.proj_out.weight = torch.nn.Parameter(untied.proj_out.weight.detach().clone())
    made = student.build(untied, config(language_embedding=[{"token": "zh", "mean_of": ["zh", "en"]}]))
    assert torch.equal(made.proj_out.weight, teacher[0].proj_out.weight)
    assert not torch.equal(made.model.decoder.embed_tokens.weight, teacher[0].proj_out.weight)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"token": "zh", "mean_of": ["zh", "enn"]}, r"\[0\]\.mean_of\[1\]: unknown language 'enn'; did you mean 'en'"),
        ({"token": "cs", "mean_of": ["zh"]}, r"\[0\]\.token: unknown language 'cs'; .*Have: ar, en, zh"),
        ({"token": "zh", "mean_of": []}, r"\[0\]\.mean_of: got \[\]"),
        ({"token": "zh", "mean": ["zh"]}, r"\[0\]\.mean: unknown 'mean'; did you mean 'mean_of'"),
    ],
)
def test_languages_that_the_teacher_lacks_are_refused(teacher, entry, said):
    with pytest.raises(ConfigError, match=r"student\.language_embedding" + said):
        student.build(teacher[0], config(language_embedding=[entry]))


def test_a_teacher_of_one_language_has_no_token_to_change(teacher):
    english = copy.deepcopy(teacher[0])
    del english.generation_config.lang_to_id
    with pytest.raises(ConfigError, match=r"mean_of\[0\]: got 'zh', but the teacher is of one language"):
        student.build(english, config(language_embedding=[{"token": "zh", "mean_of": ["zh"]}]))


def frozen(made):
    return {name.removeprefix("model.") for name, p in made.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize(
    ("patterns", "beginnings"),
    [
        ([], []),
        (["encoder"], ["encoder."]),
        (["encoder.layers.0-1"], ["encoder.layers.0.", "encoder.layers.1."]),
        (["decoder.layers.1.fc1", "decoder.embed_tokens"], ["decoder.layers.1.fc1.", "decoder.embed_tokens."]),
        (["positions"], ["encoder.embed_positions.", "decoder.embed_positions."]),
        (["decoder.layers.0-1.self_attn"], ["decoder.layers.0.self_attn.", "decoder.layers.1.self_attn."]),
    ],
)
def test_what_is_named_is_frozen_and_nothing_else(teacher, patterns, beginnings):
    made = student.build(teacher[0], thawed(patterns))
    always = {"encoder.embed_positions.weight"}  # sinusoids: Whisper never trains them
    expected = {n for n in names(made) if n.startswith(tuple(beginnings))} if beginnings else set()
    assert frozen(made) - always == expected - always
    assert bool(expected) == bool(patterns)


def thawed(patterns):
    return section(decoder_layers=2, freeze_encoder=False, freeze=patterns)


def names(made):
    return {name.removeprefix("model.") for name, _ in made.named_parameters()}


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("encodr", r"'encodr' names nothing: no 'encodr'; did you mean 'encoder'\?.*Have: .*decoder, encoder"),
        ("decoder.layers.0-4", r"'decoder\.layers\.0-4' names nothing: no 'decoder\.layers\.2'; .*decoder\.layers\.1"),
        ("decoder.layers.0.fc3", r"no 'decoder\.layers\.0\.fc3'; did you mean 'decoder\.layers\.0\.fc[12]'\?"),
        ("encoder.layers.1-0", r"the range 1-0 runs backwards"),
        ("model.encoder", r"'model\.encoder' names nothing: .*did you mean 'encoder'\?.*Have: decoder, encoder"),
    ],
)
def test_a_part_that_does_not_exist_is_refused_with_the_nearest(teacher, pattern, said):
    with pytest.raises(ConfigError, match=r"student\.freeze\[0\]: .*" + said):
        student.build(teacher[0], thawed([pattern]))


def test_heads_that_align_words_follow_their_layers(teacher):
    aligned = copy.deepcopy(teacher[0])
    aligned.generation_config.alignment_heads = [[1, 0], [2, 1], [2, 0]]
    two = student.build(aligned, config(decoder=2))  # layers 0 and 2
    assert two.generation_config.alignment_heads == [[1, 1], [1, 0]]
    assert student.build(aligned, config(decoder=None)).generation_config.alignment_heads == [[1, 0], [2, 1], [2, 0]]
    assert not hasattr(student.build(aligned, config(decoder={"first": 1})).generation_config, "alignment_heads")
    assert aligned.generation_config.alignment_heads == [[1, 0], [2, 1], [2, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_generation_field_survives_in_every_dtype(teacher, tmp_path, dtype):
    rich = copy.deepcopy(teacher[0])
    rich.generation_config.update(
        suppress_tokens=[3, 4], begin_suppress_tokens=[5], alignment_heads=[[0, 1]], length_penalty=0.9,
        no_speech_threshold=0.6, logprob_threshold=-1.0, compression_ratio_threshold=2.4,
        forced_decoder_ids=[[1, None]], num_beams=2, condition_on_prev_tokens=False,
    )  # fmt: skip
    made = student.build(rich, config()).eval()
    student.save(made, teacher[1], tmp_path / "s", dtype)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "s").eval()
    assert next(again.parameters()).dtype == dtype
    saved, given = again.generation_config.to_dict(), made.generation_config.to_dict()
    assert {name for name in given if given[name] != saved.get(name)} <= {"transformers_version"}
    assert set(given) <= set(saved)
    assert not [p.name for p in (tmp_path / "s").iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    features = torch.randn(1, 80, tiny.WINDOW_S * 100)
    made = made.to(dtype).float()  # rounded as it was stored, computed in full
    again.generation_config.forced_decoder_ids = made.generation_config.forced_decoder_ids = None
    ids = [m.generate(features, language="ar", max_new_tokens=9) for m in (made, again.float())]
    assert torch.equal(*ids)
