"""Whether two ways to label say the same: one teacher, the same clips and options, text against text.

The two are the backends, or the model's whole window and silence encoded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillsmall import labelling, metrics
from stillsmall.config import Params
from stillsmall.labelling import Labelling
from stillsmall.metrics import ErrorCounts
from stillsmall.teachers.base import Clip, Failed

WAYS: dict[str, dict[str, dict[str, Any]]] = {  # what is compared: the names of both, and what they change
    "backend": {"transformers": {"backend": "transformers"}, "ctranslate2": {"backend": "ctranslate2"}},
    "window": {"full": {"window": "full"}, "silence": {"window": "silence"}},
}


@dataclass(frozen=True)
class Agreement:
    """Identical texts, the mixed error rate with the first of `ways` as reference, and what differs."""

    clips: int
    identical: int
    errors: ErrorCounts
    different: tuple[tuple[str, str, str], ...]  # (utt_id, text of the first, text of the second)
    ways: tuple[str, ...] = tuple(WAYS["backend"])

    @property
    def share(self) -> float:
        return self.identical / self.clips if self.clips else 1.0


def compare(params: Params, clips: list[Clip], section: str = "pseudo_label", what: str = "backend") -> Agreement:
    """Both ways of `what` on the clips, with the decoding of a section but at temperature 0: a sample says little."""
    how = params.pseudo_label if section == "pseudo_label" else params.validate_
    texts = []
    for changes in WAYS[what].values():
        config = how.model_copy(update={"temperatures": [0.0], **changes})
        heard = Labelling(config, params.run, params.models.root, section).teacher().transcribe(clips)
        texts.append(["" if isinstance(rows, Failed) else " ".join(row.text for row in rows) for rows in heard])
    pairs = [(clip.utt_id, ours, theirs) for clip, ours, theirs in zip(clips, *texts, strict=True)]
    different = tuple(pair for pair in pairs if pair[1] != pair[2])
    errors = metrics.total(metrics.mer(ours, theirs) for _, ours, theirs in pairs)
    return Agreement(len(pairs), len(pairs) - len(different), errors, different, tuple(WAYS[what]))


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
    names = [f"{name}:" for name in found.ways]
    width = max(map(len, names))
    for utt_id, *both in found.different[:most]:
        lines += [f"{utt_id}", *(f"  {name:{width}} {text}" for name, text in zip(names, both, strict=True))]
    return lines
