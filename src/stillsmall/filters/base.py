"""What a filter is: a pure judgement of one score row, with the reason in words and the value it looked at.

The same judgement runs over a whole table at once (`keeps`), so that a million rows take seconds. Where a row has no
value (null, or a NaN), the filter's `without_value` decides: nothing is kept or dropped by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stillsmall.config import Section

Row = Mapping[str, Any]
Mask = NDArray[np.bool_]  # one truth a row
KeepOrDrop = Literal["keep", "drop"]


@dataclass(frozen=True)
class Verdict:
    """keep or not; `reason` is a sentence without numbers of the row, `value` is the row's own."""

    keep: bool
    value: Any
    reason: str


class Filter:
    """Judges rows of `manifest.SCORE`; reads `columns` of them and nothing else.

    `Config` is the filter's section under `filters` in params.yaml.
    """

    Config: ClassVar[type[Section]]
    columns: tuple[str, ...]

    def judge(self, row: Row) -> Verdict:
        """The verdict on one row, from the row alone (and, for a filter that ranks, from what `fit` saw)."""
        raise TypeError(f"{type(self).__name__} has no judge(row)")

    def keeps(self, table: pa.Table) -> Mask:
        """`judge(row).keep` of every row; filters override it where columns can do it faster."""
        rows = (
            row for batch in table.select(self.columns).to_batches(max_chunksize=65_536) for row in batch.to_pylist()
        )
        return np.fromiter((self.judge(row).keep for row in rows), bool, table.num_rows)


class Ranking(Filter):
    """A filter that has to see all rows before it can judge one: the best so many, a random so many."""

    match: tuple[Any, ...] = ()  # entries as in filter.keep_if whose number of kept labels `fit` wants to know

    def fit(self, table: pa.Table, matched: int) -> None:
        """Sees every row once; `matched` is how many labels the entries of `match` keep, 0 without entries."""
        raise TypeError(f"{type(self).__name__} has no fit(table, matched)")


def missing(value: Any) -> bool:
    """No value: null, or not a number."""
    return value is None or value != value


def numbers(table: pa.Table, column: str) -> NDArray[np.float64]:
    """A column as numbers (booleans as 0 and 1), NaN where there is no value."""
    return cast("NDArray[np.float64]", pc.cast(table[column], pa.float64()).to_numpy(zero_copy_only=False))


@dataclass(frozen=True)
class Limit:
    """One column against one inclusive limit: at most `most`, or at least `least`."""

    column: str
    reason: str  # where the value is beyond the limit
    absent: str  # where there is no value
    without_value: KeepOrDrop
    most: float = float("inf")
    least: float = float("-inf")

    def judge(self, row: Row) -> Verdict:
        value = row[self.column]
        if missing(value):
            return Verdict(self.without_value == "keep", None, self.absent)
        return Verdict(self.least <= value <= self.most, value, self.reason)

    def keeps(self, table: pa.Table) -> Mask:
        values = numbers(table, self.column)
        none = np.isnan(values)
        within = (values >= self.least) & (values <= self.most)
        return np.where(none, self.without_value == "keep", within)


class Limited(Filter):
    """A filter that is all of one or more limits; the first one that a row does not meet is its reason."""

    limits: tuple[Limit, ...]

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys(limit.column for limit in self.limits))

    def judge(self, row: Row) -> Verdict:
        first = self.limits[0].judge(row)
        if not first.keep:
            return first
        others = (limit.judge(row) for limit in self.limits[1:])
        return next((verdict for verdict in others if not verdict.keep), first)

    def keeps(self, table: pa.Table) -> Mask:
        return np.logical_and.reduce([limit.keeps(table) for limit in self.limits])
