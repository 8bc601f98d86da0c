"""The one training loop: batches, teacher signals, an objective, steps that a kill can't lose."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from stillsmall import checkpoints, compute
from stillsmall.config import Distill
from stillsmall.data import Batch, Batches
from stillsmall.encoder_states import EncoderStates
from stillsmall.objectives.base import Objective, Signals, reduce
from stillsmall.students.shrinking import Shrinker
from stillsmall.students.vocabulary import Trimmed


class TrainingError(RuntimeError):
    """Training that cannot go on; says at which step and why."""


@dataclass
class Trainer:
    """One distillation. The teacher's part is only there if the objective asks for it.

    `teacher_states` are the teacher's encoder states; `student_states` the student's where its encoder is frozen,
    else None and the student hears `mels(index)` itself, with gradients.
    """

    config: Distill
    seed: int
    student: Any
    teacher: Any | None
    objective: Objective
    batches: Batches
    teacher_states: EncoderStates | None
    student_states: EncoderStates | None
    mels: Callable[[tuple[int, ...]], Tensor]
    folder: Path  # checkpoints
    kept: Trimmed | None = None  # where the student has fewer tokens than its teacher
    shrinker: Shrinker | None = None  # where the student becomes smaller; `run` ends with the smaller one

    def run(self, on_step: Callable[[dict[str, Any]], None] | None = None) -> list[dict[str, Any]]:
        """Trains to `config.steps`, from the last checkpoint if there is one; the logged rows of the whole run."""
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        if self.shrinker is not None:
            parameters += self.shrinker.trained().values()
        if not parameters:
            raise TrainingError("the student has nothing to train: every parameter is frozen")
        optimizer = torch.optim.AdamW(
            parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay, betas=(0.9, 0.98)
        )
        memory = checkpoints.load(self.folder, self.student, optimizer, self.shrinker) or {"step": 0, "rows": []}
        rows: list[dict[str, Any]] = memory["rows"]
        self._train_mode()
        with bar(self.config.steps, memory["step"]) as show:
            for step in range(memory["step"], self.config.steps):
                row = self._step(step, optimizer, parameters)
                last = step + 1 == self.config.steps
                if last or (step + 1) % self.config.log_every == 0:
                    rows.append(row)
                show(row)
                if on_step:
                    on_step(row)
                if last or (step + 1) % self.config.checkpoint_every == 0:
                    checkpoints.save(self.folder, step + 1, self.student, optimizer, {"rows": rows}, self.shrinker)
        if self.shrinker is not None:
            self.student = self.shrinker.finish(self.student)
        return rows

    def _train_mode(self) -> None:
        """Dropout where the student learns, none where it is frozen."""
        self.student.train()
        if self.student_states is not None:
            self.student.model.encoder.eval()

    def _step(self, step: int, optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> dict[str, Any]:
        torch.manual_seed(compute.seed(self.seed, "step", step))  # dropout: a function of the step, as the data are
        rate = self.config.learning_rate * learning_rate_factor(self.config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = self.batches(step)
        tokens, loss, parts = batch.tokens, 0.0, dict[str, float]()
        if self.shrinker is not None:
            penalty = self.shrinker.penalty()
            loss += float(penalty.detach())
            if penalty.requires_grad:
                penalty.backward()
        for micro in batch.micro(self.config.micro_batch):
            signals = self._signals(micro, step / self.config.steps)
            out = self.objective.forward(signals)
            partial = reduce(out.per_token, tokens)
            partial.backward()
            loss += float(partial.detach())
            for name, value in out.parts.items():
                parts[name] = parts.get(name, 0.0) + float(reduce(value, tokens))
        if self.shrinker is not None:
            self.shrinker.after_backward(self.student)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                f"step {step + 1}: loss {loss}, gradient norm {norm}: not finite. Lower distill.learning_rate, or look "
                f"at the clips of this step: {', '.join(batch.sample_ids[:5])}"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self.shrinker is not None:
            self.shrinker.after_step(self.student, optimizer, (step + 1) / self.config.steps)
            parts |= self.shrinker.values()
        return {"step": step + 1, "loss": loss, **parts, "lr": rate, "gradient_norm": norm, "tokens": tokens}

    def _signals(self, batch: Batch, progress: float) -> Signals:
        inputs, labels = batch.inputs.to(self._device), batch.labels.to(self._device)
        teacher_logits, states = None, None
        with autocast(self._device, self.config.dtype):
            if self.teacher is not None and self.teacher_states is not None:
                states = self.teacher_states(batch.index)
                with torch.no_grad():  # the teacher sees exactly the student's decoder inputs
                    theirs = inputs if self.kept is None else self.kept.restored(inputs)
                    teacher_logits = self._decode(self.teacher, theirs, states)
                    if self.kept is not None:
                        teacher_logits = self.kept.project(teacher_logits)
            if self.student_states is None:
                heard = {"input_features": self.mels(batch.index).to(self._device)}
                student_logits = self.student(decoder_input_ids=inputs, **heard).logits
            else:
                shared = self.student_states is self.teacher_states and states is not None
                own = states if shared else self.student_states(batch.index)
                student_logits = self._decode(self.student, inputs, own)
        return Signals(student_logits, labels, batch.sample_ids, progress, teacher_logits=teacher_logits)

    def _decode(self, model: Any, inputs: Tensor, states: Tensor | None) -> Tensor:
        logits: Tensor = model(
            decoder_input_ids=inputs, encoder_outputs=BaseModelOutput(last_hidden_state=states)
        ).logits
        return logits

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
