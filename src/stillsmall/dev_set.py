"""Word error rates during training, on clips that are not trained on: the prepared dev split, or labels held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stillsmall import compute, manifest, metrics
from stillsmall.config import ConfigError, Distill
from stillsmall.data import Example, Part, TargetMaker
from stillsmall.metrics import ErrorCounts
from stillsmall.multi_process import Team


@dataclass(frozen=True)
class DevSet:
    """Clips with their references, how they are heard (always clean) and how a model transcribes what is heard."""

    examples: Sequence[Example]
    hear: Callable[[tuple[int, ...]], Tensor]
    transcribe: Callable[[Any, Tensor, Sequence[str]], list[str]]
    batch_size: int

    def errors(self, student: Any, team: Team) -> ErrorCounts:
        """Normalised word errors of greedy text, summed over all clips and processes. The student is in evaluation."""
        starts = range(0, len(self.examples), self.batch_size)
        batches = [tuple(range(b, min(b + self.batch_size, len(self.examples)))) for b in starts]
        found = ErrorCounts()
        for index in team.share(batches):
            clips = [self.examples[i] for i in index]
            for clip, text in zip(
                clips, self.transcribe(student, self.hear(index), [c.language for c in clips]), strict=True
            ):
                found += metrics.wer(clip.text, text, clip.language, "normalised")
        return metrics.total(team.gather(found))


def choose(
    config: Distill, seed: int, dev: Path | None, found: Sequence[Example], targets: TargetMaker
) -> tuple[list[Example], list[Example], bool]:
    """(what to train on, the dev set's clips, whether these are of the split `dev`); no clips where none are asked for.

    Raises ConfigError where there is nothing to measure on.
    """
    if not config.dev_every:
        return list(found), [], False
    given = transcribed(dev, targets) if dev is not None else []
    training, chosen = (list(found), given) if given else held_out(found, config.dev_share, seed)
    chosen = sorted(chosen, key=lambda e: compute.seed(seed, "dev", e.utt_id))[: config.dev_clips]
    if not any(metrics.wer(e.text, "", e.language, "normalised").reference_units for e in chosen):
        raise ConfigError(
            f"distill.dev_every: got {config.dev_every}, but there is nothing to measure on: {dev or 'the dev split'} "
            f"has no transcript that the model can take whole, and distill.dev_share is {config.dev_share:g}; "
            "give prepare.sources a dev split, raise the share, or set dev_every to 0"
        )
    if not training:
        raise ConfigError(f"distill.dev_share: got {config.dev_share:g}, which leaves no label to train on")
    return training, sorted(chosen, key=lambda e: (e.duration_s, e.utt_id)), bool(given)


def transcribed(dev: Path, targets: TargetMaker) -> list[Example]:
    """The utterances of a prepared split that have a transcript and fit the model."""
    if not (dev / "manifest.parquet").is_file():
        return []
    rows = [r for r in manifest.rows(dev / "manifest.parquet", manifest.UTTERANCE) if r["text"] is not None]
    found = [
        Example(
            **{key: row[key] for key in ("utt_id", "language", "text", "source", "recording", "speaker")},
            parts=(Part(row["utt_id"], row["utt_id"], 0.0, row["duration_s"]),),
            segments=((0.0, row["duration_s"], row["text"]),),
            previous="",
            offset_s=row["offset_s"] or 0.0,
        )
        for row in rows
    ]
    return targets.usable(found)[0]


def held_out(found: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(the others, whole recordings in a random order up to `share` of the labels): no neighbour of one is seen."""
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in found:
        groups.setdefault((example.source, example.recording or example.utt_id), []).append(example)
    out: list[Example] = []
    for key in sorted(groups, key=lambda key: compute.seed(seed, "held out", *key)):
        if len(out) + len(groups[key]) <= share * len(found):
            out += groups[key]
    gone = {example.utt_id for example in out}
    return [example for example in found if example.utt_id not in gone], out
