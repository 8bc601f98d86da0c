"""Run by torchrun in tests/test_multi_process.py: what several processes do together, written down by the first."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from stillsmall import config, distillation, multi_process
from stillsmall.config import Section
from stillsmall.objectives import TABLE
from stillsmall.objectives.base import Objective, Signals, TeacherLoss, TokenLoss, sample_mean, task_loss


class Counting(Objective):
    """Cross-entropy that counts its samples, and remembers the teacher's loss before training."""

    Config = Section
    needs = frozenset({"teacher"})

    def __init__(self, config: Section, path: str = "objectives") -> None:
        super().__init__(config, path)
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("easy", torch.tensor(0.0))

    def before_training(self, teacher_loss: TeacherLoss) -> None:
        self.easy.fill_(teacher_loss(5).mean())

    def forward(self, signals: Signals) -> TokenLoss:
        loss = task_loss(signals)
        self.seen += len(signals.sample_ids)
        samples = {"difficulty": sample_mean(loss.detach(), signals.mask)}
        return TokenLoss(loss, {"ce": loss.detach()}, {"easy": float(self.easy)}, samples)


def sums(out: Path) -> None:
    team = multi_process.join_team("cpu")
    both, one, none = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    both.grad = torch.tensor([1.0, 2.0]) * (team.rank + 1)
    one.grad = torch.tensor([5.0, 6.0]) if team.rank == 1 else None
    team.sum_gradients([both, one, none])
    before = {
        "mean": torch.tensor(1.0),
        "count": torch.tensor(7),
        "flag": torch.tensor(False),
        "still": torch.tensor(0.1),
    }
    buffers = {name: value.clone() for name, value in before.items()}
    buffers["mean"] += 4.0 * (team.rank + 1)
    buffers["count"] += team.rank + 1
    buffers["flag"] |= team.rank == 1
    team.agree(buffers, before, 0.75 if team.rank == 0 else 0.25)
    found = {
        "both": both.grad.tolist(), "one": one.grad.tolist(), "none": none.grad,
        "buffers": {name: value.item() for name, value in buffers.items()},
        "joined": team.join([team.rank] * (team.rank + 1)), "shares": team.gather(team.share(range(5))),
        "total": team.total({"a": 1.0} if team.rank else {"b": 2.0, "a": 3.0}),
    }  # fmt: skip
    if team.first:
        out.write_text(json.dumps(found))
    multi_process.leave()


def train(folder: Path) -> None:
    TABLE["counting"] = "together:Counting"
    out = [folder / name for name in ("student", "curve.csv", "samples.parquet", "distill.json")]
    params = config.load(Path("params.yaml"))
    multi_process.launch(params.distill.processes, sys.argv)
    distillation.distill(params, distillation.Paths(Path("train"), Path("kept.parquet"), *out, dev=Path("dev")))


if __name__ == "__main__":
    {"sums": sums, "train": train}[sys.argv[1]](Path(sys.argv[2]))
