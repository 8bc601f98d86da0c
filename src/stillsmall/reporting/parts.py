"""What a section of the page is made of: cells, charts, sentences. The template only draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from stillsmall.reporting import figures


@dataclass(frozen=True)
class Cell:
    """Text to show, a value to sort by, and the length of a bar from 0 to 1 where there is one."""

    text: str
    value: float | str | None
    bar: float | None = None


@dataclass(frozen=True)
class Column:
    """A heading; numbers stand to the right."""

    label: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """Caption, columns, rows (the first cell names the row) and rows of totals, which are not sorted."""

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    foot: list[list[Cell]] = field(default_factory=list)
    sortable: bool = True


@dataclass(frozen=True)
class Chart:
    """An SVG of our own making, with its title and what it shows in words."""

    title: str
    svg: str
    summary: str


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it, in this order: sentences, charts, tables, notes."""

    id: str
    title: str
    sentences: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def cell(value: Any, show: Callable[[Any], str] = figures.number, scale: float | None = None) -> Cell:
    """A cell that sorts by its value; with `scale`, a bar that is full at `scale`."""
    bar = None if not scale or value is None else max(0.0, min(1.0, round(value / scale, 4)))
    return Cell(show(value), value, bar)


def columns(*labels: str, words: Iterable[str] = ()) -> list[Column]:
    """Headings: the first names the row, those in `words` hold text, all others numbers."""
    texts = set(words)
    return [Column(label, numeric=bool(number) and label not in texts) for number, label in enumerate(labels)]
