"""What cannot be trained is refused in words, under its dotted path, before a step is taken or a cache filled."""

import subprocess
import sys

import pytest

import tiny
import tiny_ctc
from small import ROOT, write_params
from stillsmall import training
from stillsmall.compute import ModelError
from stillsmall.config import ConfigError
from test_training import CHANGES, corpus, paths, place, run  # noqa: F401

CTC = {
    "pseudo_label.model": "ctc", "student.decoder_layers": None,
    "distill.timestamp_probability": 0.0, "distill.previous_text_probability": 0.0,
}  # fmt: skip
PRUNING = {
    "kind": "iterative", "encoder_ffn": 1.0, "decoder_ffn": 0.5, "encoder_layers": None, "decoder_layers": None,
    "start": 0.1, "end": 0.7, "decay": 0.9,
}  # fmt: skip
LANGUAGE = [{"token": "xx", "mean_of": ["zh", "en"]}]
TEACHERS = {"distill.objective": "multi_teacher"}


@pytest.fixture
def idle(place, monkeypatch):  # noqa: F811
    """A place where training fails the test."""
    tiny_ctc.ctc(place / "models" / "ctc")
    (place / "data/raw/empty").mkdir(parents=True)
    monkeypatch.setattr(training.Trainer, "run", lambda *_: pytest.fail("training started"))
    return place


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill.more_teachers": [], **TEACHERS}, r"^distill\.more_teachers: is empty"),
        ({"distill.more_teachers": [{"model": "no", "revision": None}], **TEACHERS}, r"^distill\.more_teach.*'no'"),
        ({"distill.more_teachers": [{"model": "ctc", "revision": None}], **TEACHERS}, r"^distill\.more_.*ctc family"),
        ({"student.model": "teachr"}, r"^student\.model: no folder 'teachr'.* have: ctc, teacher"),
        ({"student.model": "ctc"}, r"^distill\.objective: 'kd' needs.*no vocabulary in common.*work: ce"),
        ({"student.encoder_layers": 9}, r"^student\.encoder_layers: got 9; the teacher has 2 layers"),
        ({"student.freeze": ["encoder", "decoder"]}, r"^student\.freeze: got \['encoder', 'decoder'\].*no weight"),
        ({"student.pruning": {**PRUNING, "decoder_layers": 9}}, r"^student\.pruning\.decoder_layers: got 9.*with 2"),
        ({"student.language_embedding": LANGUAGE}, r"^student\.language_embedding\[0\]\.token: unknown .* 'xx'"),
        ({"distill.patience": 3}, r"^distill\.patience: got 3, but distill\.dev_every is 0"),
        ({"distill.dev_every": 2}, r"^distill\.dev_every: got 2, but there is nothing to measure on"),
        ({"distill.batch_size": 2, "distill.processes": 3}, r"^distill\.processes: got 3.*batch_size = 2"),
        ({"augment.noise_folder": "no"}, r"^augment\.noise_folder: no audio file in data/raw/no"),
        ({"augment.noise_folder": "empty"}, r"^augment\.noise_folder: no audio file in data/raw/empty"),
        ({**CTC, "student.pruning": PRUNING}, r"^student\.pruning: got a section; that is for Whisper.*give null$"),
        ({**CTC, "student.language_embedding": LANGUAGE}, r"^student\.language_embedding: got a section.*give null$"),
        ({**CTC, "student.freeze": ["decoder"]}, r"^student\.freeze: got \['decoder'\]; that.*give \[\]$"),
        ({**CTC, "student.vocabulary": "corpus"}, r"^student\.vocabulary: got 'corpus'; that.*give full$"),
    ],
)
def test_it_says_what_cannot_be(idle, changes, message):
    with pytest.raises((ConfigError, ModelError), match=message):
        run(idle, **changes)


def test_a_teacher_with_other_tokens_is_refused(idle):
    made = tiny.whisper(idle / "models" / "other")
    (made / "tokenizer.json").write_text((made / "tokenizer.json").read_text().replace("<|ar|>", "<|sw|>"))
    (made / "tokenizer_config.json").write_text(
        (made / "tokenizer_config.json").read_text().replace("<|ar|>", "<|sw|>")
    )
    with pytest.raises(ConfigError, match=r"distill\.more_teachers.*model: other has other tokens"):
        run(idle, **TEACHERS, **{"distill.more_teachers": [{"model": "other", "revision": None}]})


def test_what_is_frozen_throughout_is_refused_before_anything_is_computed(idle):
    with pytest.raises(ConfigError, match=r"student\.freeze"):
        run(idle, **{"student.freeze": ["decoder"]})
    assert not list((idle / "cache").rglob("*.f16"))


def test_the_stage_says_it_once_whatever_the_number_of_processes(tmp_path):
    corpus(tmp_path)
    write_params(tmp_path / "params.yaml", **CHANGES, **{"distill.processes": 5})
    at = paths(tmp_path)
    names = {"params": "params.yaml", "split": at.split, "kept": at.kept, "dev": at.dev, "student": at.student}
    names |= {"curve": at.curve, "samples": at.samples, "metrics": at.metrics, "speed": "speed.json"}
    words = [word for name, value in names.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, str(ROOT / "stages/distill.py"), *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode and done.stderr.count("distill.processes: got 5") == 1 and "Traceback" not in done.stderr
