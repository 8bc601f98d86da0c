"""The control that separates quality from quantity: a random subset of a given size (2406.04512 leaves it out).

The size is a number, or that of what other rules keep: `labels: {match: [not_empty, agreement]}`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator
from pydantic_core import PydanticCustomError

from stillsmall.config import Section
from stillsmall.filters.base import Mask, Ranking, Row, Verdict
from stillsmall.plugins import nearest


class Random(Ranking):
    class Config(Section):
        labels: int | dict[str, list[Any]]  # how many are kept, exactly (all, if there are fewer); or {match: [rules]}
        seed: int

        @field_validator("labels", mode="plain")
        @classmethod
        def _is_a_size(cls, value: Any) -> Any:
            said = "expected a number of labels above 0, or {match: [rules]} as in filter.keep_if"
            if isinstance(value, Mapping) and set(value) != {"match"}:
                other = next((key for key in value if key != "match"), "")
                said = f"unknown '{other}'; {nearest(str(other), ['match'])}"
            elif isinstance(value, Mapping):
                if isinstance(value["match"], list) and value["match"]:
                    return dict(value)
            elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
            raise PydanticCustomError("labels", "{said}", {"said": said})

    columns = ("utt_id",)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.match = tuple(config.labels["match"]) if isinstance(config.labels, dict) else ()
        self.kept: frozenset[str] = frozenset()
        self.size = 0

    def fit(self, table: pa.Table, matched: int) -> None:
        """Draws by each label's own id, so that the draw does not depend on the order of the table."""
        self.size = self.config.labels if isinstance(self.config.labels, int) else matched
        ids = sorted(table["utt_id"].to_pylist(), key=self._draw)
        self.kept = frozenset(ids[: self.size])

    def _draw(self, utt_id: str) -> bytes:
        return hashlib.sha256(f"{self.config.seed} {utt_id}".encode()).digest()

    def judge(self, row: Row) -> Verdict:
        return Verdict(row["utt_id"] in self.kept, None, f"not drawn among {self.size} at random")

    def keeps(self, table: pa.Table) -> Mask:
        drawn = pc.is_in(table["utt_id"], value_set=pa.array(self.kept, pa.string()))
        return drawn.to_numpy(zero_copy_only=False)
