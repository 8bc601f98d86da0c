"""The one training loop: batches, teacher signals, an objective, steps that a kill can't lose."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from stillsmall import checkpoints, compute
from stillsmall.config import Distill
from stillsmall.data import Batch, Batches
from stillsmall.encoder_states import EncoderStates, Hear
from stillsmall.families.base import Family
from stillsmall.objectives.base import Objective, ObjectiveError, Signals, reduce, sample_mean, task_loss
from stillsmall.sample_table import SampleTable
from stillsmall.teacher_outputs import TeacherOutputs


class TrainingError(RuntimeError):
    """Training that cannot go on; says at which step and why."""


@dataclass
class Trainer:
    """One distillation. There is a teacher only if the objective asks for one.

    `student_states` are the student's encoder states where its encoder never changes; None: it hears for itself.
    """

    config: Distill
    seed: int
    family: Family
    student: Any
    objective: Objective
    batches: Batches
    hear: Hear
    folder: Path  # checkpoints
    teacher: TeacherOutputs | None = None
    student_states: EncoderStates | None = None
    samples: SampleTable = field(init=False)

    def __post_init__(self) -> None:
        self.samples = SampleTable(self.folder / "samples")

    def run(self, on_step: Callable[[dict[str, Any]], None] | None = None) -> list[dict[str, Any]]:
        """Trains to `config.steps`, from the last checkpoint if there is one; the logged rows of the whole run."""
        parameters = self._trained()
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay, betas=(0.9, 0.98)
        )
        tensors = {**parameters, **{f"objective.{name}": b for name, b in self.objective.named_buffers()}}
        memory = checkpoints.load(self.folder, tensors, optimizer)
        if memory is None:
            self._train_mode(False)
            self.objective.before_training(self._teacher_loss)
            memory = {"step": 0, "rows": []}
        rows: list[dict[str, Any]] = memory["rows"]
        self.samples.forget_after(memory["step"])
        self._train_mode(True)
        with bar(self.config.steps, memory["step"]) as show:
            for step in range(memory["step"], self.config.steps):
                row = self._step(step, optimizer, list(parameters.values()))
                last = step + 1 == self.config.steps
                if last or (step + 1) % self.config.log_every == 0:
                    rows.append(row)
                show(row)
                if on_step:
                    on_step(row)
                if last or (step + 1) % self.config.checkpoint_every == 0:
                    self.samples.flush(step + 1)
                    checkpoints.save(self.folder, step + 1, tensors, optimizer, {"rows": rows})
        return rows

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        """What the optimiser moves: of the student, and of the objective's own modules."""
        found = {f"student.{n}": p for n, p in self.student.named_parameters() if p.requires_grad}
        if not found:
            raise TrainingError("the student has nothing to train: every parameter is frozen")
        return found | {f"objective.{n}": p for n, p in self.objective.trained().items()}

    def _train_mode(self, on: bool) -> None:
        """Dropout where the student learns, none where it is frozen."""
        self.student.train(on)
        encoder = self.family.encoder(self.student)
        if self.student_states is not None and encoder is not None:
            encoder.eval()

    def _step(self, step: int, optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> dict[str, Any]:
        torch.manual_seed(compute.seed(self.seed, "step", step))  # dropout: a function of the step, as the data are
        rate = self.config.learning_rate * learning_rate_factor(self.config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = self.batches(step)
        row = self._gradients(step, batch)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm))
        if not math.isfinite(row["loss"]) or not math.isfinite(norm):
            raise TrainingError(
                f"step {step + 1}: loss {row['loss']}, gradient norm {norm}: not finite. Lower distill.learning_rate, "
                f"or look at the clips of this step: {', '.join(batch.sample_ids[:5])}"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.objective.after_step(self.student, (step + 1) / self.config.steps)
        return {"step": step + 1, **row, "lr": rate, "gradient_norm": norm, "tokens": batch.tokens}

    def _gradients(self, step: int, batch: Batch) -> dict[str, float]:
        """Adds up the gradients of the step's micro-batches; its loss, and what the objective has to say."""
        tokens, loss = batch.tokens, 0.0
        parts, values = dict[str, float](), dict[str, float]()
        for micro in batch.micro(self.config.micro_batch):
            out = self.objective(self._signals(micro, step / self.config.steps))
            partial = reduce(out.per_token, tokens)
            partial.backward()
            loss += float(partial.detach())
            for name, value in out.parts.items():
                parts[name] = parts.get(name, 0.0) + float(reduce(value, tokens))
            for name, number in out.values.items():  # of the step: its micro-batches weighed by their clips
                values[name] = values.get(name, 0.0) + number * len(micro.index) / len(batch.index)
            self.samples.add(step, micro.sample_ids, out.samples)
        return {"loss": loss, **parts, **values}

    def _signals(self, batch: Batch, progress: float) -> Signals:
        batch, needs = batch.to(self._device), self.objective.needs
        with autocast(self._device, self.config.dtype):
            said = self.teacher(batch, "hidden" in needs) if self.teacher else None
            states = self.student_states(batch.index) if self.student_states else None
            heard = self.hear(batch.index).to(self._device) if states is None else None
            own = self.family.forward(self.student, batch, heard, states, "hidden" in needs)
        frames = batch.frames
        width = own.logits.shape[1]
        return Signals(
            student_logits=own.logits,
            labels=batch.labels,
            sample_ids=batch.sample_ids,
            progress=progress,
            teacher_logits=said.first.logits if said else None,
            more_teacher_logits=said.more if said else (),
            student_hidden=own.hidden,
            teacher_hidden=said.first.hidden if said else None,
            frames=None if frames is None else torch.arange(width, device=self._device)[None] < frames[:, None],
            blank=self.family.blank(self.student),
        )

    def _teacher_loss(self, most: int) -> Tensor:
        """(N,) mean nats per unit of the teacher on at most `most` samples of the first epoch, as they are drawn."""
        if self.teacher is None:
            raise ObjectiveError(f"{self.objective.path} asks for the teacher's loss, but has no teacher")
        found: list[Tensor] = []
        for step in range(min(self.batches.per_epoch, -(-most // self.config.batch_size))):
            for micro in self.batches(step).micro(self.config.micro_batch):
                with torch.no_grad():
                    signals = self._signals(micro, 0.0)
                    found.append(sample_mean(task_loss(signals, signals.teacher_logits), signals.mask).cpu())
        return torch.cat(found)[:most]

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.student.parameters()).device
        return device


def autocast(device: torch.device, dtype: str) -> Any:
    """bf16/fp16 arithmetic over float32 weights where it is asked for."""
    return torch.autocast(device.type, compute.dtype(dtype), enabled=dtype != "float32")


def learning_rate_factor(config: Distill, step: int) -> float:
    """The schedule's factor at a step: warm-up from 1/w, then linear or half a cosine to 0 at `steps`, or constant."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    u = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return {"linear": 1.0 - u, "cosine": 0.5 * (1.0 + math.cos(math.pi * u)), "constant": 1.0}[config.schedule]


class bar:
    """Progress on the terminal: loss, tokens a second, time left."""

    def __init__(self, total: int, done: int) -> None:
        words = TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.0f} tokens/s")
        columns = (TextColumn("distill"), BarColumn(), MofNCompleteColumn(), words, TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True))
        self.task = self.progress.add_task("distill", total=total, completed=done, loss=math.nan, rate=0.0)
        self.since, self.tokens, self.total, self.done = time.monotonic(), 0, total, done

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        self.progress.start()
        if self.done:
            print(f"distill: going on at step {self.done} of {self.total}", file=sys.stderr)
        return self.show

    def show(self, row: dict[str, Any]) -> None:
        self.tokens += row["tokens"]
        rate = self.tokens / max(1e-9, time.monotonic() - self.since)
        self.progress.update(self.task, completed=row["step"], loss=row["loss"], rate=rate)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
