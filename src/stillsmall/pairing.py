"""Which models a distillation has: what the student is made of, and a teacher only where the objective asks one.

Teacher and student may be of different families or vocabularies. Then they meet at the text: the student learns the
teacher's labels, by an objective that needs no more of a teacher than them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stillsmall import compute
from stillsmall.compute import ModelError
from stillsmall.config import ConfigError, Params
from stillsmall.families.base import Family, family_of
from stillsmall.objectives.base import Objective
from stillsmall.objectives.build import section

TAUGHT = frozenset({"teacher", "teachers", "hidden", "models"})  # what a teacher gives, unit by unit
SHAPE = ("vocab_size", "conv_kernel", "conv_stride")  # where these are equal, so are the shapes of the logits


@dataclass(frozen=True)
class Pair:
    """A student and, where the objective asks one, its teacher, both of one family and on the training device."""

    family: Family
    processor: Any  # the student's
    student: Any
    base: Any  # what the student was made of
    teacher: Any | None
    teacher_processor: Any | None
    revisions: tuple[str, ...]  # of the base, and of a teacher that is another model

    @property
    def relatives(self) -> bool:
        """Whether the student is made of its teacher's own layers."""
        return self.teacher is self.base


def pair(params: Params, objective: Objective) -> Pair:
    """The models of a run. ConfigError, before any weights are read, where the objective can't compare the two."""
    of_teacher, own = params.pseudo_label, params.student
    if own.revision and own.model is None:
        raise ConfigError(f"student.revision: got '{own.revision}', but there is no student.model that it could be of")
    at, path = (of_teacher, "pseudo_label") if own.model is None else (own, "student")
    source, revision = compute.locate(params.models.root, at.model or "", at.revision, path)
    family = family_of(source, at.revision, path)
    taught, other = bool(TAUGHT & objective.needs), None
    revisions: tuple[str, ...] = (revision,)
    if taught and own.model is not None:
        other, heard = compute.locate(params.models.root, of_teacher.model, of_teacher.revision, "pseudo_label")
        _check_vocabularies(params, objective, (other, family_of(other, of_teacher.revision, "pseudo_label")), source)
        revisions = (revision, heard)
    device = compute.device(params.distill.device)
    base, processor = family.load(source, at.revision, path)
    base.to(device)
    student = family.build(base, own)
    if other is None:
        teacher, ear = (base, processor) if taught else (None, None)
    else:
        teacher, ear = family.load(other, of_teacher.revision, "pseudo_label")
        teacher.to(device)
        _check_shapes(teacher, base)
    return Pair(family, processor, student, base, teacher, ear, revisions)


def _check_vocabularies(params: Params, objective: Objective, teacher: tuple[str, Family], source: str) -> None:
    """ConfigError where a loss over tokens has two kinds of token; says what works instead."""
    (other, theirs), ours = teacher, family_of(source, params.student.revision, "student")
    spoken = theirs.vocabulary(theirs.processor(other, params.pseudo_label.revision))
    learnt = ours.vocabulary(ours.processor(source, params.student.revision))
    if theirs.name == ours.name and spoken == learnt:
        return
    needs = ", ".join(sorted(TAUGHT & objective.needs))
    by_text = [n for n, given in params.objectives.items() if not TAUGHT & section(n, given).needs]
    raise ConfigError(
        f"distill.objective: '{params.distill.objective}' needs the teacher's outputs ({needs}), which are compared "
        f"token by token, but the teacher is {params.pseudo_label.model} ({theirs.name}, {len(spoken)} tokens) and "
        f"student.model is {params.student.model} ({ours.name}, {len(learnt)} tokens): they have no vocabulary in "
        f"common. Objectives that learn from the teacher's text alone work: {', '.join(sorted(by_text))}"
    )


def _check_shapes(teacher: Any, base: Any) -> None:
    for name in SHAPE:
        theirs, ours = (getattr(model.config, name, None) for model in (teacher, base))
        if (list(theirs) if isinstance(theirs, list | tuple) else theirs) != (
            list(ours) if isinstance(ours, list | tuple) else ours
        ):
            raise ModelError(
                f"student.model: its config has {name} {ours}, the teacher's {theirs}; outputs that are compared unit "
                "by unit need the same; take another student.model, or an objective that needs no teacher"
            )
