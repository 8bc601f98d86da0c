"""What a filter is: a pure judgement of one score row, with the reason in words and the value it looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel


@dataclass(frozen=True)
class Verdict:
    """keep or not; `reason` is a sentence without numbers of the row, `value` is the row's own."""

    keep: bool
    value: Any
    reason: str


class Filter(Protocol):
    """Judges a row of `manifest.SCORE`. `Config` is the filter's section under `filters` in params.yaml.

    A filter that ranks (the best so many, a random so many) also has `fit(rows)`, which sees the whole table once
    before any row is judged.
    """

    Config: ClassVar[type[BaseModel]]

    def judge(self, row: Mapping[str, Any]) -> Verdict: ...


@runtime_checkable
class Ranking(Protocol):
    """The further half of a filter that needs to see all rows first."""

    def fit(self, rows: Sequence[Mapping[str, Any]]) -> None: ...
