"""The loop on a tiny Whisper: it learns, resumes to the bit, sums over the whole step; the teacher sees the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tiny
from small import ROOT, params, score_row, split, write_params
from stillsmall import cache, distillation, manifest, optimisation, training
from stillsmall.config import ConfigError
from stillsmall.objectives.base import reduce

TEXTS = ["the cat", "sat on the mat", "and said", "nothing at all", "the mat sat", "on the cat"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    return corpus(tmp_path)


def corpus(folder: Path) -> Path:
    """Six clips of one recording with labels, and a tiny teacher."""
    tiny.whisper(folder / "models" / "teacher")
    split(folder / "train", [{"duration_s": 0.5 + 0.2 * i, "recording": "r"} for i in range(6)])
    rows = [
        score_row(
            utt_id=f"small/{i:03d}", parent=f"small/{i:03d}", recording="r", offset_s=float(i), end_s=0.5 + 0.2 * i,
            teacher_text=text, segments=[{"start": 0.0, "end": 0.5 + 0.2 * i, "text": text}],
        )
        for i, text in enumerate(TEXTS)
    ]  # fmt: skip
    manifest.write(folder / "kept.parquet", rows, manifest.SCORE)
    return folder


CHANGES = {
    "models.root": "models", "run.threads": 1, "distill.steps": 12, "distill.batch_size": 4, "distill.micro_batch": 4,
    "distill.warmup_steps": 2, "distill.checkpoint_every": 3, "distill.log_every": 1, "distill.device": "cpu",
    "distill.learning_rate": 3e-3, "distill.previous_text_probability": 0.5, "distill.timestamp_probability": 0.5,
}  # fmt: skip


def paths(folder, name="one"):
    out = [folder / name / part for part in ("student", "curve.csv", "samples.parquet", "distill.json")]
    return distillation.Paths(folder / "train", folder / "kept.parquet", *out, dev=folder / "dev")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(folder, name="one", **changes):
    distillation.distill(params(**{**CHANGES, **changes}), paths(folder, name))
    lines = (folder / name / "curve.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [zip(names, line.split(","), strict=True) for line in lines[1:]]
    return [{key: float(value) for key, value in row if value} for row in rows]


@pytest.mark.parametrize("objective", ["ce", "kd"])
def test_a_student_learns_its_labels(place, objective):
    rows = run(place, **{"distill.objective": objective, "distill.steps": 60, "distill.previous_text_probability": 0.0})
    assert rows[-1]["ce"] < 0.5 * rows[0]["ce"]


def test_with_the_encoder_trained_too_and_without_its_cache(place):
    assert len(run(place, **{"student.freeze_encoder": False})) == 12
    assert len(run(place, "two", **{"distill.encoder_cache_gb": 0.0})) == 12
    assert len(run(place, "three", **{"student.encoder_layers": 1})) == 12


def test_cached_and_live_encoder_states_give_the_same_losses(place):
    cached, live = run(place), run(place, "two", **{"distill.encoder_cache_gb": 0.0})
    assert [r["loss"] for r in cached] == pytest.approx([r["loss"] for r in live], rel=2e-2)
    assert list((place / "cache" / "encoder").glob("*.f16"))


def test_micro_batches_give_the_gradient_of_the_whole_step(place):
    whole, parts = run(place), run(place, "two", **{"distill.micro_batch": 1})
    assert [r["loss"] for r in parts] == pytest.approx([r["loss"] for r in whole], rel=1e-3)
    assert [r["tokens"] for r in parts] == [r["tokens"] for r in whole]


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


def test_the_teacher_sees_exactly_the_students_inputs_prompt_and_all(place):
    """A student that is its teacher has no KL on prompted samples; a broken prefix would show."""
    changes = {
        "student.decoder_layers": None,
        "distill.previous_text_probability": 1.0,
        "distill.teacher_cache_gb": 0.0,
    }
    trainer = trainer_of(place, **changes)
    trainer.student.eval()
    prompted = 0
    for step in range(trainer.batches.per_epoch):
        batch = trainer.batches(step)
        prompted += int((batch.inputs[:, 0] == trainer.batches.targets.tokens.previous).sum())
        with torch.no_grad():
            out = trainer.objective.forward(trainer.asker(batch, 0.0))
        assert float(reduce(out.parts["kl"], batch.tokens)) == pytest.approx(0.0, abs=1e-5)
    assert prompted == 5  # all but the first of the recording


def test_a_prompt_changes_what_the_teacher_says(place):
    plain, prompted = (trainer_of(place, **{"distill.previous_text_probability": p}) for p in (0.0, 1.0))
    index = plain.batches(0).index
    assert index == prompted.batches(0).index
    with torch.no_grad():
        a, b = (t.asker(t.batches(0), 0.0) for t in (plain, prompted))
    last = [(s.labels != -100).cumsum(1).argmax(1) for s in (a, b)]
    row = torch.arange(len(index))
    assert not torch.allclose(a.teacher_logits[row, last[0]], b.teacher_logits[row, last[1]], atol=1e-3)


def test_two_runs_give_the_same_bytes_and_a_second_one_trains_nothing(place, monkeypatch):
    run(place)
    monkeypatch.setattr(cache, "ROOT", place / "elsewhere")
    run(place, "two")
    assert contents(place / "one") == contents(place / "two")
    monkeypatch.setattr(training.Trainer, "_step", lambda *_: pytest.fail("trained again"))
    run(place, "three")
    assert contents(place / "one") == contents(place / "three")


def test_the_frozen_encoder_is_the_teachers(place):
    from safetensors.torch import load_file

    run(place)
    ours = load_file(place / "one/student/model.safetensors")
    theirs = load_file(place / "models/teacher/model.safetensors")
    names = [name for name in ours if name.startswith("model.encoder.")]
    assert names and all(torch.equal(ours[name], theirs[name]) for name in names)
    assert not torch.equal(ours["model.decoder.embed_tokens.weight"], theirs["model.decoder.embed_tokens.weight"])


@pytest.mark.timeout(300)
def test_killed_at_several_moments_it_ends_with_the_same_bytes(tmp_path):
    corpus(tmp_path)
    write_params(tmp_path / "params.yaml", **CHANGES | {"distill.steps": 60})

    def start(store):
        names = {"split": "train", "kept": "kept.parquet", "student": f"{store}-out/student"}
        names |= {
            "curve": f"{store}-out/curve.csv",
            "samples": f"{store}-out/samples.parquet",
            "metrics": f"{store}-out/distill.json",
            "dev": "dev",
            "speed": f"{store}-speed.json",
            "params": "params.yaml",
        }
        command = [sys.executable, str(ROOT / "stages/distill.py")]
        command += [word for name, value in names.items() for word in (f"--{name}", value)]
        environment = {**os.environ, "STILLSMALL_CACHE": str(tmp_path / store)}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

    assert start("undisturbed").wait() == 0
    for steps in (3, 24, 45):
        run = start("killed")
        while run.poll() is None and not any(
            int(p.name.split("-")[1]) >= steps for p in (tmp_path / "killed" / "distill").glob("*/step-*")
        ):
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert start("killed").wait() == 0
    assert contents(tmp_path / "killed-out") == contents(tmp_path / "undisturbed-out")


def test_combinations_that_cannot_be_stop_before_anything_is_loaded(place):
    with pytest.raises(ConfigError, match=r"distill\.timestamp_probability: got 0\.5.*timestamps is false"):
        run(place, **{"pseudo_label.timestamps": False})
    with pytest.raises(ConfigError, match=r"distill\.warmup_steps: got 99; there are only 12"):
        run(place, **{"distill.warmup_steps": 99})
    with pytest.raises(
        ValueError, match=r"distill\.objective: unknown 'kdd'; did you mean 'kd'\? Have: .*ce, drkd.*kd"
    ):
        run(place, **{"distill.objective": "kdd"})


def test_a_loss_that_is_not_finite_names_the_step_and_the_clips(place):
    with pytest.raises(training.TrainingError, match=r"step \d+: loss nan.*small/"):
        run(place, **{"distill.learning_rate": 1e30, "distill.warmup_steps": 0, "distill.clip_norm": 1e30})


def test_labels_of_which_none_fits_are_an_error_with_the_reason(place):
    rows = [score_row(utt_id="small/000", parent="small/000", end_s=9.0, duration_s=9.0)]
    manifest.write(place / "kept.parquet", rows, manifest.SCORE)
    with pytest.raises(ConfigError, match="no label fits the model.*longer than the window"):
        run(place)


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_learning_rate_warms_up_and_decays(schedule, middle):
    config = params(**{"distill.schedule": schedule, "distill.steps": 110, "distill.warmup_steps": 10}).distill
    factor = [optimisation.learning_rate_factor(config, step) for step in range(110)]
    assert factor[0] == pytest.approx(0.1) and factor[9] == 1.0
    assert factor[60] == pytest.approx(middle)
    assert factor[109] < 0.02 or schedule == "constant"
