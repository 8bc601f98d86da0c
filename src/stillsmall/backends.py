"""Whether the labelling backends say the same: one teacher, the same clips and options, text against text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stillsmall import labelling, metrics
from stillsmall.config import Params
from stillsmall.labelling import Labelling
from stillsmall.metrics import ErrorCounts
from stillsmall.teachers.base import Clip, Failed

BACKENDS = ("transformers", "ctranslate2")


@dataclass(frozen=True)
class Agreement:
    """Identical texts, the mixed error rate with the transformers backend as reference, and what differs."""

    clips: int
    identical: int
    errors: ErrorCounts
    different: tuple[tuple[str, str, str], ...]  # (utt_id, text of transformers, text of ctranslate2)

    @property
    def share(self) -> float:
        return self.identical / self.clips if self.clips else 1.0


def compare(params: Params, clips: list[Clip], section: str = "pseudo_label") -> Agreement:
    """Both backends on the clips, with the decoding of a section but at temperature 0: CTranslate2 has no fallback."""
    how = params.pseudo_label if section == "pseudo_label" else params.validate_
    texts = []
    for backend in BACKENDS:
        config = how.model_copy(update={"backend": backend, "temperatures": [0.0]})
        heard = Labelling(config, params.run, params.models.root, section).teacher().transcribe(clips)
        texts.append(["" if isinstance(rows, Failed) else " ".join(row.text for row in rows) for rows in heard])
    pairs = [(clip.utt_id, ours, theirs) for clip, ours, theirs in zip(clips, *texts, strict=True)]
    different = tuple(pair for pair in pairs if pair[1] != pair[2])
    errors = metrics.total(metrics.mer(ours, theirs) for _, ours, theirs in pairs)
    return Agreement(len(pairs), len(pairs) - len(different), errors, different)


def some(split: Path, count: int) -> list[Clip]:
    """Clips spread evenly over a prepared split. Raises TableError where there is none."""
    jobs = labelling.utterances(split)
    share = -(-count // max(1, len(jobs)))
    found: list[Clip] = []
    for job in jobs:
        held = [clip for clip in job.clips() if isinstance(clip, Clip)]
        found += held[:: max(1, len(held) // share)][:share]
        if len(found) >= count:
            break
    return found[:count]


def show(found: Agreement, most: int = 5) -> list[str]:
    rate = "" if found.errors.rate is None else f", mixed error rate between them {found.errors.rate:.2%}"
    lines = [f"{found.identical} of {found.clips} texts are identical ({found.share:.1%}){rate}"]
    for utt_id, ours, theirs in found.different[:most]:
        lines += [f"{utt_id}", f"  transformers: {ours}", f"  ctranslate2:  {theirs}"]
    return lines
