"""What came out, on one screen: errors, speed, size, labels kept, where things are, what to type next.

Reads metrics/{prepare,filter,distill,evaluate,speed}.json; computes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stillsmall import tracking
from stillsmall.config import Params

REPORT = Path("reports/report.html")
FILES = ("prepare", "filter", "distill", "evaluate", "speed")
NEEDED = ("filter", "evaluate", "speed")
SYSTEMS = ("teacher", "student")
UNKNOWN = "-"
MB = 1 << 20
Row = tuple[str, str, str]


class SummaryError(RuntimeError):
    """There are no metrics to sum up; the message says what makes them."""


def read(folder: Path) -> dict[str, Any]:
    """The metrics of a folder by stage. Raises SummaryError where one is missing or not JSON."""
    found: dict[str, Any] = {}
    for name in FILES:
        path = folder / f"{name}.json"
        if not path.is_file():
            if name in NEEDED:
                raise SummaryError(f"{path}: no such file; `make repro` (or `dvc repro`) makes it")
            continue
        try:
            found[name] = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise SummaryError(f"{path}: not JSON ({error}); `make repro` makes it again") from error
    return found


def rows(metrics: Mapping[str, Any]) -> list[Row]:
    """The table: what, teacher, student."""
    tested, timed = metrics["evaluate"], metrics["speed"]
    cells: list[tuple[str, Callable[[str], str]]] = [
        ("WER, normalised", lambda name: _percent(_at(tested, name, "wer", "normalised"))),
        ("WER, as written", lambda name: _percent(_at(tested, name, "wer", "orthographic"))),
        ("CER, normalised", lambda name: _percent(_at(tested, name, "cer", "normalised"))),
        ("worst domain", lambda name: _worst(_at(tested, name, "domains"))),
        ("speed (x real time)", lambda name: _speed(_at(timed, name, "real_time_factor"))),
        ("parameters", lambda name: _millions(_at(timed, name, "parameters"))),
        ("size in memory", lambda name: _megabytes(_at(timed, name, "bytes"))),
    ]
    made = [(what, cell("teacher"), cell("student")) for what, cell in cells]
    return [row for row in made if set(row[1:]) != {UNKNOWN}]


def sentences(metrics: Mapping[str, Any]) -> list[str]:
    """What the table does not say: the difference with its interval, the speed-up, the labels, the data."""
    said = []
    difference, interval = (
        _at(metrics, "evaluate", "difference", "wer"),
        _at(metrics, "evaluate", "difference", "interval"),
    )
    if difference is not None:
        sure = f" (95 % interval {_points(interval['low'])} to {_points(interval['high'])})" if _has(interval) else ""
        said.append(f"The student's WER is {_points(difference)} points from the teacher's{sure}.")
    faster = _at(metrics, "speed", "speed_up")
    if faster is not None:
        said.append(f"It is {faster:.2f} times as fast, measured side by side on this kind of machine.")
    said.append(_labels(metrics["filter"]))
    prepared = _at(metrics, "prepare", "quarantine") or {}
    if prepared:
        reasons = ", ".join(f"{name} {count}" for name, count in sorted(prepared.items()))
        said.append(f"Left out before labelling: {sum(prepared.values())} items ({reasons}).")
    return said


def next_steps(params: Params, root: Path) -> list[str]:
    """Where things are, and what to type."""
    name, alias = params.register_.name, params.register_.alias
    report = REPORT if (root / REPORT).is_file() else None
    where = tracking.uri(root)
    ours = where == f"sqlite:///{(root.resolve() / tracking.HOME / 'mlflow.db').as_posix()}"
    local = f"sqlite:///{tracking.HOME.as_posix()}/mlflow.db" if ours else where
    return [
        f"report      {report}" if report else "report      not made yet: dvc repro",
        f"registry    models:/{name}@{alias} in {local}",
        f"            .venv/bin/mlflow ui --backend-store-uri {local}",
        f"listen      .venv/bin/stillsmall transcribe FILE --model models:/{name}@{alias}",
        "your speech edit prepare.sources in params.yaml (or: .venv/bin/stillsmall use RECIPE), then make repro",
    ]


def show(params: Params, root: Path) -> None:
    """Prints all of it."""
    from rich.console import Console
    from rich.table import Table

    metrics = read(root / "metrics")
    table = Table("", *SYSTEMS, title=params.report.title, title_justify="left")
    for row in rows(metrics):
        table.add_row(*row)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for line in [*sentences(metrics), "", *next_steps(params, root)]:
        console.print(line, markup=False)


def _labels(counts: Mapping[str, Any]) -> str:
    kept, rejected = counts["kept"], counts["rejected"]
    total = kept["labels"] + rejected["labels"]
    reasons = sorted(counts.get("reasons", {}).items(), key=lambda item: -item[1]["labels"])
    listed = ", ".join(f"{rule} {part['labels']}" for rule, part in reasons)
    why = f" ({listed})" if reasons else ""
    return f"Labels: {kept['labels']} of {total} kept ({kept['hours']:.2f} h), {rejected['labels']} rejected{why}."


def _worst(domains: Mapping[str, Any] | None) -> str:
    rates = [(name, _rate(part.get("wer"))) for name, part in (domains or {}).items()]
    known = [(rate, name) for name, rate in rates if rate is not None]
    if not known:
        return UNKNOWN
    rate, name = max(known)
    return f"{_percent(rate)} ({name})"


def _rate(value: Any) -> float | None:
    """A domain's WER is a number, or one for each form of the text."""
    return value.get("normalised") if isinstance(value, Mapping) else value


def _at(tree: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _has(interval: Any) -> bool:
    return isinstance(interval, Mapping) and None not in (interval.get("low"), interval.get("high"))


def _percent(rate: float | None) -> str:
    return UNKNOWN if rate is None else f"{100 * rate:.1f} %"


def _points(rate: float) -> str:
    return f"{100 * rate:+.1f}"


def _speed(real_time_factor: float | None) -> str:
    return f"{1 / real_time_factor:.1f}" if real_time_factor else UNKNOWN


def _millions(count: int | None) -> str:
    return UNKNOWN if count is None else f"{count / 1e6:.2f} M"


def _megabytes(size: int | None) -> str:
    return UNKNOWN if size is None else f"{size / MB:.1f} MB"
