"""A trainer put together: models, what they hear, what the teacher says, and the clips that it is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stillsmall import cache, compute, student
from stillsmall import data as training_data
from stillsmall.asking import Asker
from stillsmall.augmentation import Augmentation
from stillsmall.config import ConfigError
from stillsmall.data import Example, TargetMaker
from stillsmall.dev_set import DevSet
from stillsmall.encoder_states import EncoderStates
from stillsmall.families.base import family_of
from stillsmall.hearing import Hearing
from stillsmall.multi_process import Team
from stillsmall.objectives.base import Objective
from stillsmall.pairing import Pair
from stillsmall.progress import progress
from stillsmall.self_teacher import SelfTeacher
from stillsmall.students.shrinking import Shrinker
from stillsmall.teacher_cache import TeacherCache
from stillsmall.teacher_outputs import LiveTeachers, TeacherOutputs
from stillsmall.training import Trainer

ASKED = {"teacher", "teachers", "hidden"}  # needs that the teacher's outputs meet
HEARD = ("feature_size", "sampling_rate", "n_samples", "n_fft", "hop_length", "do_normalize")  # of further teachers
LIVE = {"teachers", "hidden", "models"}  # needs that kept outputs do not


@dataclass(frozen=True)
class Clips:
    """What is trained on and measured on: `dev` are clips of `dev_split`; the skipped fit no model, with the reason."""

    found: list[Example]
    targets: TargetMaker
    skipped: list[dict[str, str]]
    augmentation: Augmentation
    dev: list[Example]
    dev_split: Path


@dataclass(frozen=True)
class Models:
    """The student as it is trained, and what it was made of; `kept` its tokens, where they are fewer than before."""

    student: Any
    pair: Pair
    kept: student.Trimmed | None
    shrinker: Shrinker | None
    team: Team

    @property
    def teacher(self) -> Any | None:
        return self.pair.teacher


def assemble(hearing: Hearing, models: Models, objective: Objective, clips: Clips, folder: Path) -> Trainer:
    """The trainer. Encoder states and the teacher's outputs are computed once wherever they never change."""
    params, learner, team = hearing.params, models.student, models.team
    if params.augment.mask_probability and hearing((0,)).ndim != 3:
        raise ConfigError(
            f"augment.mask_probability: got {params.augment.mask_probability}, but the model hears waveforms; "
            "masks are of log-mel features: set it to 0"
        )
    objective.attach(learner, models.teacher)
    objective.to(next(learner.parameters()).device)
    own = hearing.states(learner, team) if params.student.freeze_encoder else None
    outputs, states = teacher_outputs(hearing, models, objective, clips, own)
    if own is None or "models" in objective.needs:
        hearing.wanted.add(hearing.kind(teacher=False))
    itself = "models" in objective.needs and states is None  # an objective asks the teacher, which hears for itself
    if itself or (isinstance(outputs, LiveTeachers) and None in outputs.states):
        hearing.wanted.add(hearing.kind(teacher=True))
    asker = Asker(
        family=hearing.family,
        student=learner,
        objective=objective,
        ears=hearing,
        dtype=params.distill.dtype,
        teacher=outputs,
        student_states=own,
        teacher_model=models.teacher,
        teacher_states=states,
        own_past=past(objective, learner),
        kept=models.kept,
    )
    changes = clips.augmentation.example
    return Trainer(
        config=params.distill,
        seed=params.distill.seed,
        asker=asker,
        batches=training_data.Batches(clips.found, clips.targets, params.distill.batch_size, changes),
        folder=folder,
        dev=measured(hearing, clips) if clips.dev else None,
        shrinker=models.shrinker,
        team=team,
    )


def teacher_states(hearing: Hearing, models: Models, own: EncoderStates | None) -> EncoderStates | None:
    """The teacher's encoder states, where its encoder never changes: the student's `own` where the two hear alike."""
    assert models.teacher is not None
    encoder = hearing.family.encoder(models.teacher)
    if encoder is None or any(p.requires_grad for p in encoder.parameters()):
        return None
    alike = own is not None and models.pair.relatives and hearing.unchanging(teacher=True)
    if alike and student.shares_encoder(hearing.params.student, models.teacher.config.encoder_layers):
        return own
    return hearing.states(models.teacher, models.team, teacher=True)


def past(objective: Objective, learner: Any) -> SelfTeacher | None:
    """The student as it was, where the objective asks for it."""
    asks = objective.of_self()
    if asks is None or "self" not in objective.needs:
        return None
    assert asks.self_kind in ("ema", "snapshot")
    return SelfTeacher(learner, asks.self_kind, asks.self_decay, asks.self_from or 0.0)  # type: ignore[arg-type]


def teacher_outputs(
    hearing: Hearing,
    models: Models,
    objective: Objective,
    clips: Clips,
    own: EncoderStates | None,
) -> tuple[TeacherOutputs | None, EncoderStates | None]:
    """The teacher's outputs: kept ones where the objective can work with them and they fit the disk, else live.

    And the teacher's encoder states, if they were computed. None where nobody asks for outputs.
    """
    if models.teacher is None:
        return None, None
    if not ASKED & objective.needs:
        return None, teacher_states(hearing, models, own)
    config, made = hearing.params.distill, list[LiveTeachers]()

    def live() -> LiveTeachers:
        if not made:
            more = further_teachers(hearing, models) if "teachers" in objective.needs else []
            kept = [
                teacher_states(hearing, models, own),
                *(hearing.states(model, models.team, teacher=True) for model in more),
            ]
            made.append(LiveTeachers(hearing.family, [models.teacher, *more], kept, hearing.teacher, models.kept))
        return made[0]

    if objective.needs & LIVE or not config.teacher_cache_gb or not hearing.unchanging(teacher=True):
        return live(), live().states[0]
    k, device = config.teacher_cache_top_k, next(models.student.parameters()).device
    identity, heard_at, width = kept_identity(hearing, models), objective.temperature, models.student.config.vocab_size
    outputs = TeacherCache(live, clips.found, clips.targets, identity, k, heard_at, width, device)
    if not outputs.fits(config.teacher_cache_gb):
        return live(), live().states[0]
    if not models.team.gather(models.team.first and outputs.found_whole())[0]:
        live()  # by all processes: they wait for each other's encoder states
    for turn in (True, False):  # the first process fills it, the others read
        if models.team.first is turn:
            with progress("teacher outputs", len(outputs.lengths)) as advance:
                outputs.fill(advance)
        models.team.wait()
    return outputs, None


def kept_identity(hearing: Hearing, models: Models) -> list[object]:
    """What kept outputs of the teacher depend on, besides the clips and their texts."""
    config, tokens = hearing.params.distill, None if models.kept is None else models.kept.kept
    code = cache.code_digest(type(hearing.family).__module__, "stillsmall.ctc", "stillsmall.encoder_states")
    # encoder states are rounded to float16 where the disk holds them
    return [models.pair.revisions[-1], hearing.audio, config.dtype, config.encoder_cache_gb, tokens, code]


def further_teachers(hearing: Hearing, models: Models) -> list[Any]:
    """The models of `distill.more_teachers`; ConfigError where one is of another family or has another vocabulary."""
    params, found = hearing.params, []
    for number, entry in enumerate(params.distill.more_teachers):
        path = f"distill.more_teachers.{number}"
        source, _ = compute.locate(params.models.root, entry.model, entry.revision, path)
        family = family_of(source, entry.revision, path)
        if family.name != hearing.family.name:
            raise ConfigError(
                f"{path}.model: {entry.model} is of the {family.name} family, the teacher of the {hearing.family.name} "
                "family; teachers that share a student's tokens are of one family"
            )
        model, processor = family.load(source, entry.revision, path)
        if family.vocabulary(processor) != family.vocabulary(models.pair.teacher_processor):
            raise ConfigError(f"{path}.model: {entry.model} has other tokens than the teacher; they must be the same")
        first: Any = models.pair.teacher_processor
        for name in HEARD:
            own, theirs = (getattr(p.feature_extractor, name, None) for p in (processor, first))
            if own != theirs:
                raise ConfigError(
                    f"{path}.model: {entry.model} hears with {name} {own}, the teacher with {theirs}; teachers of one "
                    "student hear alike"
                )
        found.append(model.to(next(models.student.parameters()).device))
    if not found:
        raise ConfigError("distill.more_teachers: is empty, but the objective wants several teachers; name one more")
    return found


def measured(hearing: Hearing, clips: Clips) -> DevSet:
    """The dev set, as the model hears it: clean, and one by one."""
    params, audio = hearing.params, training_data.Audio(clips.dev_split, clips.dev)

    def hear(index: tuple[int, ...]) -> Tensor:
        return hearing.family.features(hearing.processor, [audio(i) for i in index])

    def transcribe(model: Any, heard: Tensor, languages: Sequence[str]) -> list[str]:
        heard = heard.to(next(model.parameters()).device)
        return hearing.family.transcribe(model, hearing.processor, heard, languages, params)

    return DevSet(clips.dev, hear, transcribe, params.distill.micro_batch)
