"""The control that separates quality from quantity: a random subset of a given size (2406.04512 leaves it out)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from stillsmall.config import Positive, Section
from stillsmall.filters.base import Verdict


class Random:
    class Config(Section):
        labels: Positive  # how many are kept, exactly (all, if there are fewer)
        seed: int

    def __init__(self, config: Config) -> None:
        self.config = config
        self.kept: frozenset[str] = frozenset()

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Draws by each label's own id, so that the draw does not depend on the order of the table."""
        ids = sorted((row["utt_id"] for row in rows), key=self._draw)
        self.kept = frozenset(ids[: self.config.labels])

    def _draw(self, utt_id: str) -> str:
        return hashlib.sha256(f"{self.config.seed} {utt_id}".encode()).hexdigest()

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        return Verdict(row["utt_id"] in self.kept, None, f"not drawn among {self.config.labels} at random")
