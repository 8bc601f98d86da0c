"""Overlays of params.yaml: whole recipes and single values, checked before a byte is written, comments kept.

A recipe is `recipes/NAME.yaml`: a `description`, then sections as in params.yaml with the values that differ. Sections
are merged key by key; a list (`prepare.sources`, `filter.keep_if`) is replaced whole.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillsmall import cache
from stillsmall.config import PARAMS, ConfigError, Params, parse, read_yaml
from stillsmall.plugins import nearest

RECIPES = Path("recipes")
PLUGINS = ("filters", "objectives")  # sections that hold one section per plugin
EITHER = ("filter.mixture", "student.encoder_layers", "student.decoder_layers", "student.pruning")  # a section, or not
WIDTH = 100_000  # characters: a line of params.yaml is never wrapped by us


@dataclass(frozen=True)
class Change:
    """One value that differs: its dotted path, before and after."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if any(isinstance(value, list) and any(isinstance(v, dict) for v in value) for value in (self.old, self.new)):
            gone = [f"  - {_flow(entry)}" for entry in self.old or []]
            return "\n".join([f"{self.path}:", *gone, *(f"  + {_flow(entry)}" for entry in self.new or [])])
        return f"{self.path}: {_flow(self.old)} -> {_flow(self.new)}"


def available(folder: Path = RECIPES) -> dict[str, str]:
    """The recipes of a folder: name to description."""
    return {path.stem: str(read_yaml(path).get("description", "")).strip() for path in sorted(folder.glob("*.yaml"))}


def read(name: str, folder: Path = RECIPES) -> dict[str, Any]:
    """The values of recipe `name`. ConfigError names the nearest recipe where there is none of that name."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"recipe '{name}': no such file as {path}; {nearest(name, available(folder))}")
    overlay = dict(read_yaml(path))
    if not str(overlay.pop("description", "")).strip():
        raise ConfigError(f"{path}: description: missing; say in a sentence what the recipe is")
    return overlay


def assignments(pairs: Iterable[str]) -> dict[str, Any]:
    """`distill.steps=300` and the like as an overlay; the value is YAML (1e-4, null, true, [a, b])."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    overlay: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(f"'{pair}': expected key=value with the key's dotted path, such as distill.steps=300")
        try:
            value = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            raise ConfigError(f"{path}: '{text}' is not a YAML value: {str(error).splitlines()[0]}") from error
        put(overlay, path, value)
    return overlay


def put(overlay: dict[str, Any], path: str, value: Any) -> None:
    """Sets the value of a dotted path, with the sections above it."""
    *above, last = path.split(".")
    section = overlay
    for key in above:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: goes below a value that is set too; give one of the two")
    section[last] = value


def use(overlays: Iterable[Mapping[str, Any]], params: Path = PARAMS, dry_run: bool = False) -> list[Change]:
    """Lays overlays over params.yaml, in order, and returns what changes; writes only a file that is valid as a whole.

    Raises ConfigError or plugins.UnknownName with the dotted path; params.yaml is then as it was.
    """
    read_yaml(params)  # its own errors, in words
    yaml = _yaml()
    tree = yaml.load(params.read_text(encoding="utf-8"))
    before = _plain(tree)
    for overlay in overlays:
        _lay(tree, overlay, "")
    after = _plain(tree)
    changes = list(_changes(before, after, ""))
    check(after, {change.path for change in changes})
    if changes and not dry_run:
        text = io.StringIO()
        yaml.dump(tree, text)
        cache.write_bytes(params, text.getvalue().encode())
    return changes


def check(tree: dict[str, Any], changed: Iterable[str] | None = None) -> None:
    """Faults of a whole params.yaml, plugins and sources included; with `changed` paths, objectives only where touched.

    (An objective's own section lives beside its code, so looking at it imports torch.)
    """
    from stillsmall import filtering, objectives, sources

    params = parse(Params, tree, "")
    sources.load(params.prepare.sources)
    filtering.rules(params.filter, params.filters)
    if params.distill.objective not in {*objectives.TABLE, *params.objectives}:
        raise ConfigError(
            f"distill.objective: unknown '{params.distill.objective}'; "
            f"{nearest(params.distill.objective, {*objectives.TABLE, *params.objectives})}"
        )
    if changed is None or any(path.startswith(("objectives.", "distill.objective")) for path in changed):
        from stillsmall.objectives.build import section

        for name, given in params.objectives.items():
            section(name, given)


def _lay(tree: Any, overlay: Mapping[str, Any], path: str) -> None:
    for key, value in overlay.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in tree and path not in PLUGINS:  # a plugin's section may be new; `check` knows the plugins
            raise ConfigError(f"{where}: unknown '{key}'; {nearest(str(key), map(str, tree))}")
        old = tree.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict) and not _of_another_kind(old, value, where):
            _lay(old, value, where)
        elif isinstance(old, dict) and not _of_a_plugin(path) and where not in EITHER:
            raise ConfigError(f"{where}: got {value!r}; it is a section: give {where}.KEY=value. {nearest('', old)}")
        elif old != value or type(old) is bool or type(value) is bool:
            _replace(tree, key, value)


def _of_a_plugin(path: str) -> bool:
    """Inside one plugin's section, where a value may be a section or not (`filters.random.labels`): `check` knows."""
    kind, _, name = path.partition(".")
    return kind in PLUGINS and bool(name)


def _of_another_kind(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> bool:
    """Where a section's keys depend on which it is ({first: n} or {last: n}, kinds of pruning): another replaces it."""
    layers = where.endswith("_layers") and set(old) != set(new)
    return where in EITHER and (layers or new.get("kind", old.get("kind")) != old.get("kind"))


def _replace(tree: Any, key: str, value: Any) -> None:
    tree[key] = _styled(value)
    comments = tree.ca.items.get(key)
    if isinstance(value, list) and comments and comments[2]:  # below the key's own line they spoke of the old entries
        comments[2].value = comments[2].value.split("\n")[0] + "\n"


def _styled(value: Any) -> Any:
    """A list of sections is written one a line, in braces, as params.yaml has them."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, Mapping):
        section = CommentedMap((key, _styled(inner)) for key, inner in value.items())
        section.fa.set_flow_style()
        return section
    if isinstance(value, list):
        entries = CommentedSeq(_styled(inner) for inner in value)
        if not any(isinstance(inner, Mapping) for inner in value):
            entries.fa.set_flow_style()
        return entries
    return value


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.width = WIDTH
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    return yaml


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):  # ruamel's scalars remember how they were written; pydantic is strict
        if isinstance(node, kind):
            return kind(node)
    return node


def _changes(old: Any, new: Any, path: str) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            yield from _changes(old.get(key), new[key], f"{path}.{key}" if path else key)
    elif old != new or type(old) is not type(new):
        yield Change(path, old, new)


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    yaml.width = WIDTH
    yaml.default_flow_style = True
    yaml.sort_base_mapping_type_on_output = False
    text = io.StringIO()
    yaml.dump(value, text)
    return text.getvalue().removesuffix("\n...\n").strip()
