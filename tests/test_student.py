"""Students: which layers they copy, and that they reload and generate as their teacher does."""

import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

import tiny
from small import tone
from stillsmall import student
from stillsmall.config import ConfigError, Student


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tiny.whisper(tmp_path_factory.mktemp("t") / "teacher", encoder_layers=2, decoder_layers=3)
    return WhisperForConditionalGeneration.from_pretrained(folder).eval(), WhisperProcessor.from_pretrained(folder)


def config(encoder=None, decoder=2, freeze=True):
    shape = {"encoder_layers": encoder, "decoder_layers": decoder, "freeze_encoder": freeze, "save_dtype": "float32"}
    return Student(model=None, revision=None, **shape)


@pytest.mark.parametrize(
    ("teacher_layers", "layers", "copied"),
    [(32, 2, [0, 31]), (32, 3, [0, 15, 31]), (4, 4, [0, 1, 2, 3]), (12, 1, [0]), (4, 2, [0, 3])],
)
def test_layers_are_evenly_spaced_with_first_and_last_kept(teacher_layers, layers, copied):
    assert student.evenly_spaced(teacher_layers, layers) == copied


def test_sixteen_of_thirty_two_are_distinct_and_in_order():
    copied = student.evenly_spaced(32, 16)
    assert copied == sorted(set(copied)) and copied[0] == 0 and copied[-1] == 31 and len(copied) == 16


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


@pytest.mark.parametrize(("wanted", "words"), [(9, "has 3 layers"), ([0, 5], "from 0 to 2"), ([], "from 0 to 2")])
def test_layers_that_the_teacher_lacks_are_refused(teacher, wanted, words):
    with pytest.raises(ConfigError, match=rf"student\.decoder_layers: got .*{words}"):
        student.build(teacher[0], config(decoder=wanted))


def test_the_encoder_is_shared_only_where_it_is_whole_and_frozen():
    assert student.shares_encoder(config(), 2) and student.shares_encoder(config(encoder=2), 2)
    assert not student.shares_encoder(config(encoder=1), 2)
    assert not student.shares_encoder(config(freeze=False), 2)
