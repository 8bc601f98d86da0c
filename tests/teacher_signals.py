"""What tests of teachers share: sections of the objectives, plain signals, and a tiny Whisper pair with live models."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from stillsmall.live_models import LiveModels
from stillsmall.objectives.base import IGNORED, Signals
from stillsmall.objectives.build import build

KD = {"kind": "kd", "ce_weight": 0.8, "kl_weight": 1.0, "temperature": 2.0}
NEVER = {"kind": "constant", "start": 0.0, "end": 0.0, "power": 1.0}
SECTIONS: dict[str, dict[str, Any]] = {
    "drkd": {"inner": KD},
    "multi_teacher": {
        "combine": "mean",
        "sharpness": 1.0,
        "learning_rate_factor": 3.0,
        "baseline_decay": 0.5,
        "inner": KD,
    },
    "imitkd": {
        "ce_weight": 0.8,
        "kl_weight": 1.0,
        "temperature": 2.0,
        "target": "distribution",
        "beta": {"kind": "linear", "start": 1.0, "end": 0.0, "power": 1.0},
    },
    "okd": {
        "layers": 2,
        "modules": ["q_proj", "v_proj"],
        "rank": 2,
        "alpha": 4.0,
        "student_weight": 1.0,
        "temperature": 2.0,
        "learning_rate_factor": 0.5,
        "inner": KD,
    },
    "akd": {"share": 0.25, "epsilon": 0.1, "temperature": 2.0, "inner": KD},
    "joint": {"teacher_weight": 1.0, "trains": "decoder", "learning_rate_factor": 0.1, "inner": KD},
}


def make(name: str, **given: Any) -> Any:
    return build({name: {**SECTIONS[name], **given}}, name)


def kd(ce_weight: float = 0.8, kl_weight: float = 1.0, temperature: float = 2.0) -> Any:
    return build({"kd": {"ce_weight": ce_weight, "kl_weight": kl_weight, "temperature": temperature}}, "kd")


def plain(dtype: torch.dtype = torch.float32, **given: Any) -> Signals:
    torch.manual_seed(5)
    logits = {name: torch.randn(2, 3, 6, dtype=dtype) for name in ("student_logits", "teacher_logits")}
    logits["student_logits"].requires_grad_(True)
    labels = torch.tensor([[1, 2, 3], [4, 0, IGNORED]])
    return replace(Signals(logits["student_logits"], labels, ("a", "b"), 0.0, logits["teacher_logits"]), **given)


class Whispers:
    """A tiny teacher, a student of one of its layers, and a batch with Whisper's prefixes."""

    def __init__(self, folder: Path) -> None:
        self.teacher: Any = WhisperForConditionalGeneration.from_pretrained(folder).requires_grad_(False).eval()
        torch.manual_seed(7)
        self.student: Any = copy.deepcopy(self.teacher)
        with torch.no_grad():
            for parameter in self.student.model.decoder.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        self.student.model.decoder.requires_grad_(True)
        generation = self.teacher.generation_config
        start, end = generation.decoder_start_token_id, generation.eos_token_id
        prefix = [start, generation.lang_to_id["<|en|>"], generation.task_to_id["transcribe"]]
        mark = generation.no_timestamps_token_id
        rows = [
            [*prefix, mark, 5, 6, 7, 8, end],
            [generation.prev_sot_token_id, 9, 10, *prefix, 11, 12, end],
        ]
        self.inputs = torch.tensor([row[:-1] for row in rows])
        labels = [row[1:] for row in rows]
        labels[0][2] = IGNORED  # the no-timestamps mark
        labels[1][:3] = [IGNORED] * 3  # the prompt
        self.labels = torch.tensor(labels)
        self.mels = torch.randn(2, 80, 200, generator=torch.Generator().manual_seed(1))
        self.forced = [4, 6]

    def live(self) -> LiveModels:
        return LiveModels(self.student, self.teacher, self.inputs, lambda: self.mels)

    def signals(self, progress: float = 0.0) -> Signals:
        live = self.live()
        student = live.student()
        with torch.no_grad():
            teacher = live.teacher()
        return Signals(student, self.labels, ("a", "b"), progress, teacher, models=live)


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
