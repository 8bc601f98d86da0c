"""CTC students: made of layers, trained by the one loop, killed and resumed, of another family than their teacher."""

from pathlib import Path

import pytest
import torch

import tiny
import tiny_ctc
from small import params, score_row, split, tone
from stillsmall import cache, ctc, distillation, manifest, training, transcription
from stillsmall.compute import ModelError
from stillsmall.config import ConfigError, Student
from stillsmall.families.base import family_of
from stillsmall.objectives.base import reduce
from stillsmall.teachers.base import Clip

TEXTS = ["the cat", "sat on the mat", "and said", "nothing", "the mat sat", "on a cat"]
CHANGES = {
    "models.root": "models", "run.threads": 1, "distill.steps": 12, "distill.batch_size": 4, "distill.micro_batch": 4,
    "distill.warmup_steps": 2, "distill.checkpoint_every": 3, "distill.log_every": 1, "distill.device": "cpu",
    "distill.learning_rate": 3e-3, "distill.previous_text_probability": 0.0, "distill.timestamp_probability": 0.0,
    "student.decoder_layers": None, "student.encoder_layers": 2,
}  # fmt: skip
WHISPER = {"student.decoder_layers": 1, "student.encoder_layers": None}


def corpus(folder: Path, kind: str = "wav2vec2", norm: str = "layer") -> Path:
    """Six clips with labels, and a tiny CTC teacher."""
    tiny_ctc.ctc(folder / "models" / "teacher", kind, norm)
    split(folder / "train", [{"duration_s": 0.6 + 0.2 * i} for i in range(6)])
    kept(folder, TEXTS)
    return folder


def kept(folder, texts):
    rows = [
        score_row(utt_id=f"small/{i:03d}", parent=f"small/{i:03d}", end_s=0.6 + 0.2 * i, teacher_text=text,
                  segments=[{"start": 0.0, "end": 0.6 + 0.2 * i, "text": text}])
        for i, text in enumerate(texts)
    ]  # fmt: skip
    manifest.write(folder / "kept.parquet", rows, manifest.SCORE)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    return corpus(tmp_path)


def paths(folder, name="one"):
    out = [folder / name / part for part in ("student", "curve.csv", "samples.parquet", "distill.json")]
    return distillation.Paths(folder / "train", folder / "kept.parquet", *out)


def run(folder, name="one", **changes):
    distillation.distill(params(**{**CHANGES, **changes}), paths(folder, name))
    lines = (folder / name / "curve.csv").read_text().splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, map(float, line.split(",")), strict=True)) for line in lines[1:]]


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_student_learns_its_labels(place):
    rows = run(place, **{"distill.objective": "ce", "distill.steps": 80})
    assert rows[-1]["ce"] < 0.5 * rows[0]["ce"]


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("kind", tiny_ctc.KINDS)
def test_it_comes_nearer_to_its_teacher_and_can_be_read_back(tmp_path, monkeypatch, kind, norm):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    folder = corpus(tmp_path, kind, norm)
    rows = run(folder, **{"objectives.kd.ce_weight": 0.0, "distill.steps": 30})
    assert rows[-1]["loss"] == rows[-1]["kl"] < 0.7 * rows[0]["kl"]
    model = ctc.load(str(folder / "one/student"), None, torch.float32, "student")
    assert (model.config.model_type, model.config.num_hidden_layers) == (kind, 2)
    assert [p.name for p in (folder / "one/student").iterdir() if p.suffix in (".bin", ".pt", ".safetensors")] == [
        "model.safetensors"
    ]
    assert ctc.processor(str(folder / "one/student"), None).tokenizer("CAT").input_ids == [7, 5, 24]


def trainer_of(folder, **changes):
    made = {}

    def catch(self, on_step=None):
        made["trainer"] = self
        return []

    original, training.Trainer.run = training.Trainer.run, catch
    try:
        distillation.distill(params(**{**CHANGES, **changes}), paths(folder))
    except IndexError:
        pass  # there are no rows to write: only the trainer is wanted
    finally:
        training.Trainer.run = original
    return made["trainer"]


def test_a_student_that_is_its_teacher_has_no_kl(place):
    trainer = trainer_of(
        place, **{"student.encoder_layers": None, "distill.objective": "kd", "distill.teacher_cache_gb": 0.0}
    )
    trainer.student.eval()
    for step in range(trainer.batches.per_epoch):
        batch = trainer.batches(step)
        with torch.no_grad():
            signals = trainer.asker(batch, 0.0)
            out = trainer.objective(signals)
        assert batch.frames.tolist() == [trainer.batches.lengths[i] for i in batch.index]
        assert signals.student_logits.shape[1] == int(batch.frames.max())
        assert float(reduce(out.parts["kl"], batch.tokens)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_micro_batches_give_the_gradient_of_the_whole_step(tmp_path, monkeypatch, norm):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    folder = corpus(tmp_path, "wav2vec2-conformer", norm)
    no_dropout = {"hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout"}
    no_dropout = dict.fromkeys({*no_dropout, "conformer_conv_dropout"}, 0.0)
    tiny_ctc.ctc(folder / "models" / "teacher", "wav2vec2-conformer", norm, **no_dropout)
    whole, parts = run(folder), run(folder, "two", **{"distill.micro_batch": 1})
    assert [r["loss"] for r in parts] == pytest.approx([r["loss"] for r in whole], rel=1e-3)
    assert [r["tokens"] for r in parts] == [r["tokens"] for r in whole]


def killed(step, at, trainer, number, *rest):
    if number == at:
        raise KeyboardInterrupt
    return step(trainer, number, *rest)


@pytest.mark.parametrize("kind", tiny_ctc.KINDS)
def test_killed_it_ends_with_the_same_bytes(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    folder, step = corpus(tmp_path, kind), training.Trainer._step
    run(folder)
    monkeypatch.setattr(cache, "ROOT", tmp_path / "elsewhere")
    for dies in (1, 5, 10):  # checkpoints are after 3, 6, 9: some steps are done again
        with monkeypatch.context() as patch:
            patch.setattr(training.Trainer, "_step", lambda self, n, *a, at=dies: killed(step, at, self, n, *a))
            with pytest.raises(KeyboardInterrupt):
                run(folder, "two")
    assert sorted(p.name for p in (tmp_path / "elsewhere/distill").glob("*/step-*")) == ["step-000000009"]
    run(folder, "two")
    assert contents(folder / "two") == contents(folder / "one")


def built(folder, **shape):
    family = family_of(str(folder), None, "student")
    base, _ = family.load(str(folder), None, "student")
    given = {**params(**CHANGES).student.model_dump(), **shape}
    return family.build(base, Student(**given)), base


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_what_it_says_while_it_trains_is_what_it_says_as_a_teacher(tmp_path, norm):
    folder = tiny_ctc.ctc(tmp_path / "m", norm=norm, seed=1)
    family = family_of(str(folder), None, "student")
    model, processor = family.load(str(folder), None, "student")
    clips = [Clip(str(i), tone(0.5 + 0.3 * i, 200 + 90 * i, i), "en") for i in range(3)]
    heard = family.features(processor, [clip.audio for clip in clips])
    judge = transcription.listener(str(folder), "en", False, "cpu", 1)
    texts = [rows[0].text for rows in judge.transcribe(clips)]
    assert family.transcribe(model, processor, heard, ["en"] * 3, params()) == texts and any(texts)


@pytest.mark.parametrize("kind", tiny_ctc.KINDS)
def test_layers_are_the_teachers_evenly_spaced_and_what_is_drawn_in_training_is_off(tmp_path, kind):
    made, base = built(tiny_ctc.ctc(tmp_path / "m", kind))
    ours, theirs = (getattr(m, m.base_model_prefix) for m in (made, base))
    for new, old in ((0, 0), (1, 2)):
        states = (side.encoder.layers[n].state_dict() for side, n in ((ours, new), (theirs, old)))
        assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    assert (made.config.layerdrop, made.config.apply_spec_augment) == (0.0, False)
    assert not any(p.requires_grad for p in ours.feature_extractor.parameters())
    assert all(p.requires_grad for p in ours.encoder.parameters()) and made.lm_head.weight.requires_grad
    made.train()
    norms = [m for m in made.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert bool(norms) is (kind == "wav2vec2-conformer") and not any(m.training for m in norms)
    free, _ = built(tmp_path / "m", freeze_encoder=False)
    assert all(p.requires_grad for p in getattr(free, free.base_model_prefix).feature_extractor.parameters())


def test_what_a_ctc_student_lacks_is_refused(place):
    with pytest.raises(ConfigError, match=r"student\.decoder_layers: got 2; a wav2vec2 model has no decoder; give nul"):
        run(place, **{"student.decoder_layers": 2})
    with pytest.raises(ConfigError, match=r"student\.encoder_layers: got 9; the teacher has 3 layers"):
        run(place, **{"student.encoder_layers": 9})
    for name in ("timestamp_probability", "previous_text_probability"):
        with pytest.raises(ConfigError, match=rf"distill\.{name}: got 0\.5; a wav2vec2 student has neither"):
            run(place, **{f"distill.{name}": 0.5})


def test_labels_that_it_cannot_learn_are_skipped_with_the_reason(place):
    long = "aabbccddee" * 9  # 90 letters, 45 of them twice: 135 frames, and 0.6 s has 29
    kept(place, [long, "it costs 5", "\u4f60\u597d", "...", "fine", "on a cat"])
    assert len(run(place, **{"distill.objective": "ce"})) == 12
    skipped = cache.json.loads((place / "one/distill.json").read_text())["skipped"]
    assert skipped == {
        "label longer than its frames": 1,
        "the student's vocabulary lacks digits of the label": 1,
        "the student's vocabulary lacks letters of the label": 1,
        "label without a character of the student's vocabulary": 1,
    }


def test_the_collated_batch_holds_units_and_frames(place):
    trainer = trainer_of(place)
    targets, found = trainer.batches.targets, trainer.batches.found
    batch = targets.collate([0, 1], found[:2], [0, 0])
    assert batch.inputs is None and batch.labels.tolist() == [
        [24, 12, 9, 4, 7, 5, 24, *[-100] * 7],
        [23, 5, 24, 4, 19, 18, 4, 24, 12, 9, 4, 17, 5, 24],
    ]
    assert batch.frames.tolist() == [29, 39] and batch.tokens == 68
    assert [part.labels.shape[1] for part in batch.micro(1)] == [7, 14]


def test_a_student_may_be_of_another_model_with_the_teachers_vocabulary(place):
    tiny_ctc.ctc(place / "models/other", "hubert", hidden_size=16, intermediate_size=32)
    rows = run(place, **{"student.model": "other", "distill.objective": "kd", "distill.steps": 30})
    assert rows[-1]["loss"] < rows[0]["loss"] and "kl" in rows[0]
    model = ctc.load(str(place / "one/student"), None, torch.float32, "student")
    assert (model.config.model_type, model.config.hidden_size) == ("hubert", 16)


def test_frames_that_differ_are_refused(place):
    tiny_ctc.ctc(place / "models/other", conv_stride=(8, 8, 10), conv_kernel=(10, 8, 16))
    with pytest.raises(ModelError, match=r"student\.model: its config has conv_kernel \[?\(?10, 8, 16"):
        run(place, **{"student.model": "other"})


def test_a_whisper_teacher_and_a_ctc_student_meet_at_the_text(place, monkeypatch):
    tiny.whisper(place / "models/whisper")
    across = {"pseudo_label.model": "whisper", "student.model": "teacher"}
    with pytest.raises(ConfigError) as refused:
        run(place, **across)
    message = str(refused.value)
    assert "distill.objective: 'kd' needs the teacher's outputs (teacher)" in message
    assert "whisper (whisper, " in message and "teacher (ctc, 32 tokens)" in message
    assert "ce" in message.partition("text alone work: ")[2].split(", ")
    monkeypatch.setattr("stillsmall.families.whisper.WhisperFamily.load", lambda *_: pytest.fail("loaded the teacher"))
    rows = run(place, **across, **{"distill.objective": "ce", "distill.steps": 60})
    assert rows[-1]["ce"] < 0.6 * rows[0]["ce"]


def test_a_ctc_teacher_and_a_whisper_student_meet_at_the_text(place):
    tiny.whisper(place / "models/whisper")
    across = {"student.model": "whisper", **WHISPER, "distill.timestamp_probability": 0.5}
    with pytest.raises(ConfigError, match=r"teacher \(ctc, 32 tokens\) and student\.model is whisper \(whisper, "):
        run(place, **across)
    rows = run(place, **across, **{"distill.objective": "ce", "distill.steps": 60})
    assert rows[-1]["ce"] < 0.6 * rows[0]["ce"]


def test_a_small_whisper_may_learn_from_a_large_one_that_is_no_relative(place):
    tiny.whisper(place / "models/large")
    tiny.whisper(place / "models/small", seed=1, encoder_layers=1, decoder_layers=1)
    across = {"pseudo_label.model": "large", "student.model": "small", **WHISPER}
    rows = run(place, **across, **{"distill.steps": 60})
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"] and rows[0]["kl"] > 0


def test_a_revision_of_no_model_is_refused(place):
    with pytest.raises(ConfigError, match=r"student\.revision: got 'abc', but there is no student\.model"):
        run(place, **{"student.revision": "abc"})
    with pytest.raises(ModelError, match=r"student\.model: no folder 'nowhere' .*; have: teacher"):
        run(place, **{"student.model": "nowhere"})
    with pytest.raises(ModelError, match=r"student\.revision: 'a/b' is a hub id"):
        run(place, **{"student.model": "a/b"})


def test_other_words_in_the_same_family_are_refused_too(place):
    tiny_ctc.ctc(place / "models/lower", vocabulary=[token.lower() for token in tiny_ctc.UPPER])
    with pytest.raises(ConfigError, match=r"no vocabulary in common"):
        run(place, **{"student.model": "lower"})
