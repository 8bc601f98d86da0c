"""What the loop does besides learning: it measures, keeps the best, skips what is not finite, and forgets nothing."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from small import split
from stillsmall import cache, checkpoints, dev_set, distillation, loading, training
from stillsmall.asking import Asker
from stillsmall.config import ConfigError
from stillsmall.metrics import ErrorCounts
from stillsmall.training_log import Memory, TrainingError
from test_training import CHANGES, TEXTS, contents, corpus, params, paths, place, run, trainer_of  # noqa: F401

EVERY = {
    "distill.dev_every": 2, "augment.noise_probability": 0.5, "augment.mask_probability": 0.5,
    "augment.speed_probability": 0.5, "augment.reverb_probability": 0.5,
}  # fmt: skip


def dev(folder, texts=("the cat", "on the mat", None)):
    rows = [{"duration_s": 0.5 + 0.2 * i, "text": text, "utt_id": f"dev/{i}"} for i, text in enumerate(texts)]
    return split(folder / "dev", rows)


def summary(folder, name="one"):
    return json.loads((folder / name / "distill.json").read_text())


def rates(monkeypatch, *found):
    """The error rates of the dev set, made up: of 100 words, in turn."""
    left = iter(found)
    monkeypatch.setattr(dev_set.DevSet, "errors", lambda *_: ErrorCounts(100 - (n := next(left)), n, 0, 0))


def weights(folder, name="one"):
    return load_file(folder / name / "student" / "model.safetensors")


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_error_rates_are_taken_every_so_many_steps_and_at_the_end(place):  # noqa: F811
    dev(place)
    rows = run(place, **{"distill.dev_every": 5, "distill.log_every": 100})
    assert [row["step"] for row in rows if "dev_wer" in row] == [5, 10, 12]
    said = summary(place)["dev"]
    assert said["clips"] == 2 and said["kept"] == "last"
    assert said["best"]["wer"] == min(row["dev_wer"] for row in rows)


def test_measuring_does_not_change_what_is_learnt(place):  # noqa: F811
    dev(place)
    run(place)
    run(place, "two", **{"distill.dev_every": 3})
    assert same(weights(place), weights(place, "two"))


def test_the_rate_is_summed_errors_over_summed_words_of_what_the_student_says(place):  # noqa: F811
    dev(place)
    trainer = trainer_of(place, **{"distill.dev_every": 5})
    said = dict(zip(["the cat", "on the mat"], ["the cat sat", "on mat"], strict=True))
    wrong = replace(trainer.dev, transcribe=lambda _, heard, languages: [said[c.text] for c in trainer.dev.examples])
    assert wrong.errors(None, trainer.team) == ErrorCounts(hits=4, deletions=1, insertions=1)


def test_a_student_that_has_learnt_its_labels_by_heart_makes_few_errors_on_them(place):  # noqa: F811
    split(place / "dev", [{"duration_s": 0.5 + 0.2 * i, "text": text} for i, text in enumerate(TEXTS)])
    changes = {"distill.objective": "ce", "distill.timestamp_probability": 0.0, "student.decoder_layers": 3}
    changes |= {"distill.previous_text_probability": 0.0, "distill.batch_size": 6, "distill.micro_batch": 6}
    rows = run(place, **changes, **{"distill.steps": 120, "distill.dev_every": 60, "distill.log_every": 120})
    assert rows[-1]["dev_wer"] < 0.2


def test_without_a_dev_split_whole_recordings_of_the_labels_are_held_out(place):  # noqa: F811
    found = trainer_of(place).batches.found
    apart = [replace(e, recording=f"r{i // 2}") for i, e in enumerate(found)]
    rest, out = dev_set.held_out(apart, 0.4, seed=1)
    assert len(out) == 2 and len({e.recording for e in out}) == 1
    assert {e.utt_id for e in rest} | {e.utt_id for e in out} == {e.utt_id for e in found}
    assert not {e.recording for e in rest} & {e.recording for e in out}


def test_nothing_to_measure_on_is_an_error_that_says_what_to_do(place):  # noqa: F811
    with pytest.raises(ConfigError, match=r"distill\.dev_every: got 5.*dev_share is 0; give prepare\.sources"):
        run(place, **{"distill.dev_every": 5})
    with pytest.raises(ConfigError, match=r"distill\.keep: got 'best', but distill\.dev_every is 0"):
        run(place, **{"distill.keep": "best"})
    with pytest.raises(ConfigError, match=r"distill\.patience: got 3, but distill\.dev_every is 0"):
        run(place, **{"distill.patience": 3})


def test_the_best_weights_are_the_student_where_they_are_asked_for(place, monkeypatch):  # noqa: F811
    dev(place)
    changes = {"distill.dev_every": 3, "distill.schedule": "constant"}
    rates(monkeypatch, 50, 20, 30, 40)
    run(place, "best", **changes, **{"distill.keep": "best"})
    rates(monkeypatch, 50, 20, 30, 40)
    run(place, "last", **changes)
    rates(monkeypatch, 50, 20)
    run(place, "half", **changes, **{"distill.steps": 6})
    assert same(weights(place, "best"), weights(place, "half"))
    assert not same(weights(place, "best"), weights(place, "last"))
    assert summary(place, "best")["dev"]["best"] == {"step": 6, "wer": 0.2}


def test_patience_ends_training(place, monkeypatch):  # noqa: F811
    dev(place)
    rates(monkeypatch, 50, 20, 20, 30)
    rows = run(place, **{"distill.dev_every": 2, "distill.patience": 2})
    assert rows[-1]["step"] == 8 == summary(place)["steps"]
    monkeypatch.setattr(training.Trainer, "_step", lambda *_: pytest.fail("trained on"))
    run(place, "two", **{"distill.dev_every": 2, "distill.patience": 2})
    assert contents(place / "one") == contents(place / "two")


def test_after_a_resume_the_best_so_far_is_still_the_best(place, monkeypatch):  # noqa: F811
    """A run that is cut off after its best evaluation must not take a worse later one for the best."""
    dev(place)
    changes = {"distill.dev_every": 3, "distill.keep": "best", "distill.schedule": "constant"}
    rates(monkeypatch, 50, 20, 30, 40)
    run(place, "whole", **changes)
    monkeypatch.setattr(cache, "ROOT", place / "again")
    rates(monkeypatch, 50, 20)
    original, steps = training.Trainer._step, []

    def stop(self, step, *others):
        if step == 7 and not steps.append(step):
            raise KeyboardInterrupt
        return original(self, step, *others)

    monkeypatch.setattr(training.Trainer, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run(place, "cut", **changes)
    monkeypatch.setattr(training.Trainer, "_step", original)
    rates(monkeypatch, 30, 40)
    run(place, "cut", **changes)
    assert steps == [7]
    assert contents(place / "whole") == contents(place / "cut")


def test_best_weights_that_no_checkpoint_knows_of_do_no_harm(tmp_path):
    tensors = {"w": torch.ones(3)}
    checkpoints.save_best(tmp_path, 3, tensors)
    checkpoints.save_best(tmp_path, 6, {"w": torch.zeros(3)})  # then a kill, before the checkpoint of step 6
    checkpoints.load_best(tmp_path, 3, into := {"w": torch.zeros(3)})
    assert into["w"].tolist() == [1, 1, 1]
    checkpoints.forget_best_but(tmp_path, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["best-000000003.safetensors"]


def poisoned(monkeypatch, *steps, of=CHANGES["distill.steps"]):
    """Makes the loss of some steps (from 0) NaN."""
    original = Asker.__call__

    def signals(self, batch, progress):
        made = original(self, batch, progress)
        wrong = round(progress * of) in steps
        return replace(made, student_logits=made.student_logits * math.nan) if wrong else made

    monkeypatch.setattr(Asker, "__call__", signals)


def test_a_step_that_is_not_finite_is_skipped_counted_and_named(place, monkeypatch, capsys):  # noqa: F811
    poisoned(monkeypatch, 3, 5, 6)
    rows = run(place, **{"distill.max_bad_steps": 2})
    bad = summary(place)["bad_steps"]
    assert summary(place)["steps_skipped"]["bad"] == 3
    assert [entry["step"] for entry in bad] == [4, 6, 7]
    assert all(clip.startswith("small/") for entry in bad for clip in entry["clips"])
    assert "loss" not in rows[3] and "loss" in rows[4]
    assert "step 7: loss nan" in (said := capsys.readouterr().err) and "(2 of at most 2 in a row)" in said


def test_a_skipped_step_leaves_adams_moments_and_the_weights_alone(place, monkeypatch):  # noqa: F811
    """Poisoned last steps: all is as if training had ended before them."""
    changes = {"distill.schedule": "constant", "distill.checkpoint_every": 1}
    run(place, "short", **changes, **{"distill.steps": 8})
    poisoned(monkeypatch, 8, 9, of=10)
    run(place, "long", **changes, **{"distill.steps": 10})
    assert same(weights(place, "short"), weights(place, "long"))
    moments = [load_file(path) for path in (place / "cache/distill").glob("*/step-*/optimizer.safetensors")]
    assert len(moments) == 2 and moments[0] and same(*moments)


def test_one_bad_step_too_many_in_a_row_is_an_error(place, monkeypatch):  # noqa: F811
    poisoned(monkeypatch, 4, 5, 6)
    with pytest.raises(TrainingError, match=r"step 7: loss nan.*3 in a row \(distill\.max_bad_steps: 2\).*small/"):
        run(place, **{"distill.max_bad_steps": 2})


def test_a_step_without_a_unit_of_loss_is_passed_over(place, monkeypatch):  # noqa: F811
    original = loading.Loader.__call__

    def masked(self, step):
        load = original(self, step)
        if step != 2:
            return load
        return replace(load, batch=replace(load.batch, labels=torch.full_like(load.batch.labels, -100)))

    monkeypatch.setattr(loading.Loader, "__call__", masked)
    rows = run(place)
    assert rows[2]["tokens"] == 0 and "loss" not in rows[2] and "loss" in rows[3]
    assert summary(place)["steps_skipped"] == {"bad": 0, "empty": 1, "overflows": 0}


def test_gradient_checkpointing_gives_the_same_losses(place):  # noqa: F811
    plain = run(place, **{"student.freeze_encoder": False})
    kept = run(place, "two", **{"student.freeze_encoder": False, "distill.gradient_checkpointing": True})
    assert [r["loss"] for r in kept] == pytest.approx([r["loss"] for r in plain], rel=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_learns_much_the_same(place, dtype):  # noqa: F811
    plain, half = run(place), run(place, "two", **{"distill.dtype": dtype})
    pairs = [(r["loss"], plain[int(r["step"]) - 1]["loss"]) for r in half if "loss" in r]
    assert len(pairs) >= 8
    assert pairs[0][0] == pytest.approx(pairs[0][1], rel=5e-2)


def test_float16_halves_its_scale_on_overflow_and_goes_on(place):  # noqa: F811
    trainer = trainer_of(place, **{"distill.dtype": "float16"})
    from stillsmall.optimisation import Optimiser

    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = Optimiser(trainer.config, [weight], torch.device("cpu"))
    optimiser.backward((weight * torch.tensor([1e38, 1.0])).sum())  # times 65,536 it is beyond float32, too
    optimiser.unscale()
    assert optimiser.norm() == math.inf
    assert optimiser.skip() and optimiser.state()["scale"] == 32768.0
    assert weight.tolist() == [1, 1] and not optimiser.adam.state
    optimiser.backward(weight.sum())
    optimiser.unscale()
    assert optimiser.norm() == pytest.approx(math.sqrt(2))
    optimiser.step()
    assert weight[0] < 1
    other = Optimiser(trainer.config, [weight], torch.device("cpu"))
    other.restore(json.loads(json.dumps(optimiser.state())))
    assert other.state() == optimiser.state()


def test_parameters_may_learn_at_their_own_rate():
    from stillsmall.optimisation import Optimiser

    a, b = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    config = params(**{"distill.learning_rate": 0.1, "distill.warmup_steps": 2, "distill.weight_decay": 0.0}).distill
    optimiser = Optimiser(config, [a, b], torch.device("cpu"), [1.0, 0.01])
    assert optimiser.rate(0) == pytest.approx(0.05)
    optimiser.backward((a + b).sum())
    optimiser.norm()
    optimiser.step()  # Adam's first step is the learning rate long
    assert 1 - a.item() == pytest.approx(0.05, rel=1e-3) and 1 - b.item() == pytest.approx(0.0005, rel=1e-2)


@pytest.mark.parametrize("changes", [{}, {"distill.encoder_cache_gb": 0.0}, {"augment.noise_probability": 0.7}])
def test_what_is_made_ready_in_the_background_has_the_same_bits(place, monkeypatch, changes):  # noqa: F811
    run(place, **changes, **{"distill.prefetch": 0})
    monkeypatch.setattr(cache, "ROOT", place / "elsewhere")
    run(place, "two", **changes, **{"distill.prefetch": 3})
    assert contents(place / "one") == contents(place / "two")


def test_a_fault_in_the_background_is_the_loops_own(place, monkeypatch):  # noqa: F811
    monkeypatch.setattr(training.Batches, "__call__", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(place, **{"distill.objective": "ce"})


def test_how_the_work_is_spread_is_no_part_of_a_runs_name(place):  # noqa: F811
    run(place)
    run(place, "two", **{"distill.prefetch": 0})
    assert len(list((place / "cache" / "distill").iterdir())) == 1


def test_speed_is_kept_over_a_resume_and_apart_from_what_is_compared(place):  # noqa: F811
    at = replace(paths(place), speed=place / "speed.json")
    distillation.distill(params(**CHANGES), at)
    said = json.loads((place / "speed.json").read_text())
    assert said["seconds"] > 0 and 0 <= said["waiting_share"] <= 1 and said["processes"] == 1
    assert said["tokens_per_s"] > 0
    distillation.distill(params(**CHANGES), at)
    assert json.loads((place / "speed.json").read_text()) == said


def test_memory_survives_json():
    memory = Memory(step=3, rows=[{"step": 3, "loss": 0.1}], best_step=2, best_wer=0.1 + 0.2, waited=1, seconds=1 / 3)
    assert Memory(**json.loads(json.dumps(memory.as_dict()))) == memory


def test_the_report_says_what_was_skipped_and_the_best_rate():
    from stillsmall.reporting import intake

    distilled = {"labels": 6, "examples": 6, "epochs": 2.0, "parameters": 10**6, "steps": 12, "skipped": {}}
    plain = " ".join(intake.training(distilled, {}).sentences)
    assert "finite" not in plain and "not trained on" not in plain
    distilled |= {"steps_skipped": {"bad": 2}, "dev": {"clips": 3, "best": {"step": 8, "wer": 0.25}}}
    said = " ".join(intake.training(distilled, {}).sentences)
    assert "2 steps without a finite loss and gradient: skipped." in said
    assert "Lowest word error rate on 3 clips not trained on: 25.0" in said and "at step 8." in said
