"""What is wrong with a section, in words: its dotted path, the value, what is allowed, the nearest valid name."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from stillsmall.plugins import nearest

LONGEST_SHOWN = 80  # characters of a section that breaks a rule
NO_SECTION = {"model_type", "model_attributes_type", "dict_type"}


def in_words(model: type[BaseModel], fault: Any, path: str) -> str:
    """One of pydantic's errors about a `model` that stands at `path`, as a line for people."""
    inside, loc = _walk(model, fault["loc"])
    where = ".".join([*([path] if path else []), *loc])
    if fault["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in inside.model_fields.items()]
        return f"{where}: unknown '{fault['loc'][-1]}'; {nearest(str(fault['loc'][-1]), known)}"
    if fault["type"] == "missing":
        return f"{where}: missing; params.yaml must give it a value"
    if fault["type"] == "union_tag_invalid":
        kinds = [name.strip().strip("'") for name in fault["ctx"]["expected_tags"].split(",")]
        return f"{where}.kind: unknown '{fault['ctx']['tag']}'; {nearest(fault['ctx']['tag'], kinds)}"
    if fault["type"] == "union_tag_not_found":
        return f"{where}.kind: missing; params.yaml must give it a value"
    if fault["type"] in NO_SECTION:
        return f"{where}: got {fault['input']!r}; expected a section of key: value lines"
    said = str(fault["ctx"]["error"]) if fault["type"] == "value_error" else fault["msg"][0].lower() + fault["msg"][1:]
    whole = isinstance(fault["input"], dict) and len(repr(fault["input"])) > LONGEST_SHOWN  # a rule names its keys
    return f"{where}: {said}" if whole else f"{where}: got {fault['input']!r}; {said}"


def _walk(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[type[BaseModel], list[str]]:
    """(the innermost section on the way, the dotted path that people write) of a fault.

    pydantic names the kind that it chose as a part of the path (pruning.iterative.decay): it is left out.
    """
    path: list[str] = []
    below: dict[str, type[BaseModel]] = {"": model}  # sections that a part may lead into, by kind; "" the only one
    for part in loc:
        if part in below and path:
            model = below[part]
            continue
        if isinstance(part, int) and path:
            path[-1] += f"[{part}]"
        else:
            path.append(str(part))
            below = _sections_of(model, part)
        model = below.get("", model)
    return model, path


def _sections_of(model: type[BaseModel], part: Any) -> dict[str, type[BaseModel]]:
    """The sections that field `part` of `model` may hold, by their kind; the only one by ""."""
    for name, field in model.model_fields.items():
        if part in (name, field.alias):
            parts = _arguments(field.annotation)
            found = [kind for kind in parts if isinstance(kind, type) and issubclass(kind, BaseModel)]
            if len(found) == 1:
                return {"": found[0]}
            return {get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in found}
    return {}


def _arguments(annotation: Any) -> list[Any]:
    """An annotation's innermost parts: list[A] | Annotated[B | C, ...] | None has A, B, C and None."""
    inner = get_args(annotation)
    return [part for one in inner for part in _arguments(one)] if inner else [annotation]
