"""Parts of a student that training leaves as the teacher has them, by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from stillsmall.config import ConfigError
from stillsmall.plugins import nearest

POSITIONS = "positions"  # both sides' position embeddings
RANGE = re.compile(r"(\d+)-(\d+)")


def freeze(student: Any, patterns: Sequence[str], path: str = "student.freeze") -> None:
    """Turns gradients off for all that `patterns` name: `encoder`, `encoder.layers.0-3`, `decoder.embed_tokens`, ...

    A pattern is the beginning of a parameter's dotted name without `model.`; numbers are the student's own layers, both
    ends of a range included. `positions` is both sides' position embeddings. Tied, `decoder.embed_tokens` is the output
    matrix too. Raises ConfigError, with the nearest names, for a pattern (or one number of a range) that names nothing.
    """
    parameters = {name.removeprefix("model."): value for name, value in student.named_parameters()}
    parts = {".".join(name.split(".")[: i + 1]) for name in parameters for i in range(name.count(".") + 1)}
    for number, pattern in enumerate(patterns):
        for wanted in _expanded(pattern, f"{path}[{number}]"):
            if wanted not in parts:
                have = nearest(wanted, parts).split("Have:")[0]
                near = ", ".join(sorted({*_siblings(wanted, parts), POSITIONS}))
                raise ConfigError(f"{path}[{number}]: '{pattern}' names nothing: no '{wanted}'; {have}Have: {near}")
            for name, value in parameters.items():
                if name == wanted or name.startswith(f"{wanted}."):
                    value.requires_grad_(False)


def _expanded(pattern: str, path: str) -> Iterator[str]:
    """`encoder.layers.0-2` as its three names; anything else as it is."""
    if pattern == POSITIONS:
        yield from (f"{side}.embed_positions" for side in ("encoder", "decoder"))
        return
    for found in RANGE.finditer(pattern):
        first, last = int(found[1]), int(found[2])
        if first > last:
            raise ConfigError(f"{path}: '{pattern}': the range {found[0]} runs backwards")
        for number in range(first, last + 1):
            yield from _expanded(f"{pattern[: found.start()]}{number}{pattern[found.end() :]}", path)
        return
    yield pattern


def _siblings(wanted: str, parts: set[str]) -> set[str]:
    """The names that stand where `wanted` goes wrong: below its longest beginning that exists."""
    beginning = wanted
    while beginning and beginning not in parts:
        beginning = beginning.rpartition(".")[0]
    depth = beginning.count(".") + 2 if beginning else 1
    return {name for name in parts if name.startswith(f"{beginning}." if beginning else "") and name.count(".") < depth}
