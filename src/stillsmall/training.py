"""The one training loop: batches, teacher signals, an objective, steps that a kill can't lose."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillsmall import checkpoints, compute
from stillsmall.asking import Asker
from stillsmall.config import Distill
from stillsmall.data import Batch, Batches
from stillsmall.dev_set import DevSet
from stillsmall.families.base import Family
from stillsmall.loading import Load, Loader, micro_size
from stillsmall.multi_process import Team
from stillsmall.objectives.base import Objective, ObjectiveError, reduce, sample_mean, task_loss
from stillsmall.optimisation import Optimiser
from stillsmall.sample_table import SampleTable
from stillsmall.students.shrinking import Shrinker
from stillsmall.training_log import Memory, TrainingError, bar


@dataclass
class Trainer:
    """One distillation."""

    config: Distill
    seed: int
    asker: Asker
    batches: Batches
    folder: Path  # checkpoints
    dev: DevSet | None = None
    shrinker: Shrinker | None = None
    team: Team = field(default_factory=Team)
    samples: SampleTable = field(init=False)
    student: Any = field(init=False)
    objective: Objective = field(init=False)
    family: Family = field(init=False)
    memory: Memory = field(default_factory=Memory, init=False)

    def __post_init__(self) -> None:
        self.samples = SampleTable(self.folder / "samples")
        self.student, self.objective, self.family = self.asker.student, self.asker.objective, self.asker.family

    def run(self, on_step: Callable[[dict[str, Any]], None] | None = None) -> list[dict[str, Any]]:
        """Trains to `config.steps`, from the last checkpoint if there is one; the logged rows of the whole run.

        The student ends with the weights of the last step, or of the best on the dev set: `config.keep`.
        """
        at, trained = self.config, self._trained()
        if at.gradient_checkpointing:
            self.student.gradient_checkpointing_enable({"use_reentrant": False})
        factors = {f"objective.{name}": factor for name, factor in self.objective.rates().items()}
        optimiser = Optimiser(at, list(trained.values()), self._device, [factors.get(name, 1.0) for name in trained])
        tensors = self._state(trained)
        memory = self.memory = self._begin(tensors, optimiser)
        loader = Loader(self.batches, self.asker.ears, self._size, self.team, at.prefetch, at.steps)
        with bar(at.steps, memory.step, self.team.first) as show, loader as load:
            while memory.step < at.steps and not memory.stopped:
                since, waited = time.monotonic(), loader.waited_s
                row = self._step(memory.step, load(memory.step), optimiser)
                memory.step += 1
                if self._due(at.dev_every):
                    row["dev_wer"] = self._judge(trained)
                if self._due(at.log_every) or "dev_wer" in row:
                    memory.rows.append(row)
                show(row)
                if on_step:
                    on_step(row)
                memory.seconds += time.monotonic() - since
                memory.waiting_s += loader.waited_s - waited
                if self._due(at.checkpoint_every):
                    self._save(tensors, optimiser)
        if at.keep == "best" and memory.best_step is not None:
            checkpoints.load_best(self.folder, memory.best_step, trained)
        return memory.rows

    def _begin(self, tensors: Mapping[str, Tensor], optimiser: Optimiser) -> Memory:
        """Everything as the last checkpoint has it, or as it is before the first step."""
        found = checkpoints.load(self.folder, tensors, optimiser.adam)
        memory = Memory() if found is None else Memory(**found)
        optimiser.restore(memory.scaler)
        if found is None:
            self._train_mode(False)
            self.objective.before_training(self._teacher_loss)
        if self.team.first:
            self.samples.forget_after(memory.step)
        self.team.wait()  # nobody writes what another still reads
        self._train_mode(True)
        return memory

    def _due(self, every: int) -> bool:
        """Whether something that is done every so many steps, and at the end, is due after this one; 0: never."""
        ended = self.memory.step == self.config.steps or self.memory.stopped
        return every > 0 and (ended or self.memory.step % every == 0)

    def _save(self, tensors: Mapping[str, Tensor], optimiser: Optimiser) -> None:
        self.samples.rows = sorted(self.team.join(self.samples.rows), key=lambda row: int(str(row["step"])))
        if not self.team.first:
            self.samples.rows = []
            return
        step, memory = self.memory.step, self.memory
        memory.scaler = optimiser.state()
        self.samples.flush(step)
        checkpoints.save(self.folder, step, tensors, optimiser.adam, memory.as_dict())
        if memory.best_step is not None:
            checkpoints.forget_best_but(self.folder, memory.best_step)

    def _judge(self, trained: Mapping[str, Tensor]) -> float:
        """The dev set's word error rate; the best weights so far are kept beside the checkpoints."""
        assert self.dev is not None
        self._train_mode(False)
        with torch.no_grad():
            rate = self.dev.errors(self.student, self.team).rate
        self._train_mode(True)
        assert rate is not None  # a dev set without words is refused
        if self.memory.judge(self.memory.step, rate, self.config.patience) and self.team.first:
            checkpoints.save_best(self.folder, self.memory.step, trained)
        return rate

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        """What the optimiser moves: of the student, and of the objective's own modules."""
        found = {f"student.{n}": p for n, p in self.student.named_parameters() if p.requires_grad}
        if not found:
            raise TrainingError("the student has nothing to train: every parameter is frozen")
        found |= {f"objective.{n}": p for n, p in self.objective.trained().items()}
        return found | {f"shrinker.{n}": p for n, p in (self.shrinker.trained() if self.shrinker else {}).items()}

    def _buffers(self) -> dict[str, Tensor]:
        """What the objective and the shrinker remember from step to step."""
        found = {f"objective.{name}": buffer for name, buffer in self.objective.named_buffers()}
        return found | {f"shrinker.{n}": b for n, b in (self.shrinker.named_buffers() if self.shrinker else ())}

    def _state(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All that a checkpoint holds besides the optimiser: weights, the objective's memory, the student's past."""
        found = {**trained, **self._buffers()}
        past = self.asker.own_past
        return found if past is None else found | {f"past.{name}": t for name, t in past.tensors().items()}

    def _train_mode(self, on: bool) -> None:
        """Dropout where the student learns, none where its encoder is frozen."""
        self.student.train(on)
        encoder = self.family.encoder(self.student)
        if encoder is not None and not any(p.requires_grad for p in encoder.parameters()):
            encoder.eval()

    def _step(self, step: int, load: Load, optimiser: Optimiser) -> dict[str, Any]:
        """One step (from 0), taken or skipped; its row."""
        row: dict[str, Any] = {"step": step + 1}
        end = {"lr": optimiser.rate(step), "tokens": load.batch.tokens}
        if not load.batch.tokens:
            self.memory.empty_steps += 1
            return row | end
        past = self.asker.own_past
        if past is not None and past.kind == "snapshot":  # due with the step before, which may have been skipped
            past.follow(self.student, step, step / self.config.steps)
        buffers = self._buffers()
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        found = self._gradients(step, load, optimiser)
        self.team.sum_gradients(optimiser.parameters)
        optimiser.unscale()
        if self.shrinker is not None:
            self.shrinker.after_backward(self.student)
        norm = optimiser.norm()
        if not math.isfinite(found["loss"]) or not math.isfinite(norm):
            self._skip(step, load.batch, found["loss"], norm, optimiser)
            for name, buffer in buffers.items():
                buffer.copy_(before[name])
            return row | end
        optimiser.step()
        self.memory.bad_in_a_row, self.memory.tokens = 0, self.memory.tokens + load.batch.tokens
        mine = sum(len(micro.index) for _, micro in load.mine)
        own = {
            name: b for name, b in buffers.items() if name.startswith("objective.")
        }  # a shrinker sees summed gradients
        self.team.agree(own, before, mine / len(load.batch.index))
        progress = (step + 1) / self.config.steps
        self.objective.after_step(self.student, progress)
        if self.shrinker is not None:
            self.shrinker.after_step(self.student, optimiser.adam, progress)
            found |= self.shrinker.values()
        if past is not None:
            past.follow(self.student, step + 1, progress)
        return row | found | {"lr": end["lr"], "gradient_norm": norm, "tokens": end["tokens"]}

    def _skip(self, step: int, batch: Batch, loss: float, norm: float, optimiser: Optimiser) -> None:
        """Takes nothing from a step whose loss or gradients are not finite; TrainingError where that goes on."""
        self.samples.drop(step)
        if optimiser.skip() and math.isfinite(loss):
            self.memory.overflows += 1
            return
        said = self.memory.bad(step + 1, loss, norm, batch.sample_ids, self.config.max_bad_steps)
        if self.team.first:
            print(f"distill: {said}", file=sys.stderr)

    def _gradients(self, step: int, load: Load, optimiser: Optimiser) -> dict[str, float]:
        """Adds up the gradients of this process's micro-batches; the whole step's loss and what is said of it."""
        whole, sums = load.batch, {"loss": 0.0}
        for number, micro in load.mine:
            # dropout: a function of step and micro-batch, as the data are, whichever process draws it
            torch.manual_seed(compute.seed(self.seed, "step", step, *([number] if number else [])))
            out = self.objective(self.asker(micro, step / self.config.steps))
            partial = reduce(out.per_token, whole.tokens)
            optimiser.backward(partial)
            sums["loss"] += float(partial.detach())
            for name, value in out.parts.items():
                sums[name] = sums.get(name, 0.0) + float(reduce(value, whole.tokens))
            for name, amount in out.values.items():  # of the step: counts added, others weighed by their clips
                share = 1.0 if isinstance(amount, int) else len(micro.index) / len(whole.index)
                sums[name] = sums.get(name, 0.0) + amount * share
            self.samples.add(step, micro.sample_ids, out.samples)
        if self.shrinker is not None and self.team.first:
            penalty = self.shrinker.penalty()
            if penalty.requires_grad:
                optimiser.backward(penalty)
            sums["loss"] += float(penalty.detach())
        return self.team.total(sums)

    def _teacher_loss(self, most: int) -> Tensor:
        """(N,) mean nats per unit of the teacher on at most `most` samples of the first epoch, as they are drawn."""
        if self.asker.teacher is None and self.asker.teacher_model is None:
            raise ObjectiveError(f"{self.objective.path} asks for the teacher's loss, but has no teacher")
        found: list[float] = []
        for step in range(min(self.batches.per_epoch, -(-most // self.config.batch_size))):
            mine: list[float] = []
            for micro in self.team.share(list(self.batches(step).micro(self._size))):
                with torch.no_grad():
                    signals = self.asker(micro, 0.0)
                    said = signals.teacher_logits
                    if said is None and signals.models is not None:  # an objective that asks its teacher itself
                        said = signals.models.teacher()
                    mine += sample_mean(task_loss(signals, said), signals.mask).tolist()
            found += self.team.join(mine)
        return torch.tensor(found[:most])

    @property
    def _size(self) -> int:
        return micro_size(self.config.batch_size, self.config.micro_batch, self.team)

    @property
    def _device(self) -> torch.device:
        return self.asker.device
