"""Where speech comes from: each kind of source is one file of this folder and one line of this table."""

from __future__ import annotations

from typing import Any

from stillsmall.config import ConfigError, parse
from stillsmall.plugins import UnknownName, resolve
from stillsmall.sources.base import Source

SOURCES = {
    "audiofolder": "stillsmall.sources.audiofolder:AudioFolder",
    "dataset": "stillsmall.sources.dataset:Dataset",
    "jsonl": "stillsmall.sources.jsonl:JsonLines",
    "lab": "stillsmall.sources.lab:Lab",
    "recordings": "stillsmall.sources.recordings:Recordings",
}


def load(entries: list[dict[str, Any]], path: str = "prepare.sources") -> list[Source]:
    """The entries of `prepare.sources`, each as its kind. Raises ConfigError with all faults, a line each."""
    sources: list[Source] = []
    faults: list[str] = []
    for number, entry in enumerate(entries):
        where = f"{path}[{number}]"
        try:
            if "kind" not in entry:
                raise ConfigError(f"{where}.kind: missing; have: {', '.join(sorted(SOURCES))}")
            sources.append(parse(resolve(SOURCES, entry["kind"], f"{where}.kind"), entry, where))
        except (ConfigError, UnknownName) as error:
            faults.append(str(error))
    names = [str(entry.get("name")) for entry in entries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        first, second = [number for number, other in enumerate(names) if other == name][:2]
        faults.append(f"{path}[{second}].name: '{name}' is already the name of {path}[{first}]; names are unique")
    if faults:
        raise ConfigError("\n".join(faults))
    return sources
