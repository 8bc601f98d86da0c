"""Keeps the best share of labels by any score, overall or within each domain (the quantile baseline of 2407.01257).

Of n labels that have a value, round(share * n) are kept (half up): exactly so many, ties in the order of their ids.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator
from pydantic_core import PydanticCustomError

from stillsmall import manifest
from stillsmall.config import Section, Share
from stillsmall.filters.base import KeepOrDrop, Mask, Ranking, Row, Verdict, missing, numbers
from stillsmall.plugins import nearest

ALL = ""  # the one group of a ranking that does not look at domains


def rankable() -> list[str]:
    """The columns of the score table that hold numbers or truths."""
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    return [field.name for field in manifest.SCORE if any(kind(field.type) for kind in kinds)]


class KeepBest(Ranking):
    class Config(Section):
        column: str
        share: Share
        direction: Literal["ascending", "descending"]  # ascending: the smallest values are the best
        per_domain: bool  # the share of every domain, or of the whole table
        without_value: KeepOrDrop  # labels without a value are no part of the share

        @field_validator("column")
        @classmethod
        def _is_a_score(cls, name: Any) -> Any:
            if name not in rankable():
                said = {"said": f"no score to rank by; {nearest(str(name), rankable())}"}
                raise PydanticCustomError("column", "{said}", said)
            return name

    def __init__(self, config: Config) -> None:
        self.config = config
        self.columns = ("utt_id", "domain", config.column)
        where = " of its domain" if config.per_domain else ""
        self.reason = f"not among the best {config.share}{where} by {config.column}"
        self.last: dict[str, tuple[float, str]] = {}  # per group: the last one kept, as (sign * value, id)

    def fit(self, table: pa.Table, matched: int) -> None:
        """Finds the last label that is kept of each group; the order of the table does not matter."""
        values, ids = self._values(table), table["utt_id"]
        groups = table["domain"] if self.config.per_domain else pa.repeat(ALL, table.num_rows)
        self.last = {}
        for group in pc.unique(groups).to_pylist():
            here = np.flatnonzero(pc.equal(groups, group).to_numpy(zero_copy_only=False) & ~np.isnan(values))
            count = int(self.config.share * len(here) + 0.5)
            if count:
                edge = np.partition(values[here], count - 1)[count - 1]
                below = int((values[here] < edge).sum())
                tied = sorted(ids.take(here[values[here] == edge]).to_pylist())
                self.last[group] = (float(edge), tied[count - below - 1])

    def _values(self, table: pa.Table) -> Any:
        return numbers(table, self.config.column) * (1 if self.config.direction == "ascending" else -1)

    def judge(self, row: Row) -> Verdict:
        value = row[self.config.column]
        if missing(value):
            return Verdict(self.config.without_value == "keep", None, f"there is no {self.config.column} to rank by")
        last = self.last.get(row["domain"] if self.config.per_domain else ALL)
        rank = (float(value) * (1 if self.config.direction == "ascending" else -1), row["utt_id"])
        return Verdict(last is not None and rank <= last, value, self.reason)

    def keeps(self, table: pa.Table) -> Mask:
        values = self._values(table)
        keep = np.isnan(values) & (self.config.without_value == "keep")
        for group, (edge, last_id) in self.last.items():
            here = pc.equal(table["domain"], group).to_numpy(zero_copy_only=False) if self.config.per_domain else True
            keep |= here & (values < edge)
            tied = np.flatnonzero(here & (values == edge))
            keep[tied] = pc.less_equal(table["utt_id"].take(tied), last_id).to_numpy(zero_copy_only=False)
        return np.asarray(keep, dtype=bool)
