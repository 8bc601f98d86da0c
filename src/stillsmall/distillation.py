"""Kept labels and a teacher in, a student out: puts model, data, objective and loop together."""

from __future__ import annotations

import csv
import io
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillsmall import augmentation, cache, compute, dev_set, feasible, student
from stillsmall import data as training_data
from stillsmall.assembly import Clips, Models, assemble
from stillsmall.augmentation import Augmentation
from stillsmall.config import ConfigError, Params
from stillsmall.data import Example, TargetMaker
from stillsmall.encoder_states import audio_digest
from stillsmall.hearing import Hearing
from stillsmall.multi_process import join_team, launched, leave
from stillsmall.objectives.base import Objective
from stillsmall.objectives.build import build, section
from stillsmall.packing import pack
from stillsmall.pairing import pair
from stillsmall.training import Trainer

CODE = (
    *("training", "optimisation", "loading", "multi_process", "checkpoints", "sample_table", "training_log"),
    *("data", "packing", "augmentation", "hearing", "speech_lab.rooms", "dev_set", "metrics", "text"),
    *("encoder_states", "teacher_outputs", "teacher_cache", "self_teacher", "live_models", "asking", "assembly"),
    *("ctc", "pairing", "distillation", "compute", "audio"),
    *("student", "whisper_tokens", "families.base", "teachers.greedy"),
    *("objectives.base", "objectives.build", "objectives.schedules"),
    *(f"students.{name}" for name in ("capacity", "freezing", "languages", "layers", "pruning", "shrinking")),
    "students.vocabulary",
)

ELSEWHERE = {"processes", "prefetch"}  # of `distill`: how the work is spread, which changes no result


@dataclass(frozen=True)
class Paths:
    """What distillation reads and writes."""

    split: Path  # a prepared split
    kept: Path  # the kept labels
    student: Path  # out: the model folder
    curve: Path  # out: CSV, a row per logged step
    samples: Path  # out: Parquet, a row per sample and step of what the objective says of samples (AdaKD's weights)
    metrics: Path  # out: JSON
    dev: Path | None = None  # a prepared split to measure on during training
    speed: Path | None = None  # out: JSON, by the clock: not the same in any two runs


def distill(params: Params, paths: Paths) -> None:
    """Trains a student and writes it with its curve. A kill loses at most `distill.checkpoint_every` steps.

    Raises ConfigError for a combination that can't be, before anything is loaded that takes long.
    """
    check(params)
    compute.quiet()
    compute.set_threads(params.run.threads)
    team = join_team(params.distill.device)
    objective = build(params.objectives, params.distill.objective)
    others = further(params, objective)
    models = pair(params, objective)
    family = models.family
    require_something_to_train(params, models.student)
    learner, own, kept = family.trim(models.student, models.processor, params.student, labels(paths.kept))
    clips = prepared(params, paths, family.targets(params, learner, own))
    chosen = params.objectives.get(params.distill.objective)
    settings = [params.distill.model_dump(exclude=ELSEWHERE), chosen, params.student.model_dump()]
    settings += [params.run.threads, augmentation.identity(params.augment, clips.augmentation.noises)]
    settings += [params.pseudo_label.task, others]
    audio, dev_audio = audio_digest(paths.split), references(clips.dev_split) if clips.dev else None
    code = cache.code_digest(*(f"stillsmall.{name}" for name in CODE), *modules_of(objective), type(family).__module__)
    key = cache.digest([settings, models.revisions, audio, dev_audio, cache.file_digest(paths.kept), code])
    heard = training_data.Audio(paths.split, clips.found)
    ear = None if models.relatives else models.teacher_processor
    hearing = Hearing(params, family, own, heard, audio, clips.augmentation, ear)
    shrinker = family.shrinker(learner, params.student)
    trainer = assemble(
        hearing, Models(learner, models, kept, shrinker, team), objective, clips, cache.ROOT / "distill" / key
    )
    trainer.run()
    if team.first:
        _write(params, paths, trainer, hearing, kept, clips.skipped)
    leave()


def check(params: Params) -> None:
    """ConfigError for parameters that are valid one by one and impossible together."""
    for name, given in params.objectives.items():
        section(name, given)
    student.check(params.student)
    feasible.check(params, max(params.distill.processes, launched()))


def require_something_to_train(params: Params, learner: Any) -> None:
    """ConfigError where every weight of the student is frozen."""
    if not any(p.requires_grad for p in learner.parameters()):
        raise ConfigError(
            f"student.freeze: got {params.student.freeze}, which with student.freeze_encoder = "
            f"{str(params.student.freeze_encoder).lower()} leaves no weight of the student to train"
        )


def further(params: Params, objective: Objective) -> list[str]:
    """The weights of `distill.more_teachers`, by digest or commit; none, and a message, where nobody hears them."""
    found = params.distill.more_teachers
    if found and "teachers" not in objective.needs:
        hears = f"distill.objective '{params.distill.objective}' hears one teacher at most"
        print(f"distill.more_teachers: got {len(found)}, but {hears}: they are not loaded", file=sys.stderr)
        return []
    named = ((entry, f"distill.more_teachers.{number}") for number, entry in enumerate(found))
    return [compute.locate(params.models.root, entry.model, entry.revision, path)[1] for entry, path in named]


def references(split: Path) -> list[str]:
    """The identity of a prepared split's audio and transcripts."""
    return [audio_digest(split), cache.file_digest(split / "manifest.parquet")]


def labels(kept: Path) -> Iterator[student.Label]:
    """The texts that a student with the vocabulary of its corpus has to write."""
    for example in training_data.examples(kept):
        yield example.language, example.text, [text for _, _, text in example.segments]


def modules_of(objective: Objective) -> list[str]:
    """The code of an objective, of what it is based on, and of every one inside it."""
    kinds = {kind for m in objective.modules() if isinstance(m, Objective) for kind in type(m).__mro__}
    return sorted({kind.__module__ for kind in kinds if kind.__module__.startswith("stillsmall.")})


def prepared(params: Params, paths: Paths, targets: TargetMaker) -> Clips:
    """The examples that fit the model, packed, without what is held out to measure on."""
    found, skipped = targets.usable(training_data.examples(paths.kept))
    if not found:
        reasons = Counter(item["reason"] for item in skipped)
        raise ConfigError(f"{paths.kept}: no label fits the model: {dict(reasons) or 'the table is empty'}")
    seed = params.distill.seed
    found, dev, apart = dev_set.choose(params.distill, seed, paths.dev, found, targets)

    def fits(example: Example) -> bool:
        return targets.too_long(example) is None

    noises = augmentation.noise_files(params.data.root, params.augment.noise_folder)
    changes = Augmentation(params.augment, seed, noises, fits)
    split = paths.dev if apart and paths.dev is not None else paths.split
    return Clips(pack(found, params.distill.packing, fits), targets, skipped, changes, dev, split)


def _write(
    params: Params,
    paths: Paths,
    trainer: Trainer,
    hearing: Hearing,
    kept: student.Trimmed | None,
    skipped: list[dict[str, str]],
) -> None:
    rows, memory = trainer.memory.rows, trainer.memory
    shutil.rmtree(paths.student, ignore_errors=True)
    final = trainer.student if trainer.shrinker is None else trainer.shrinker.finish(trainer.student)
    hearing.family.save(final, hearing.processor, paths.student, compute.dtype(params.student.save_dtype), kept)
    trainer.samples.write(paths.samples)
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: round(v, 8) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    cache.write_bytes(paths.curve, text.getvalue().encode())
    parameters = sum(p.numel() for p in final.parameters())
    summary = {
        "steps": memory.step,
        "examples": len(trainer.batches.found),
        "labels": sum(len(example.parts) for example in trainer.batches.found),
        "epochs": round(memory.step / trainer.batches.per_epoch, 3),
        "skipped": dict(Counter(item["reason"] for item in skipped)),
        "parameters": parameters,
        "final": {k: round(v, 6) for k, v in rows[-1].items() if k != "step"},
        "steps_skipped": {"bad": len(memory.bad_steps), "empty": memory.empty_steps, "overflows": memory.overflows},
        "bad_steps": memory.bad_steps,
    }
    if trainer.dev is not None:
        best = {"step": memory.best_step, "wer": memory.best_wer}
        summary["dev"] = {"clips": len(trainer.dev.examples), "best": best, "kept": params.distill.keep}
    cache.write_json(paths.metrics, summary)
    if paths.speed is not None:
        cache.write_json(paths.speed, memory.speed(trainer.team.size))
