"""Audio for the page: stretches of a split's recordings as data URIs, as long as the page's room for them lasts."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from stillsmall import audio, manifest
from stillsmall.reporting.figures import BYTES_PER_MB

PREFIX = "data:audio/flac;base64,"
EDGE_S = 1 / audio.SAMPLE_RATE  # a stretch this close to the recording's ends is the recording


@dataclass(frozen=True)
class Stretch:
    """Seconds `start_s`..`end_s` of the utterance `parent`; None at the end means all of it."""

    parent: str
    start_s: float = 0.0
    end_s: float | None = None


@dataclass
class Room:
    """How many bytes of audio the page may still take (as they stand in the page, in base64)."""

    megabytes: float
    used: int = field(default=0, init=False)

    def admit(self, flac: bytes) -> str | None:
        """The audio as a data URI, or None where it does not fit."""
        size = len(PREFIX) + 4 * ((len(flac) + 2) // 3)
        if self.used + size > self.megabytes * BYTES_PER_MB:
            return None
        self.used += size
        return PREFIX + base64.b64encode(flac).decode()


def fetch(split: Path, stretches: Iterable[Stretch]) -> dict[Stretch, bytes]:
    """The FLAC bytes of stretches of one split; each shard is read once. What the split does not have is left out."""
    wanted: dict[str, list[Stretch]] = {}
    for stretch in stretches:
        wanted.setdefault(stretch.parent, []).append(stretch)
    if not wanted:
        return {}
    table = manifest.read(split / "manifest.parquet", manifest.UTTERANCE)
    places = zip(table["utt_id"].to_pylist(), table["shard"].to_pylist(), strict=True)
    shards = sorted({shard for utt_id, shard in places if utt_id in wanted})
    found = {}
    for _, clips in manifest.audio(split, shards):
        for utt_id, flac in clips:
            for stretch in wanted.get(utt_id, []):
                found[stretch] = cut(flac, stretch)
    return found


def cut(flac: bytes, stretch: Stretch) -> bytes:
    """The stretch of a recording; the recording's own bytes where the stretch is all of it."""
    if stretch.start_s < EDGE_S and stretch.end_s is None:
        return flac
    samples = audio.decode_flac(flac)
    start = round(stretch.start_s * audio.SAMPLE_RATE)
    end = len(samples) if stretch.end_s is None else round(stretch.end_s * audio.SAMPLE_RATE)
    if start == 0 and end >= len(samples) - 1:
        return flac
    return audio.encode_flac(samples[start:end])
