"""Objectives from their sections: by name, of a kind of their own, and one inside another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillsmall.config import ConfigError, parse
from stillsmall.objectives import TABLE
from stillsmall.objectives.base import Objective
from stillsmall.plugins import UnknownName, nearest, require, resolve


def build(sections: Mapping[str, Any], name: str, path: str = "distill.objective") -> Objective:
    """The objective of the section `name` under `objectives`: of the section's own name, or of its `kind`.

    Raises UnknownName or ConfigError with the dotted path and the nearest valid name.
    """
    if name not in sections and name not in TABLE:
        raise UnknownName(f"{path}: unknown '{name}'; {nearest(name, {*sections, *TABLE})}")
    return section(name, sections.get(name, {}))


def section(name: str, given: Any) -> Objective:
    """One entry of `objectives`; a name that is no objective's gives its kind: `adakd_late: {kind: adakd, ...}`."""
    path = f"objectives.{name}"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{path}: got {given!r}; expected a section of key: value lines")
    if name not in TABLE and "kind" not in given:
        raise UnknownName(f"{path}: unknown '{name}'; {nearest(name, TABLE)} (a name of your own needs a kind)")
    if name in TABLE and given.get("kind", name) != name:
        raise ConfigError(
            f"{path}.kind: got '{given['kind']}'; a section named after an objective is that objective; "
            "name it otherwise"
        )
    return inline({"kind": name, **given}, path)


def weighed(given: Any, path: str) -> Objective:
    """An inline objective whose loss another one weighs. ConfigError where it holds a teacher that learns.

    That teacher's own loss is among its units, and is not the student's to weigh.
    """
    made = inline(given, path)
    if any(getattr(module, "teacher_learns", False) for module in made.modules()):
        raise ConfigError(
            f"{path}.kind: got '{given['kind']}', whose teacher learns too, and its loss must not be weighed by how "
            "the student does; turn them round: the weighing objective as the inner one of okd or joint"
        )
    return made


def inline(given: Any, path: str) -> Objective:
    """An objective written where it is used: `inner: {kind: kd, ce_weight: 0.8, ...}`."""
    if not isinstance(given, Mapping) or "kind" not in given:
        raise ConfigError(f"{path}: got {given!r}; expected a section with a kind: {', '.join(sorted(TABLE))}")
    kind = str(given["kind"])
    require(TABLE, kind, f"{path}.kind")
    found: type[Objective] = resolve(TABLE, kind, f"{path}.kind")
    config = parse(found.Config, {key: value for key, value in given.items() if key != "kind"}, path)
    return found(config, path)
