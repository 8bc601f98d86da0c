"""What the student hears: levels, lengths and masks as asked for; the same draw for the same clip and epoch."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from small import params, tone
from stillsmall import audio, augmentation, cache
from stillsmall.augmentation import Augmentation, at_speed
from stillsmall.config import ConfigError
from stillsmall.data import Example, Part
from stillsmall.speech_lab.rooms import rms
from test_training import contents, paths, place, run, trainer_of  # noqa: F401

QUIET = {"augment.noise_probability": 0.0}


def made(fits=lambda example: True, noises=(), **changes):
    return Augmentation(params(**{f"augment.{k}": v for k, v in changes.items()}).augment, 1, noises, fits)


def example(seconds=2.0, name="u"):
    part = Part(name, name, 0.0, seconds)
    segments = ((0.0, seconds / 2, "a"), (seconds / 2, seconds, "b"))
    return Example(name, (part,), "en", "a b", segments, "", "s", "r", "p", 0.0)


def test_by_default_nothing_is_changed():
    found = made()
    assert not found.moves and not found.changes
    clip, features = tone(0.5), torch.rand(80, 200)
    assert found.clip(clip, "u", 0) is clip
    assert found.example(e := example(), 0) is e
    assert found.masks(features[None], [e], 0)[0] is features[None][0] or torch.equal(
        found.masks(features[None], [e], 0)[0], features
    )


@settings(max_examples=25, deadline=None)
@given(snr=st.floats(-5, 40), seed=st.integers(0, 99), kind=st.sampled_from(["white", "pink"]))
def test_noise_lies_as_far_under_the_clip_as_it_is_asked_to(snr, seed, kind):
    clean = tone(0.5)
    heard = made(noise_probability=1.0, noise_snr_db=[snr, snr], noise_kinds=[kind]).clip(clean, str(seed), 0)
    assert 20 * np.log10(rms(clean) / rms(heard - clean)) == pytest.approx(snr, abs=0.1)
    assert heard.shape == clean.shape and heard.dtype == np.float32


def test_pink_noise_falls_by_three_decibels_an_octave_and_white_does_not():
    silence_but = tone(8.0)

    def slope(kind):
        noise = made(noise_probability=1.0, noise_kinds=[kind]).clip(silence_but, "u", 0) - silence_but
        power = np.abs(np.fft.rfft(noise)) ** 2
        frequency = np.fft.rfftfreq(noise.size, 1 / audio.SAMPLE_RATE)
        bands = [power[(frequency >= f) & (frequency < 2 * f)].mean() for f in (200, 400, 800, 1600, 3200)]
        return np.polyfit(range(5), 10 * np.log10(bands), 1)[0]

    assert slope("white") == pytest.approx(0.0, abs=0.4)
    assert slope("pink") == pytest.approx(-3.0, abs=0.4)


def test_recorded_noise_comes_from_the_folder_and_goes_round(tmp_path):
    noise = np.linspace(-0.5, 0.5, 4000).astype(np.float32)
    (tmp_path / "noises").mkdir()
    soundfile.write(tmp_path / "noises" / "ramp.wav", noise, 16000, subtype="FLOAT")
    files = augmentation.noise_files(str(tmp_path), "noises")
    clean = tone(1.0)
    added = made(noises=files, noise_probability=1.0, noise_snr_db=[10.0, 10.0]).clip(clean, "u", 0) - clean
    assert added[:4000] == pytest.approx(added[4000:8000], abs=1e-4)  # shorter than the clip: once more
    steps = np.diff(added[:4000])
    assert np.median(steps) == pytest.approx(np.diff(noise)[0] * added.max() / 0.5, rel=0.05)
    with pytest.raises(ConfigError, match=r"augment\.noise_folder: no audio file in .*elsewhere"):
        augmentation.noise_files(str(tmp_path), "elsewhere")


def test_other_noises_are_another_run(tmp_path):
    config = params().augment
    for level in (0.1, 0.2):
        soundfile.write(tmp_path / "n.wav", np.full(800, level), 16000)
        found = augmentation.identity(config, (tmp_path / "n.wav",))
        assert found != augmentation.identity(config, ())
        first = found if level == 0.1 else first  # noqa: F821
    assert first != found


def test_a_room_falls_by_sixty_decibels_in_the_time_that_is_asked_for():
    click = np.zeros(16000, np.float32)
    click[0] = 1.0
    heard = made(reverb_probability=1.0, reverb_rt60_s=[0.5, 0.5], reverb_wet=[0.5, 0.5]).clip(click, "u", 0)
    assert rms(heard) == pytest.approx(rms(click), rel=1e-5)  # as loud as before
    level = [10 * np.log10(np.mean(heard[a : a + 800] ** 2)) for a in range(800, 7200, 800)]
    assert np.polyfit(np.arange(len(level)) * 0.05, level, 1)[0] == pytest.approx(-60 / 0.5, rel=0.1)
    assert not heard[8000:].any() or np.abs(heard[8000:]).max() < 1e-6
    assert (heard[1:] ** 2).sum() / heard[0] ** 2 == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.25])
def test_speed_changes_length_and_pitch(factor):
    clean = tone(2.0, pitch=400.0)
    heard = at_speed(clean, factor, round(32000 / factor))
    assert heard.size == round(32000 / factor)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(heard.size)))
    pitch = np.fft.rfftfreq(heard.size, 1 / 16000)[spectrum.argmax()]
    assert pitch == pytest.approx(400 * factor, abs=1.0)
    assert at_speed(clean, 1.0, 32000) is clean


def test_the_labels_times_move_with_the_speed():
    found = made(speed_probability=1.0, speed_factors=[1.25]).example(example(2.0), 0)
    assert found.duration_s == pytest.approx(1.6) and found.speed == 1.25
    assert found.samples == 25600 and example(2.0).samples == 32000
    assert found.segments == ((0.0, pytest.approx(0.8), "a"), (pytest.approx(0.8), pytest.approx(1.6), "b"))


def test_a_clip_that_would_no_longer_fit_stays_as_it_is():
    changes = {"speed_probability": 1.0, "speed_factors": [0.8]}
    e = example(2.0)
    assert made(lambda x: x.duration_s <= 2.2, **changes).example(e, 0) is e
    assert made(lambda x: x.duration_s <= 2.6, **changes).example(e, 0).duration_s == pytest.approx(2.5)


@settings(max_examples=40, deadline=None)
@given(seconds=st.floats(0.02, 2.0), epoch=st.integers(0, 50))
def test_masks_hold_the_mean_and_keep_to_their_sizes_and_to_the_clip(seconds, epoch):
    changes = {"mask_probability": 1.0, "frequency_masks": 2, "frequency_mask_bins": 10}
    features = torch.rand(80, 200)
    heard = made(**changes, time_masks=2, time_mask_s=0.3, time_mask_share=0.4).mask(features, example(seconds), epoch)
    frames = max(1, round(seconds * 100))
    changed = heard != features
    assert not changed[:, frames:].any()
    assert torch.allclose(heard[changed], features[:, :frames].mean())
    rows, columns = changed[:, :frames].all(1), changed[:, :frames].all(0)
    assert int(columns.sum()) <= 2 * min(30, int(0.4 * frames)) or rows.all()
    assert not (changed[:, :frames] & ~rows[:, None] & ~columns[None]).any()  # whole rows and whole columns alone
    assert int(rows.sum()) <= 20 or columns.all()


def test_draws_depend_on_clip_and_epoch_alone():
    found = made(noise_probability=0.5, reverb_probability=0.5, speed_probability=0.5, mask_probability=0.5)
    again = made(noise_probability=0.5, reverb_probability=0.5, speed_probability=0.5, mask_probability=0.5)
    clean, names = tone(0.3), [f"u{i}" for i in range(20)]
    forward = {name: found.clip(clean, name, 3) for name in names}
    backward = {name: again.clip(clean, name, 3) for name in reversed(names)}
    assert all(np.array_equal(forward[name], backward[name]) for name in names)
    changed = sum(not np.array_equal(forward[name], clean) for name in names)
    assert 8 <= changed < 20  # three in four of them
    assert any(not np.array_equal(forward[name], found.clip(clean, name, 4)) for name in names)
    speeds = [found.example(example(name=name), 0).speed for name in names]
    assert {0.9, 1.0, 1.1} == set(speeds)


def test_a_range_that_ends_before_it_begins_is_an_error():
    with pytest.raises(ConfigError, match=r"augment: .*noise_snr_db: the range \[30\.0, 5\.0\] must begin"):
        params(**{"augment.noise_snr_db": [30.0, 5.0]})


ALL = {f"augment.{kind}_probability": 1.0 for kind in ("noise", "reverb", "mask")} | {"distill.teacher_cache_gb": 0.0}


def test_the_teacher_hears_clean_clips_unless_it_is_to_hear_the_same(place):  # noqa: F811
    for hears, alike in (("clean", False), ("same", True)):
        trainer = trainer_of(place, **ALL, **{"augment.teacher_hears": hears})
        micro = next(trainer.batches(0).micro(2))
        student, teacher = trainer.asker.ears.student(micro), trainer.asker.ears.teacher(micro)
        assert torch.equal(student, teacher) is alike
        assert torch.equal(teacher, trainer.asker.ears(micro.index)) is not alike
        assert (trainer.asker.teacher.states[0] is None) is alike  # kept states are of clean clips
        assert trainer.asker.student_states is None


def test_at_another_speed_both_hear_the_clip_at_it_and_its_label_is_timed_anew(place):  # noqa: F811
    changes = {"augment.speed_probability": 1.0, "augment.speed_factors": [1.25], "distill.timestamp_probability": 1.0}
    trainer, plain = trainer_of(place, **changes), trainer_of(place, **{"distill.timestamp_probability": 1.0})
    batch, before = trainer.batches(0), plain.batches(0)
    assert batch.index == before.index
    assert torch.equal(trainer.asker.ears.student(batch), trainer.asker.ears.teacher(batch))
    assert not torch.equal(trainer.asker.ears.student(batch), trainer.asker.ears(batch.index))
    assert trainer.asker.teacher.states[0] is None and trainer.asker.student_states is None
    begin = trainer.batches.targets.tokens.timestamp_begin
    for row, i in enumerate(batch.index):
        times = [batch.labels[row][batch.labels[row] >= begin].max() - begin for batch in (batch, before)]
        whole = plain.batches.found[i].duration_s
        assert [int(t) for t in times] == [round(whole / 1.25 / 0.02), round(whole / 0.02)]


def test_a_teacher_with_a_processor_of_its_own_hears_by_that(place):  # noqa: F811
    ears = replace(
        trainer_of(place, **{"distill.encoder_cache_gb": 0.0}).asker.ears, teacher_processor="other", held={}
    )
    heard = {"other": torch.ones(1), ears.processor: torch.zeros(1)}
    by = type("Ear", (), {"features": lambda self, processor, clips: heard[processor]})()
    ears, batch = replace(ears, family=by, wanted={(True, False), (False, False)}), trainer_of(place).batches(0)
    for _ in range(2):  # at once, and made ready
        assert (ears.student(batch), ears.teacher(batch)) == (torch.zeros(1), torch.ones(1))
        assert ears(batch.index) == torch.zeros(1)
        ears.prepare(batch)
    assert len(ears.held) == 2
    ears.forget(batch)
    assert not ears.held


def test_an_augmented_run_trains_and_is_the_same_twice(place, monkeypatch, capsys):  # noqa: F811
    changes = ALL | {"augment.speed_probability": 0.5}
    rows = run(place, **changes)
    assert "the student hears clips anew in each epoch: encoder states are live" in capsys.readouterr().err
    assert not list((place / "cache" / "encoder").glob("*")) if (place / "cache" / "encoder").exists() else True
    monkeypatch.setattr(cache, "ROOT", place / "elsewhere")
    run(place, "two", **changes)
    assert contents(place / "one") == contents(place / "two")
    assert rows[0]["loss"] != run(place, "three")[0]["loss"]


def test_kept_states_of_the_clean_teacher_are_never_the_students(place):  # noqa: F811
    trainer = trainer_of(place, **ALL)
    micro = next(trainer.batches(0).micro(4))
    kept = trainer.asker.teacher.states[0]
    assert kept is not None and kept.cached
    with torch.no_grad():
        signals = trainer.asker(micro, 0.0)
        clean = trainer.family.forward(trainer.student, micro, None, kept(micro.index))
    assert not torch.allclose(signals.student_logits, clean.logits, atol=1e-3)


def test_a_model_that_hears_waveforms_has_no_masks(place, monkeypatch):  # noqa: F811
    from stillsmall.families.whisper import WhisperFamily

    monkeypatch.setattr(WhisperFamily, "features", lambda self, processor, clips: torch.zeros(len(clips), 100))
    changes = {"augment.mask_probability": 0.5, "distill.encoder_cache_gb": 0.0}
    with pytest.raises(ConfigError, match=r"augment\.mask_probability: got 0\.5, but the model hears waveforms"):
        run(place, **changes)


def test_augmentation_is_part_of_a_runs_name(place):  # noqa: F811
    run(place)
    run(place, "two", **{"augment.noise_probability": 0.1})
    assert len(list((place / "cache" / "distill").iterdir())) == 2
    assert json.loads((place / "one" / "distill.json").read_text())["steps"] == 12
    assert replace(paths(place)).dev is not None
