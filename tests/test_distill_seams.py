"""Where the parts of distillation meet: names of kept work, who hears what, processes, objectives inside others."""

import json
import shutil
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import test_ctc_students as ctc_students
import tiny
import tiny_ctc
from small import score_row, split
from stillsmall import assembly, cache, manifest, optimisation, teacher_cache
from stillsmall.asking import Asker
from stillsmall.config import ConfigError
from stillsmall.families.base import Output
from stillsmall.multi_process import Team
from stillsmall.students.vocabulary import Trimmed
from stillsmall.teacher_outputs import Said
from test_training import contents, place, run, trainer_of  # noqa: F401

KD = {"kind": "kd", "ce_weight": 0.8, "kl_weight": 1.0, "temperature": 2.0}
WHOLE = {"distill.teacher_cache_top_k": 10_000}


@pytest.fixture
def ctc_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "ROOT", tmp_path / "cache")
    return ctc_students.corpus(tmp_path)


def keep(folder, numbers, first, text="the cat"):
    """Labels of four clips, all of one text."""
    ends = {i: round(first + 0.2 * i, 1) for i in numbers}
    rows = [
        score_row(utt_id=f"small/{i:03d}", parent=f"small/{i:03d}", end_s=end, teacher_text=text,
                  segments=[{"start": 0.0, "end": end, "text": text}])
        for i, end in ends.items()
    ]  # fmt: skip
    manifest.write(folder / "kept.parquet", rows, manifest.SCORE)


def outputs(trainer):
    batch = trainer.batches(0)
    with torch.no_grad():
        said = trainer.asker.teacher(batch, False).first.logits
    mask = batch.labels != -100 if batch.frames is None else torch.arange(said.shape[1])[None] < batch.frames[:, None]
    return said[mask].softmax(-1)


@pytest.mark.parametrize("family", ["whisper", "ctc"])
def test_outputs_of_other_clips_with_the_same_texts_are_other_outputs(family, request):
    folder = request.getfixturevalue("place" if family == "whisper" else "ctc_place")
    of, first = (trainer_of, 0.5) if family == "whisper" else (ctc_students.trainer_of, 0.6)
    plain = {**WHOLE, "distill.timestamp_probability": 0.0, "distill.previous_text_probability": 0.0}
    for numbers in ((0, 1, 2, 3), (2, 3, 4, 5)):
        keep(folder, numbers, first)
        kept = outputs(of(folder, **plain))
        live = outputs(of(folder, **plain, **{"distill.teacher_cache_gb": 0.0}))
        assert torch.allclose(kept, live, atol=2e-3)


def test_tokens_of_a_student_are_part_of_the_name_of_kept_outputs(place):  # noqa: F811
    hearing = SimpleNamespace(params=trainer_params(place), audio="a", family=trainer_of(place).family)
    models = [
        SimpleNamespace(pair=SimpleNamespace(revisions=("r",)), kept=kept)
        for kept in (None, Trimmed((0, 1), 4), Trimmed((0, 2), 4))
    ]
    assert len({cache.digest(assembly.kept_identity(hearing, m)) for m in models}) == 3


def trainer_params(folder):
    return SimpleNamespace(distill=trainer_of(folder).config)


def test_a_teacher_on_a_device_is_given_batches_of_that_device(place):  # noqa: F811
    trainer, seen = trainer_of(place), set()

    def teacher(batch, hidden):
        seen.update(t.device.type for t in (batch.labels, batch.inputs))
        return Said(Output(torch.zeros(*batch.labels.shape, 9)))

    made = teacher_cache.TeacherCache(
        lambda: teacher, trainer.batches.found, trainer.batches.targets, ["x"], 4, 1.0, 9, torch.device("meta")
    )
    made.fill(lambda by: None)
    assert seen == {"meta"} and made.vocabulary == 9


def test_filling_that_was_killed_at_its_very_end_is_finished_with_the_same_bytes(place, monkeypatch):  # noqa: F811
    monkeypatch.setattr(teacher_cache, "SAVED_EVERY", 1)
    run(place)
    (folder,) = (place / "cache" / "teacher").iterdir()
    whole, write, written = contents(folder), cache.write_json, []
    shutil.rmtree(folder)

    def dies(path, value):
        write(path, value)
        written.append(path.name)
        if written.count("progress.json") == 4:  # four variants, a batch each
            raise KeyboardInterrupt

    monkeypatch.setattr(cache, "write_json", dies)
    with pytest.raises(KeyboardInterrupt):
        run(place, "two", **{"distill.learning_rate": 1e-4})
    monkeypatch.setattr(cache, "write_json", write)
    run(place, "two", **{"distill.learning_rate": 1e-4})
    assert contents(folder) == whole


class Threads(Team):
    """A team of two threads."""

    shared = SimpleNamespace(barrier=threading.Barrier(2, timeout=20), values={})

    def wait(self):
        self.shared.barrier.wait()

    def gather(self, value):
        self.shared.values[self.rank] = value
        self.wait()
        found = [self.shared.values[0], self.shared.values[1]]
        self.wait()
        return found


def test_one_process_alone_fills_the_kept_outputs_of_a_teacher_with_states_of_its_own(place, monkeypatch):  # noqa: F811
    asked, original, filled = [], assembly.teacher_outputs, []
    monkeypatch.setattr(assembly, "teacher_outputs", lambda *given: (asked.append(given), original(*given))[1])
    trainer_of(place, **{"student.freeze_encoder": False})
    ((hearing, models, *rest),) = asked
    for part in ("teacher", "encoder"):
        shutil.rmtree(place / "cache" / part)
    compute = teacher_cache.TeacherCache._compute
    monkeypatch.setattr(
        teacher_cache.TeacherCache, "_compute", lambda self, advance: (filled.append(1), compute(self, advance))[1]
    )
    made = {}

    def take(rank):
        made[rank], _ = original(hearing, replace(models, team=Threads(rank, 2)), *rest)

    threads = [threading.Thread(target=take, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [0, 1] and len(filled) == 1 and Threads.shared.barrier.n_waiting == 0


@pytest.mark.parametrize("family", ["whisper", "ctc"])
def test_a_live_teacher_hears_clean_audio_where_that_is_said(family, request):
    folder = request.getfixturevalue("place" if family == "whisper" else "ctc_place")
    of = trainer_of if family == "whisper" else ctc_students.trainer_of
    noisy = {"distill.objective": "joint", "objectives.joint.trains": "all", "augment.noise_probability": 1.0}
    for hears, is_clean in (("clean", True), ("same", False)):
        asker = (trainer := of(folder, **noisy, **{"augment.teacher_hears": hears})).asker
        batch = trainer.batches(0)
        with torch.no_grad():
            said = asker(batch, 0.0).models.teacher()
            clean = asker.family.forward(asker.teacher_model, batch, asker.ears(batch.index), None).logits
        assert torch.allclose(said, clean, atol=1e-4) == is_clean


def test_weights_of_a_further_teacher_are_part_of_a_runs_name(place):  # noqa: F811
    tiny.whisper(place / "models/other", seed=3)
    two = {"distill.objective": "multi_teacher", "distill.more_teachers": [{"model": "other", "revision": None}]}
    before = run(place, **two, **{"distill.steps": 2})
    tiny.whisper(place / "models/other", seed=4)
    assert run(place, **two, **{"distill.steps": 2})[0]["kl"] != before[0]["kl"]


def test_transcripts_that_error_rates_are_taken_against_are_part_of_a_runs_name(place):  # noqa: F811
    rates = {"distill.dev_every": 1, "distill.steps": 2}
    split(place / "dev", [{"duration_s": 1.0, "text": "the cat"}])
    one = run(place, **rates)
    split(place / "dev", [{"duration_s": 1.0, "text": "the cat sat on the mat and said nothing at all"}])
    assert run(place, **rates)[0]["dev_wer"] != one[0]["dev_wer"]


@pytest.mark.parametrize("outer", ["okd", "joint"])
def test_a_teacher_that_learns_can_be_heard_by_adakd(place, outer):  # noqa: F811
    inner = {
        "kind": "adakd", "task": {"kind": "ce"}, "distillation": KD, "difficulty": "raw", "arm": "progressive",
        "k": {"kind": "linear", "start": 15.0, "end": -10.0, "power": 1.0}, "most": 4,
    }  # fmt: skip
    rows = run(place, **{"distill.objective": outer, f"objectives.{outer}.inner": inner, "distill.steps": 2})
    assert 0 < rows[0]["alpha"] < 1


def test_teachers_that_nobody_hears_are_named(place, capsys):  # noqa: F811
    run(place, **{"distill.more_teachers": [{"model": "teacher", "revision": None}], "distill.steps": 2})
    said = "distill.more_teachers: got 1, but distill.objective 'kd' hears one teacher at most: they are not loaded"
    assert said in capsys.readouterr().err


def test_a_further_teacher_that_hears_otherwise_is_refused(ctc_place):
    other = tiny_ctc.ctc(ctc_place / "models/other", seed=1)
    said = other / "processor_config.json"
    said = said if said.is_file() else other / "preprocessor_config.json"
    given = json.loads(said.read_text())
    (given.get("feature_extractor") or given)["do_normalize"] = False
    said.write_text(json.dumps(given))
    two = {"distill.objective": "multi_teacher", "distill.more_teachers": [{"model": "other", "revision": None}]}
    with pytest.raises(ConfigError, match=r"more_teachers\.0\.model: other hears with do_normalize False"):
        ctc_students.run(ctc_place, **two)


def test_patience_would_end_pruning_half_way(place):  # noqa: F811
    pruning = {"kind": "capacity", "encoder_layers": None, "decoder_layers": 1, "start": 0.1, "end": 0.7}
    changes = {"student.decoder_layers": None, "student.pruning": {**pruning, "weight": 1.0, "gate_speed": 10.0}}
    with pytest.raises(ConfigError, match=r"distill\.patience: got 2, but student\.pruning needs the whole run"):
        run(place, **changes, **{"distill.patience": 2, "distill.dev_every": 1})


def test_a_whisper_students_masks_are_augments_alone(place):  # noqa: F811
    """A teacher that was tuned with transformers' SpecAugment, whose masks no seed of ours reaches."""
    config = place / "models/teacher/config.json"
    masks = {"apply_spec_augment": True, "mask_time_prob": 0.9, "mask_time_length": 10, "decoder_layerdrop": 0.5}
    config.write_text(json.dumps(json.loads(config.read_text()) | masks))
    trainer = trainer_of(place, **{"student.freeze_encoder": False})
    trainer.student.train()
    batch = trainer.batches(0)
    heard = trainer.asker.ears(batch.index)
    with torch.no_grad():
        one, two = (trainer.family.forward(trainer.student, batch, heard, None).logits for _ in range(2))
    assert torch.equal(one, two)


def test_a_snapshot_is_taken_though_the_step_before_was_skipped(place, monkeypatch):  # noqa: F811
    mu = {"kind": "constant", "start": 0.5, "end": 0.5, "power": 1.0, "begin": 0.5, "until": 1.0}
    lam = {**mu, "start": 0.0, "end": 0.0, "begin": 0.0}
    taken, norms, norm, asked = [], [], optimisation.Optimiser.norm, Asker._past

    def second_is_broken(self):
        norms.append(norm(self))
        return float("nan") if len(norms) == 2 else norms[-1]

    def heard(self, *given):
        taken.append(self.own_past.taken)
        return asked(self, *given)

    monkeypatch.setattr(optimisation.Optimiser, "norm", second_is_broken)
    monkeypatch.setattr(Asker, "_past", heard)
    given = {"objectives.askd.lam": lam, "objectives.askd.mu": mu, "objectives.askd.self_teacher": "snapshot"}
    run(place, **given, **{"distill.objective": "askd", "distill.steps": 4})
    assert taken == [True, True]
