"""Kept labels and a teacher in, a student out: puts model, data, objective and loop together."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import WhisperForConditionalGeneration, WhisperProcessor

from stillsmall import cache, compute, student
from stillsmall import data as training_data
from stillsmall.audio import SAMPLE_RATE
from stillsmall.config import ConfigError, Params
from stillsmall.data import Example
from stillsmall.encoder_states import EncoderStates, audio_digest
from stillsmall.objectives.base import Objective
from stillsmall.objectives.build import build, section
from stillsmall.packing import pack
from stillsmall.progress import progress
from stillsmall.training import Trainer
from stillsmall.whisper_tokens import WhisperTokens

CODE = (
    *("training", "checkpoints", "data", "packing", "encoder_states", "student", "whisper_tokens"),
    *("objectives.base", "objectives.build", "objectives.schedules"),
    *(f"students.{name}" for name in ("capacity", "freezing", "languages", "layers", "pruning", "shrinking")),
    "students.vocabulary",
)


@dataclass(frozen=True)
class Paths:
    """What distillation reads and writes."""

    split: Path  # a prepared split
    kept: Path  # the kept labels
    student: Path  # out: the model folder
    curve: Path  # out: CSV, a row per logged step
    metrics: Path  # out: JSON


def distill(params: Params, paths: Paths) -> None:
    """Trains a student and writes it with its curve. A kill loses at most `distill.checkpoint_every` steps.

    Raises ConfigError for a combination that can't be, before anything is loaded that takes long.
    """
    check(params)
    compute.quiet()
    compute.set_threads(params.run.threads)
    objective = build(params.objectives, params.distill.objective)
    source, revision = compute.locate(
        params.models.root, params.pseudo_label.model, params.pseudo_label.revision, "pseudo_label"
    )
    teacher, processor = load_teacher(source, params)
    learner, processor, kept = student.trim(
        student.build(teacher, params.student), processor, params.student, labels(paths.kept)
    )
    shrinker = student.shrinker(learner, params.student)
    found, skipped, targets = usable(params, paths, processor, learner)
    chosen = params.objectives.get(params.distill.objective)
    identity = [params.distill.model_dump(), chosen, params.student.model_dump(), params.run.model_dump()]
    audio = audio_digest(paths.split)
    code = cache.code_digest(*(f"stillsmall.{name}" for name in CODE), *modules_of(objective))
    key = cache.digest([identity, revision, audio, cache.file_digest(paths.kept), code])
    trainer = assemble(params, paths, (teacher, learner, processor), objective, targets, found, audio, key)
    trainer.kept, trainer.shrinker = kept, shrinker
    rows = trainer.run()
    _write(params, paths, trainer, processor, rows, skipped)


def check(params: Params) -> None:
    """ConfigError for parameters that are valid one by one and impossible together."""
    for name, given in params.objectives.items():
        section(name, given)
    student.check(params.student)
    if params.distill.timestamp_probability > 0 and not params.pseudo_label.timestamps:
        raise ConfigError(
            f"distill.timestamp_probability: got {params.distill.timestamp_probability}, but pseudo_label."
            "timestamps is false, so the labels have no times to learn; set one of the two"
        )
    if params.distill.warmup_steps > params.distill.steps:
        raise ConfigError(
            f"distill.warmup_steps: got {params.distill.warmup_steps}; there are only {params.distill.steps} steps"
        )


def labels(kept: Path) -> Iterator[student.Label]:
    """The texts that a student with the vocabulary of its corpus has to write."""
    for example in training_data.examples(kept):
        yield example.language, example.text, [text for _, _, text in example.segments]


def modules_of(objective: Objective) -> list[str]:
    """The code of an objective and of every one inside it."""
    return sorted({type(m).__module__ for m in objective.modules() if isinstance(m, Objective)})


def load_teacher(source: str, params: Params) -> tuple[Any, Any]:
    """The teacher, frozen and in evaluation mode, and its processor."""
    where = {} if Path(source).is_dir() else {"revision": params.pseudo_label.revision}
    model: Any = WhisperForConditionalGeneration.from_pretrained(source, dtype=compute.dtype("float32"), **where)
    model.requires_grad_(False).eval().to(compute.device(params.distill.device))
    processor: Any = WhisperProcessor.from_pretrained(source, **where)
    compute.check_vocabulary(processor.tokenizer, model, "pseudo_label")
    return model, processor


def usable(
    params: Params, paths: Paths, processor: Any, learner: Any
) -> tuple[list[Example], list[dict[str, str]], training_data.Targets]:
    """The examples that fit the model, the ones that don't with the reason, and how targets are made."""
    targets = training_data.Targets(
        tokens=WhisperTokens.of(processor.tokenizer, learner.generation_config),
        positions=learner.config.max_target_positions,
        window_s=processor.feature_extractor.n_samples / SAMPLE_RATE,
        task=params.pseudo_label.task,
        seed=params.run.seed,
        timestamp_probability=params.distill.timestamp_probability,
        previous_text_probability=params.distill.previous_text_probability,
    )
    found, skipped = targets.usable(training_data.examples(paths.kept))
    if not found:
        reasons = Counter(item["reason"] for item in skipped)
        raise ConfigError(f"{paths.kept}: no label fits the model: {dict(reasons) or 'the table is empty'}")
    packs = pack(found, params.distill.packing, lambda example: targets.too_long(example) is None)
    return packs, skipped, targets


def assemble(
    params: Params,
    paths: Paths,
    models: tuple[Any, Any, Any],
    objective: Objective,
    targets: training_data.Targets,
    found: Sequence[Example],
    audio: str,
    key: str,
) -> Trainer:
    """The trainer, with encoder states computed once wherever an encoder does not change."""
    teacher, learner, processor = models
    clips = training_data.Audio(paths.split, found)
    shared = student.shares_encoder(params.student, teacher.config.encoder_layers)

    def states(model: Any) -> EncoderStates:
        made = EncoderStates(
            model.model.encoder, processor.feature_extractor, clips, audio, params.distill.encoder_cache_gb
        )
        with progress("encode", len(found)) as advance:
            made.fill(params.distill.micro_batch, advance)
        return made

    needs_teacher = "teacher" in objective.needs
    teacher_states = states(teacher) if needs_teacher else None
    own = None
    if params.student.freeze_encoder:
        own = teacher_states if shared and teacher_states else states(learner)
    return Trainer(
        config=params.distill,
        seed=params.run.seed,
        student=learner,
        teacher=teacher if needs_teacher else None,
        objective=objective,
        batches=training_data.Batches(found, targets, params.distill.batch_size),
        teacher_states=teacher_states,
        student_states=own,
        mels=lambda index: training_data.features(
            processor.feature_extractor, [clips(i) for i in index], compute.dtype("float32")
        ),
        folder=cache.ROOT / "distill" / key,
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
    student.save(trainer.student, processor, paths.student, compute.dtype(params.student.save_dtype), trainer.kept)
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
