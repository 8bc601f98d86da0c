"""Kept labels and a teacher in, a student out: puts model, data, objective and loop together."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from stillsmall import cache, compute, student
from stillsmall import data as training_data
from stillsmall.config import ConfigError, Params
from stillsmall.data import Example, TargetMaker
from stillsmall.encoder_states import EncoderStates, audio_digest
from stillsmall.families.base import Family
from stillsmall.objectives.base import Objective
from stillsmall.objectives.build import build, section
from stillsmall.packing import pack
from stillsmall.pairing import Pair, pair
from stillsmall.progress import progress
from stillsmall.teacher_outputs import LiveTeachers
from stillsmall.training import Trainer

CODE = (
    *("training", "checkpoints", "sample_table", "data", "packing", "encoder_states", "teacher_outputs", "student"),
    *("whisper_tokens", "ctc", "pairing", "families.base"),
    *("objectives.base", "objectives.build", "objectives.schedules"),
)


@dataclass(frozen=True)
class Paths:
    """What distillation reads and writes."""

    split: Path  # a prepared split
    kept: Path  # the kept labels
    student: Path  # out: the model folder
    curve: Path  # out: CSV, a row per logged step
    samples: Path  # out: Parquet, a row per sample and step of what the objective says of samples (AdaKD's weights)
    metrics: Path  # out: JSON


def distill(params: Params, paths: Paths) -> None:
    """Trains a student and writes it with its curve. A kill loses at most `distill.checkpoint_every` steps.

    Raises ConfigError for a combination that can't be, before anything is loaded that takes long.
    """
    check(params)
    compute.quiet()
    compute.set_threads(params.run.threads)
    objective = build(params.objectives, params.distill.objective)
    models = pair(params, objective)
    targets = models.family.targets(params, models.base, models.processor)
    found, skipped = usable(params, paths, targets)
    chosen = params.objectives.get(params.distill.objective)
    identity = [params.distill.model_dump(), chosen, params.student.model_dump(), params.run.model_dump()]
    audio = audio_digest(paths.split)
    code = cache.code_digest(
        *(f"stillsmall.{name}" for name in CODE), *modules_of(objective), type(models.family).__module__
    )
    key = cache.digest([identity, models.revisions, audio, cache.file_digest(paths.kept), code])
    hearing = Hearing(params, models.family, models.processor, training_data.Audio(paths.split, found), audio)
    batches = training_data.Batches(found, targets, params.distill.batch_size)
    trainer = assemble(hearing, models, objective, batches, cache.ROOT / "distill" / key)
    rows = trainer.run()
    _write(params, paths, trainer, models.processor, rows, skipped)


def check(params: Params) -> None:
    """ConfigError for parameters that are valid one by one and impossible together."""
    for name, given in params.objectives.items():
        section(name, given)
    if params.distill.timestamp_probability > 0 and not params.pseudo_label.timestamps:
        raise ConfigError(
            f"distill.timestamp_probability: got {params.distill.timestamp_probability}, but pseudo_label."
            "timestamps is false, so the labels have no times to learn; set one of the two"
        )
    if params.distill.warmup_steps > params.distill.steps:
        raise ConfigError(
            f"distill.warmup_steps: got {params.distill.warmup_steps}; there are only {params.distill.steps} steps"
        )


def modules_of(objective: Objective) -> list[str]:
    """The code of an objective and of every one inside it."""
    return sorted({type(m).__module__ for m in objective.modules() if isinstance(m, Objective)})


def usable(params: Params, paths: Paths, targets: TargetMaker) -> tuple[list[Example], list[dict[str, str]]]:
    """The examples that fit the model, and the ones that don't with the reason."""
    found, skipped = targets.usable(training_data.examples(paths.kept))
    if not found:
        reasons = Counter(item["reason"] for item in skipped)
        raise ConfigError(f"{paths.kept}: no label fits the model: {dict(reasons) or 'the table is empty'}")
    return pack(found, params.distill.packing, lambda example: targets.too_long(example) is None), skipped


@dataclass(frozen=True)
class Hearing:
    """What teacher and student hear of examples, and encoder states wherever an encoder does not change."""

    params: Params
    family: Family
    processor: Any
    clips: training_data.Audio
    audio: str  # its digest

    def __call__(self, index: tuple[int, ...]) -> Tensor:
        return self.family.features(self.processor, [self.clips(i) for i in index])

    def states(self, model: Any) -> EncoderStates | None:
        """Of a frozen encoder, computed once; None where the family has none."""
        encoder = self.family.encoder(model)
        if encoder is None:
            return None
        made = EncoderStates(encoder, self, self.clips, self.audio, self.params.distill.encoder_cache_gb)
        with progress("encode", len(self.clips.found)) as advance:
            made.fill(self.params.distill.micro_batch, advance)
        return made


def assemble(
    hearing: Hearing, models: Pair, objective: Objective, batches: training_data.Batches, folder: Path
) -> Trainer:
    """The trainer, with encoder states computed once wherever an encoder does not change."""
    params, family, teacher, learner = hearing.params, hearing.family, models.teacher, models.student
    theirs = hearing if models.relatives else replace(hearing, processor=models.teacher_processor)
    teacher_states = theirs.states(teacher) if teacher else None
    own = None
    if params.student.freeze_encoder:
        same = teacher_states and models.relatives
        shared = same and student.shares_encoder(params.student, models.base.config.encoder_layers)
        own = teacher_states if shared else hearing.states(learner)
    objective.attach(learner, teacher)
    return Trainer(
        config=params.distill,
        seed=params.run.seed,
        family=family,
        student=learner,
        objective=objective,
        batches=batches,
        hear=hearing,
        folder=folder,
        teacher=LiveTeachers(family, [teacher], [teacher_states], theirs) if teacher else None,
        student_states=own,
    )


def _write(
    params: Params,
    paths: Paths,
    trainer: Trainer,
    processor: Any,
    rows: list[dict[str, Any]],
    skipped: list[dict[str, str]],
) -> None:
    shutil.rmtree(paths.student, ignore_errors=True)
    trainer.family.save(trainer.student, processor, paths.student, compute.dtype(params.student.save_dtype))
    trainer.samples.write(paths.samples)
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: round(v, 8) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    cache.write_bytes(paths.curve, text.getvalue().encode())
    parameters = sum(p.numel() for p in trainer.student.parameters())
    summary = {
        "steps": params.distill.steps,
        "examples": len(trainer.batches.found),
        "labels": sum(len(example.parts) for example in trainer.batches.found),
        "epochs": round(params.distill.steps / trainer.batches.per_epoch, 3),
        "skipped": dict(Counter(item["reason"] for item in skipped)),
        "parameters": parameters,
        "final": {k: round(v, 6) for k, v in rows[-1].items() if k != "step"},
    }
    cache.write_json(paths.metrics, summary)
