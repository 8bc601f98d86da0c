"""Curves of the training log as SVG that lives in the page: its text is text, its colours are the page's."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillsmall.reporting.parts import Chart

NOT_LOSSES = ("step", "lr", "gradient_norm", "tokens")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))  # more than colour tells the lines apart
INK, GRID = "#010203", "#010204"  # stand-ins that become the page's own colours
SERIES = tuple(f"#0102{10 + n}" for n in range(4))
SETTINGS: Any = {
    "svg.hashsalt": "stillsmall",  # ids in the SVG: the same for the same data
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "path.simplify": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": GRID,
}
SIZE = (4.6, 2.9)  # inches; drawn narrow so that a phone shows its text at nearly full size


def read(path: Path) -> dict[str, list[float | None]]:
    """The columns of training.csv; a blank is None. Empty where there is no such file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0]) if rows else []
    return {name: [float(row[name]) if row[name] not in ("", None) else None for row in rows] for name in names}


def charts(log: dict[str, list[float | None]]) -> list[Chart]:
    """One chart of the loss and its parts, one of the gradient's norm, one of the learning rate: what the log has."""
    if not log.get("step"):
        return []
    losses = [name for name in log if name not in NOT_LOSSES]
    groups = {"Loss and its parts": losses[: len(SERIES)], "Norm of the gradient": ["gradient_norm"]}
    groups["Learning rate"] = ["lr"]
    found = []
    for title, names in groups.items():
        have = {name: log[name] for name in names if any(v is not None for v in log.get(name, []))}
        if have:
            steps = [step or 0.0 for step in log["step"]]
            found.append(Chart(title, draw(title, steps, have), summary(steps, have)))
    return found


def summary(steps: list[float], series: dict[str, list[float | None]]) -> str:
    """The chart in words: where each line starts and ends."""
    said = []
    for name, values in series.items():
        known = [value for value in values if value is not None]
        said.append(f"{name} from {known[0]:.4g} to {known[-1]:.4g}")
    return f"Steps {steps[0]:.0f} to {steps[-1]:.0f}: {', '.join(said)}."


def draw(title: str, steps: list[float], series: dict[str, list[float | None]]) -> str:
    """An <svg> element of lines over steps; the bytes follow the data."""

    def paint(axes: Any) -> None:
        for number, (name, values) in enumerate(series.items()):
            points = [float("nan") if value is None else value for value in values]
            mark = "o" if len(points) == 1 else ""
            axes.plot(steps, points, label=name, color=SERIES[number], linestyle=DASHES[number], marker=mark, lw=1.8)
        axes.set_xlabel("step")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        if len(series) > 1:
            axes.legend(frameon=False, handlelength=3)

    return canvas(title, paint)


def canvas(title: str, paint: Callable[[Any], None]) -> str:
    """An <svg> element on whose axes `paint` has drawn, in the page's own colours."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        paint(axes)
        axes.grid(True, axis="y", linewidth=0.8)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return embed(out.getvalue(), title)


def embed(svg: str, title: str) -> str:
    """Matplotlib's file as an element of a page: no prologue, no fixed size, colours from CSS, ids of its own."""
    body = svg[svg.index("<svg") :].strip()
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = f'<svg {box.group() if box else ""} aria-hidden="true" focusable="false">{rest}'
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.S)
    prefix = re.sub(r"\W+", "-", title.lower())
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", body).replace("xlink:href", "href")
    for colour, variable in {INK: "ink", GRID: "line", **{c: f"series-{n + 1}" for n, c in enumerate(SERIES)}}.items():
        body = body.replace(colour, f"var(--{variable})")
    return re.sub(r"\n\s*", "\n", body)
