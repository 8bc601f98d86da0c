"""Teacher outputs kept on disk: a proper distribution, the live losses, no wrong hit, and damage that is noticed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillsmall import teacher_cache
from stillsmall.objectives.base import token_kl
from stillsmall.teacher_cache import compress, expand
from test_training import CHANGES, contents, corpus, place, run, trainer_of  # noqa: F401

MANY = 10**6


def test_the_largest_keep_their_probability_and_the_others_share_theirs_by_hand():
    logits = torch.tensor([[math.log(0.5), math.log(0.3), math.log(0.15), math.log(0.05)]])
    back = expand(compress(logits, 2, 1.0), 4, 1.0).softmax(-1)[0].tolist()
    assert back == pytest.approx([0.5, 0.3, 0.1, 0.1], abs=1e-3)


@given(st.integers(0, MANY), st.integers(1, 9), st.sampled_from([1.0, 2.0, 4.0]))
def test_at_its_temperature_it_is_a_distribution_with_the_same_largest_ones(seed, k, temperature):
    logits = 3 * torch.randn(5, 9, generator=torch.Generator().manual_seed(seed))
    full, back = (
        z.div(temperature).softmax(-1) for z in (logits, expand(compress(logits, k, temperature), 9, temperature))
    )
    assert torch.allclose(back.sum(-1), torch.ones(5), atol=1e-5)
    top = logits.topk(k).indices
    assert torch.allclose(back.gather(1, top), full.gather(1, top), atol=4e-3)


def test_the_error_of_the_kl_falls_with_k_and_is_nothing_at_the_whole_vocabulary():
    torch.manual_seed(0)
    teacher, student = 4 * torch.randn(1, 50, 200), 4 * torch.randn(1, 50, 200)
    mask = torch.ones(1, 50, dtype=torch.bool)
    whole = token_kl(teacher, student, mask, 2.0).mean()
    errors = []
    for k in (4, 32, 128, 200):
        kept = expand(compress(teacher[0], k, 2.0), 200, 2.0, student[0])[None]
        errors.append(float(whole - token_kl(kept, student, mask, 2.0).mean()) / float(whole))
    assert errors == sorted(errors, reverse=True) and abs(errors[-1]) < 1e-3 < errors[0]


def test_kept_and_live_outputs_give_the_same_losses(place):  # noqa: F811
    vocabulary = {"distill.teacher_cache_top_k": 10_000, "distill.steps": 8}
    kept, live = run(place, **vocabulary), run(place, "two", **vocabulary, **{"distill.teacher_cache_gb": 0.0})
    assert [r["loss"] for r in kept] == pytest.approx([r["loss"] for r in live], rel=2e-3)
    assert len(list((place / "cache" / "teacher").iterdir())) == 1


def test_kept_outputs_are_the_live_ones_in_every_variant(place):  # noqa: F811
    wide = {"distill.teacher_cache_top_k": 10_000}
    kept, live = trainer_of(place, **wide), trainer_of(place, **wide, **{"distill.teacher_cache_gb": 0.0})
    seen = set()
    for step in range(6):
        batch = kept.batches(step)
        seen |= set(batch.variants)
        mask = batch.labels != -100
        p, q = (t.asker.teacher(batch, False).first.logits[mask].softmax(-1) for t in (kept, live))
        assert torch.allclose(p, q, atol=2e-3)
    assert seen == {0, 1, 2, 3}


def test_a_second_run_asks_no_teacher(place, monkeypatch):  # noqa: F811
    run(place)
    monkeypatch.setattr(teacher_cache.TeacherCache, "_compute", lambda *_: pytest.fail("the teacher was asked again"))
    run(place, "two", **{"distill.learning_rate": 1e-4})


def test_other_weights_and_another_temperature_are_other_outputs(place, monkeypatch):  # noqa: F811
    monkeypatch.setitem(CHANGES, "distill.teacher_cache_top_k", 64)
    run(place)
    run(place, "two", **{"objectives.kd.temperature": 1.0})
    corpus(place / "other")
    run(place, "three", **{"pseudo_label.model": str(place / "other/models/teacher")})
    assert len(list((place / "cache" / "teacher").iterdir())) == 2  # the same weights elsewhere are the same weights
    import tiny

    tiny.whisper(place / "models" / "other", seed=5)
    run(place, "four", **{"pseudo_label.model": "other"})
    assert len(list((place / "cache" / "teacher").iterdir())) == 3


def test_damage_is_noticed_and_mended(place, capsys):  # noqa: F811
    run(place)
    (folder,) = (place / "cache" / "teacher").iterdir()
    good = contents(folder)
    with (folder / "values").open("r+b") as file:
        file.write(b"\0\1\2\3")
    run(place, "two", **{"distill.learning_rate": 1e-4})
    assert "is damaged" in capsys.readouterr().err
    assert contents(folder) == good


def test_filling_goes_on_after_a_kill_with_the_same_bytes(place, monkeypatch):  # noqa: F811
    monkeypatch.setattr(teacher_cache, "FILL_BATCH", 2)
    monkeypatch.setattr(teacher_cache, "SAVED_EVERY", 1)
    monkeypatch.setitem(CHANGES, "distill.teacher_cache_top_k", 64)
    run(place)
    (folder,) = (place / "cache" / "teacher").iterdir()
    whole = contents(folder)
    teacher_cache.shutil.rmtree(folder)
    original, asked = teacher_cache.compress, []

    def dies(*args):
        asked.append(1)
        if len(asked) == 12:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(teacher_cache, "compress", dies)
    with pytest.raises(KeyboardInterrupt):
        run(place, "two", **{"distill.learning_rate": 1e-4})
    asked.clear()
    monkeypatch.setattr(teacher_cache, "compress", lambda *args: (asked.append(1), original(*args))[1])
    run(place, "two", **{"distill.learning_rate": 1e-4})
    assert contents(folder) == whole and 0 < len(asked) < 24 - 8


def test_over_the_budget_the_teacher_is_live_and_says_so(place, capsys):  # noqa: F811
    run(place, **{"distill.teacher_cache_gb": 1e-9, "distill.steps": 3})
    assert "over distill.teacher_cache_gb: live" in capsys.readouterr().err


def test_with_a_student_the_kl_is_the_one_over_k_and_any_other_by_hand_and_in_its_gradient():
    torch.manual_seed(0)
    teacher, student = 2 * torch.randn(4, 9), (2 * torch.randn(4, 9)).requires_grad_()
    mask, k, temperature = torch.ones(1, 4, dtype=torch.bool), 3, 2.0
    top = teacher.topk(k).indices

    def merged(logits):
        p = (logits / temperature).softmax(-1)
        first = p.gather(-1, top)
        return torch.cat([first, 1 - first.sum(-1, keepdim=True)], -1)

    p, q = merged(teacher), merged(student)
    by_hand = temperature**2 * (p * (p / q).log()).sum(-1)
    (wanted,) = torch.autograd.grad(by_hand.sum(), student)
    again = expand(compress(teacher, k, temperature), 9, temperature, student.detach())
    kl = token_kl(again[None], student[None], mask, temperature)
    (got,) = torch.autograd.grad(kl.sum(), student)
    assert torch.allclose(kl[0], by_hand, atol=5e-3) and torch.allclose(got, wanted, atol=5e-3)
