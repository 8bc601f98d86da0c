"""`lab`: speech from the offline speech lab, made where it is needed; nothing to download.

    - {name: lab-train, kind: lab, split: train, seed: 11, domains: {en-us: 360, trouble: 120}}

Clip i of a domain depends on (domain, split, seed, i) and the lab's code alone, so batches are made in any process.
An empty text is a reference too: in the domain `trouble` nothing is said.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from stillsmall.cache import digest, file_digest
from stillsmall.config import Positive
from stillsmall.plugins import nearest
from stillsmall.sources.base import Clip, Place, Plan, PreparationError, Source, language, sample

LAB = "stillsmall.speech_lab"


class Lab(Source):
    seed: int
    domains: dict[str, Positive]

    def plan(self, place: Place) -> Plan:
        from stillsmall.speech_lab.corpus import domains

        have = list(domains())
        for name in self.domains:
            if name not in have:
                raise PreparationError(f"{place.where}.domains: unknown '{name}'; {nearest(name, have)}")
        batches = []
        for domain, count in self.domains.items():
            chosen = sample(self.take, self.name, [item_name(domain, index) for index in range(count)])
            indices = [int(item.rpartition("/")[2]) for item in chosen]
            for first in range(0, len(indices), place.batch):
                batches.append(Spoken(self, domain, tuple(indices[first : first + place.batch])))
        return Plan(batches, sum(len(batch) for batch in batches))


@dataclass(frozen=True)
class Spoken:
    """A batch of clips that the lab speaks when they are asked for."""

    source: Lab
    domain: str
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def identity(self) -> Any:
        given = self.source
        return [lab_digest(), given.split, given.seed, given.transcripts, given.language, given.domain, self.domain,
                self.indices]  # fmt: skip

    def clips(self) -> Iterable[Clip]:
        from stillsmall.speech_lab.corpus import clips

        given = self.source
        for _, run in groupby(enumerate(self.indices), key=lambda pair: pair[1] - pair[0]):
            indices = [index for _, index in run]
            spoken = clips(self.domain, given.split, len(indices), given.seed, start=indices[0])
            for index, clip in zip(indices, spoken, strict=True):
                yield Clip(
                    item=item_name(self.domain, index),
                    audio=clip.audio,
                    recording=f"{given.name}/{item_name(self.domain, index)}",
                    language=language(given.language or clip.language),
                    domain=given.domain or clip.domain,
                    speaker=clip.speaker if clip.text else None,  # "silence" is nobody
                    text=given.reference(clip.text),
                    may_be_silent=True,
                )


def item_name(domain: str, index: int) -> str:
    return f"{domain}/{index:05d}"


def lab_digest() -> str:
    """Digest of the lab: its code, its word lists, and the synthesiser's version."""
    spec = importlib.util.find_spec(LAB)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(LAB)
    folder = Path(spec.origin).parent
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest([(path.relative_to(folder).as_posix(), file_digest(path)) for path in files]
                  + [importlib.metadata.version("espeakng-loader")])  # fmt: skip
