"""Small signals of both families, in float64, for tests of objectives."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch

from stillsmall.config import read_yaml
from stillsmall.objectives.base import IGNORED, Objective, Signals
from stillsmall.objectives.build import inline

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"
CE = {"kind": "ce"}
KL = {"kind": "kd", "ce_weight": 0.0, "kl_weight": 1.0, "temperature": 1.0}


def text(
    batch: int = 3, units: int = 4, vocabulary: int = 7, seed: int = 0, progress: float = 0.3, **more: Any
) -> Signals:
    """A batch whose last clip is one token shorter than the others; the student's logits want a gradient."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, vocabulary, (batch, units), generator=draw)
    labels[-1, -1] = IGNORED
    given = {
        "student_logits": logits(draw, batch, units, vocabulary).requires_grad_(),
        "labels": labels,
        "sample_ids": tuple(f"clip-{i}" for i in range(batch)),
        "progress": progress,
        "teacher_logits": logits(draw, batch, units, vocabulary),
    }
    return Signals(**{**given, **more})


def ctc(batch: int = 3, frames: int = 9, vocabulary: int = 6, seed: int = 0, progress: float = 0.3) -> Signals:
    """Clips of 9, 8, 7, ... frames with labels of 3 tokens (the last clip: 2) that no two neighbours share."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.tensor([[1, 2, 3]]).repeat(batch, 1)
    labels[-1, -1] = IGNORED
    return Signals(
        student_logits=logits(draw, batch, frames, vocabulary).requires_grad_(),
        labels=labels,
        sample_ids=tuple(f"clip-{i}" for i in range(batch)),
        progress=progress,
        teacher_logits=logits(draw, batch, frames, vocabulary),
        frames=torch.arange(frames).unsqueeze(0) < frames - torch.arange(batch).unsqueeze(1),
        blank=0,
    )


def logits(draw: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def all_masked(signals: Signals) -> Signals:
    """The same without a unit that has a loss."""
    empty = torch.full_like(signals.labels, IGNORED)
    frames = None if signals.frames is None else torch.zeros_like(signals.frames)
    return dataclasses.replace(signals, labels=empty, frames=frames)


def made(kind: str, **changed: Any) -> Objective:
    """An objective with params.yaml's values but for what is given."""
    section = read_yaml(PARAMS)["objectives"][kind]
    return inline({"kind": kind, **copy.deepcopy(section), **changed}, f"objectives.{kind}")


def binary(p_of_label: float) -> torch.Tensor:
    """(1, 1, 2) logits with that probability for token 0."""
    p = torch.tensor([p_of_label, 1 - p_of_label], dtype=torch.float64)
    return p.log().view(1, 1, 2).requires_grad_()
