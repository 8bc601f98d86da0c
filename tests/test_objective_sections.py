"""Sections of `objectives`: names, kinds of one's own, one inside another, and errors under their dotted path."""

import pytest
import torch

from stillsmall import families
from stillsmall.compute import ModelError
from stillsmall.config import ConfigError, Section
from stillsmall.families.base import family_of
from stillsmall.objectives import TABLE, build
from stillsmall.objectives.base import Objective, Signals, TokenLoss, task_loss
from stillsmall.plugins import UnknownName

KD = {"ce_weight": 0.8, "kl_weight": 1.0, "temperature": 2.0}


class Halved(Objective):
    """A wrapper for these tests: half of what is inside, and a count of its calls that a checkpoint keeps."""

    class Config(Section):
        inner: dict

    def __init__(self, config, path):
        super().__init__(config, path)
        self.inner = build.inline(config.inner, f"{path}.inner")
        self.needs = self.inner.needs
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, signals):
        self.calls += 1
        return TokenLoss(0.5 * self.inner(signals).per_token)


@pytest.fixture
def halved(monkeypatch):
    monkeypatch.setitem(TABLE, "halved", f"{__name__}:Halved")


def test_an_objective_inside_another_brings_its_needs_and_its_loss(halved):
    made = build.build({"halved": {"inner": {"kind": "kd", **KD}}}, "halved")
    plain = build.build({"kd": KD}, "kd")
    given = Signals(torch.randn(2, 3, 5), torch.randint(0, 5, (2, 3)), ("a", "b"), 0.0, torch.randn(2, 3, 5))
    assert made.needs == {"teacher"}
    assert torch.allclose(made(given).per_token, 0.5 * plain(given).per_token)


def test_a_name_of_ones_own_takes_a_kind():
    assert type(build.build({"soft": {"kind": "kd", **KD}}, "soft")).__name__ == "KnowledgeDistillation"


@pytest.mark.parametrize(
    ("sections", "name", "message"),
    [
        ({}, "kdd", r"^distill\.objective: unknown 'kdd'; did you mean 'kd'\?"),
        ({"mine": {}}, "mine", r"^objectives\.mine: unknown 'mine'.*needs a kind"),
        ({"mine": {"kind": "kdd"}}, "mine", r"^objectives\.mine\.kind: unknown 'kdd'; did you mean 'kd'"),
        ({"kd": {"kind": "ce"}}, "kd", r"^objectives\.kd\.kind: got 'ce'; a section named after an objective"),
        ({"halved": {"inner": {"kind": "kd", **KD, "temperature": 0}}}, "halved", r"^objectives\.halved\.inner\.temp"),
        ({"halved": {"inner": {"kind": "halved", "inner": {}}}}, "halved", r"^objectives\.halved\.inner\.inner: got"),
        ({"halved": {"inner": {"gamma": 2}}}, "halved", r"^objectives\.halved\.inner: got .* a section with a kind"),
        ({"kd": 3}, "kd", r"^objectives\.kd: got 3; expected a section"),
    ],
)
def test_faults_name_their_dotted_path(halved, sections, name, message):
    with pytest.raises((ConfigError, UnknownName), match=message):
        build.build(sections, name)


def test_the_ctc_loss_over_frames_is_the_clips_loss_per_token():
    logits, labels = torch.randn(2, 6, 4), torch.tensor([[1, 2], [3, -100]])
    frames = torch.arange(6)[None] < torch.tensor([[6], [4]])
    given = Signals(logits, labels, ("a", "b"), 0.0, frames=frames)
    loss = task_loss(given)
    for row, (target, length) in enumerate([([1, 2], 6), ([3], 4)]):
        one = torch.nn.functional.ctc_loss(
            logits[row, :length].log_softmax(-1)[:, None], torch.tensor([target]), [length], [len(target)],
            reduction="none",
        )  # fmt: skip
        assert torch.allclose(loss[row, :length], one / len(target), atol=1e-5)
        assert (loss[row, length:] == 0).all()
    assert torch.equal(given.mask, frames)


def test_a_model_of_no_known_family_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"pseudo_label\.model: .* type 'bert'.*whisper"):
        family_of(str(tmp_path), None, "pseudo_label")
    assert "whisper" in families.TABLE


def test_buffers_of_an_objective_survive_in_the_checkpoint(halved, tmp_path):
    from stillsmall import checkpoints

    made = build.build({"halved": {"inner": {"kind": "ce"}}}, "halved")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    made(Signals(torch.randn(1, 1, 3), torch.tensor([[1]]), ("a",), 0.0))
    checkpoints.save(tmp_path, 7, {"w": weight, **dict(made.named_buffers())}, optimizer, {"rows": []})
    fresh, other = build.build({"halved": {"inner": {"kind": "ce"}}}, "halved"), torch.nn.Parameter(torch.zeros(3))
    memory = checkpoints.load(tmp_path, {"w": other, **dict(fresh.named_buffers())}, torch.optim.AdamW([other]))
    assert memory == {"step": 7, "rows": []}
    assert fresh.calls.item() == 1 and torch.equal(other, weight)


@pytest.mark.parametrize("outer", ["focal", "superloss"])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_loss_that_holds_a_learning_teachers_own_is_not_weighed(outer, depth):
    from small import params

    sections = params().objectives
    inner = {"kind": "joint", **sections["joint"]}
    for _ in range(depth):
        inner = {"kind": "hidden", **sections["hidden"], "inner": inner}
    with pytest.raises(ConfigError, match=rf"^objectives\.{outer}\.inner\.kind: got '\w+', whose teacher learns too"):
        build.build({outer: {**sections[outer], "inner": inner}}, outer)
    listens = {"kind": outer, **sections[outer], "inner": {"kind": "kd", **KD}}
    turned = {"joint": {**sections["joint"], "inner": listens}}
    assert build.build(turned, "joint").needs >= {"models"}
