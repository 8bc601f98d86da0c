"""Rules put together with all, any and not, to any depth: what they keep, and everything that speaks against a label.

A node answers twice: `keeps(table)` is one truth a row, and for a single row `against(row)` holds the findings that
drop it (none: it is kept) while `toward(row)` holds those that keep it. `not` swaps the two, which is De Morgan's rule.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from stillsmall.config import ConfigError
from stillsmall.filters.base import Filter, Mask, Ranking, Row
from stillsmall.plugins import nearest

Finding = dict[str, str]  # one entry of `manifest.VERDICT`
WORDS = ("all", "any", "not")


class Node(Protocol):
    """One rule, or rules under all, any, not."""

    def keeps(self, table: pa.Table) -> Mask: ...

    def against(self, row: Row) -> list[Finding]: ...

    def toward(self, row: Row) -> list[Finding]: ...

    def leaves(self) -> dict[str, Filter]: ...


@dataclass(frozen=True)
class Leaf:
    """A filter under the name of its section."""

    name: str
    rule: Filter

    def keeps(self, table: pa.Table) -> Mask:
        return self.rule.keeps(table)

    def against(self, row: Row) -> list[Finding]:
        verdict = self.rule.judge(row)
        return [] if verdict.keep else [_finding(self.name, verdict.value, verdict.reason)]

    def toward(self, row: Row) -> list[Finding]:
        verdict = self.rule.judge(row)
        said = f"meets {self.name}, which must not hold"
        return [_finding(f"not {self.name}", verdict.value, said)] if verdict.keep else []

    def leaves(self) -> dict[str, Filter]:
        return {self.name: self.rule}


@dataclass(frozen=True)
class All:
    """Every part must keep the row; without parts, every row is kept."""

    parts: tuple[Node, ...]

    def keeps(self, table: pa.Table) -> Mask:
        masks = [part.keeps(table) for part in self.parts]
        return np.logical_and.reduce(masks) if masks else np.ones(table.num_rows, bool)

    def against(self, row: Row) -> list[Finding]:
        return _each(self.parts, lambda part: part.against(row))

    def toward(self, row: Row) -> list[Finding]:
        return _every(self.parts, lambda part: part.toward(row))

    def leaves(self) -> dict[str, Filter]:
        return {name: rule for part in self.parts for name, rule in part.leaves().items()}


@dataclass(frozen=True)
class Any_:
    """One part that keeps the row is enough; a row that is dropped has the findings of every part."""

    parts: tuple[Node, ...]

    def keeps(self, table: pa.Table) -> Mask:
        return np.logical_or.reduce([part.keeps(table) for part in self.parts])

    def against(self, row: Row) -> list[Finding]:
        return _every(self.parts, lambda part: part.against(row))

    def toward(self, row: Row) -> list[Finding]:
        return _each(self.parts, lambda part: part.toward(row))

    def leaves(self) -> dict[str, Filter]:
        return All(self.parts).leaves()


@dataclass(frozen=True)
class Not:
    """Keeps what its part drops."""

    part: Node

    def keeps(self, table: pa.Table) -> Mask:
        return ~self.part.keeps(table)

    def against(self, row: Row) -> list[Finding]:
        return self.part.toward(row)

    def toward(self, row: Row) -> list[Finding]:
        return self.part.against(row)

    def leaves(self) -> dict[str, Filter]:
        return self.part.leaves()


def _finding(rule: str, value: Any, reason: str) -> Finding:
    return {"rule": rule, "value": json.dumps(value), "reason": reason}


def _each(parts: Sequence[Node], look: Callable[[Node], list[Finding]]) -> list[Finding]:
    """The findings of all parts, each once, in the order of the parts."""
    return _once([look(part) for part in parts])


def _every(parts: Sequence[Node], look: Callable[[Node], list[Finding]]) -> list[Finding]:
    """The same if no part is without findings, else none."""
    found = []
    for part in parts:
        found.append(look(part))
        if not found[-1]:
            return []
    return _once(found)


def _once(found: list[list[Finding]]) -> list[Finding]:
    flat = [finding for findings in found for finding in findings]
    return flat if len(flat) < 2 else [finding for n, finding in enumerate(flat) if finding not in flat[:n]]


def parse(entry: Any, path: str, rule: Callable[[str, str], Filter]) -> Node:
    """An entry of `filter.keep_if`: a name, or one of {all: [...]}, {any: [...]}, {not: entry}.

    `rule` makes the filter of a section's name (and a path, for its error). Raises ConfigError with the dotted path.
    """
    if isinstance(entry, str):
        return Leaf(entry, rule(entry, path))
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ConfigError(
            f"{path}: got {entry!r}; expected a filter's name or one of {{all: [...]}}, {{any: [...]}}, {{not: ...}}"
        )
    ((word, inner),) = entry.items()
    if word not in WORDS:
        raise ConfigError(f"{path}: unknown '{word}'; {nearest(str(word), WORDS)}")
    if word == "not":
        return Not(parse(inner, f"{path}.not", rule))
    if not isinstance(inner, list) or not inner:
        raise ConfigError(f"{path}.{word}: got {inner!r}; expected a list of at least one entry")
    parts = parse_all(inner, f"{path}.{word}", rule)
    return parts if word == "all" else Any_(parts.parts)


def parse_all(entries: Sequence[Any], path: str, rule: Callable[[str, str], Filter]) -> All:
    """A list of entries, all of which must keep a row."""
    return All(tuple(parse(entry, f"{path}[{number}]", rule) for number, entry in enumerate(entries)))


@dataclass(frozen=True)
class Rules:
    """What `filter.keep_if` says, with every section of `filters` as a filter, and what the ranking ones match."""

    root: All
    sections: Mapping[str, Filter]
    matched: Mapping[str, All]  # of a ranking section: the entries whose size it takes

    @property
    def columns(self) -> list[str]:
        """What the combination reads of a row."""
        return list(dict.fromkeys(column for rule in self.root.leaves().values() for column in rule.columns))

    def fit(self, table: pa.Table, everything: bool = False) -> None:
        """Lets the ranking filters of the combination (or of all sections) see the table."""
        done: set[str] = set()
        for name in self.sections if everything else self.root.leaves():
            self._fit(name, table, done)

    def _fit(self, name: str, table: pa.Table, done: set[str]) -> None:
        rule = self.sections[name]
        if not isinstance(rule, Ranking) or name in done:
            return
        done.add(name)
        matched = self.matched.get(name)
        for inner in matched.leaves() if matched else ():
            self._fit(inner, table, done)
        rule.fit(table, int(matched.keeps(table).sum()) if matched else 0)

    def keeps(self, table: pa.Table) -> Mask:
        """One truth a row, after `fit`."""
        return self.root.keeps(table)

    def against(self, row: Row) -> list[Finding]:
        """Everything that drops the row, after `fit`; empty if it is kept."""
        return self.root.against(row)
