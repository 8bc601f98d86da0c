"""Names to code, resolved lazily: a table maps a name to "module:object", and only the one asked for is imported."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any


class UnknownName(ValueError):
    """A name that no table holds; the message gives the nearest one and all of them."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the nearest valid one, then all."""
    have = sorted(choices)
    close = difflib.get_close_matches(str(name), have, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Have: {', '.join(have)}"


def require(table: Mapping[str, str], name: str, path: str) -> None:
    """UnknownName, naming the nearest, where `table` has no `name`."""
    if name not in table:
        raise UnknownName(f"{path}: unknown '{name}'; {nearest(name, table)}")


def resolve(table: Mapping[str, str], name: str, path: str) -> Any:
    """The object that `table` names `name`; `path` is the parameter's dotted path, for the error.

    Raises UnknownName: `distill.objective: unknown 'kdd'; did you mean 'kd'? Have: ce, kd`.
    """
    require(table, name, path)
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
