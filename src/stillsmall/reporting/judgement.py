"""The section on the filters themselves: how well each score and each rule finds wrong labels, by the transcripts."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillsmall.reporting import figures
from stillsmall.reporting.curves import DASHES, INK, SERIES, canvas
from stillsmall.reporting.parts import Cell, Chart, Section, Table, cell, columns

Json = dict[str, Any]
Rows = Sequence[Mapping[str, str]]
ALL, WHOLE = "all", "keep_if"
ID, TITLE = "judgement", "How well the filters find wrong labels"
WRONG_AND_AUC = (
    "A label is wrong at a limit if its WER against the transcript is above it. AUC: how often a wrong label looks "
    "worse than a right one by that score; 0.5 is chance, and below it the score points the other way."
)
PRECISION = (
    "Precision: of the labels that a rule rejects, the share that is wrong. Recall: of the wrong labels, the share "
    "that it rejects. All filters is the combination that was used; the others stand alone, used or not."
)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV of the filter stage; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def section(found: Json | None, curves: Rows, domains: Rows) -> Section:
    """AUC of the scores, precision and recall of the rules, and what a threshold would keep."""
    if not found or not found["auc"]:
        why = found["reason"] if found else "there is no record of it"
        return Section(ID, TITLE, [f"Not judged: {why}."])
    limits = sorted(found["wrong"], key=lambda key: float(key.removeprefix("above_")))
    middle = limits[len(limits) // 2]
    best = ranked(found, middle)[: len(SERIES)]
    wrong = "; ".join(f"{name(key)}: {figures.count(found['wrong'][key]['labels'])}" for key in limits)
    known = f"{figures.plural(found['with_transcript'], 'label')} of {figures.count(found['labels'])}"
    said = [f"{known} can be compared with a transcript. Wrong ones, by limit: {wrong}."]
    said.append(_whole(found["rules"][WHOLE], middle))
    absent = [_title(score) for score, by in found["auc"].items() if not by["labels"]]
    notes = [WRONG_AND_AUC, PRECISION, *([f"Scores that no label has: {', '.join(absent)}."] if absent else [])]
    tables = [_areas(found, limits), _rules(found, limits), _domains(domains, best, middle)]
    drawn = chart(curves, best)
    return Section(ID, TITLE, said, [drawn] if drawn else [], [t for t in tables if t.rows], notes)


def name(key: str) -> str:
    """'above_40' -> 'WER above 40 %'."""
    return f"WER above {key.removeprefix('above_')} %"


def _title(score: str) -> str:
    return "all filters" if score == WHOLE else score.replace("_", " ")


def _whole(rule: Json, limit: str) -> str:
    at = rule[limit]
    if at["precision"] is None or at["recall"] is None:
        return f"The combination of filters cannot be judged there: {at['reason']}."
    precision, recall = (figures.percent(at[key]) for key in ("precision", "recall"))
    have = f"Of the labels that the filters rejected, {precision} have a {name(limit)}"
    return f"{have}; of all labels that have one, they rejected {recall}."


def ranked(found: Json, limit: str) -> list[str]:
    """Scores by their AUC at a limit, the best first."""
    known = {
        score: by[limit]["value"] for score, by in found["auc"].items() if by.get(limit, {}).get("value") is not None
    }
    return sorted(known, key=lambda score: (-known[score], score))


def area(at: Json) -> Cell:
    """'0.843 [0.816, 0.870]', or a dash."""
    value, low, high = (at.get(key) for key in ("value", "low", "high"))
    if value is None:
        return Cell(figures.ABSENT, None)
    return Cell(f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}, {high:.3f}]", value)


def _areas(found: Json, limits: Sequence[str]) -> Table:
    order = sorted(score for score, by in found["auc"].items() if by["labels"])
    rows = [
        [
            Cell(_title(score), score),
            Cell("higher" if found["auc"][score]["higher_is_worse"] else "lower", score),
            *(area(found["auc"][score][key]) for key in limits),
            cell(found["auc"][score]["labels"]),
        ]
        for score in order
    ]
    heads = columns("Score", "Worse if", *(f"AUC, {name(key)}" for key in limits), "Labels", words=("Worse if",))
    return Table("Finding wrong labels by a score alone", heads, rows)


def _rules(found: Json, limits: Sequence[str]) -> Table:
    def row(rule: str, part: Json) -> list[Cell]:
        used = "yes" if part["used"] else "no"
        cells = [Cell(_title(rule), rule), Cell(used, used), cell(part["rejected"])]
        shares = [part[key][what] for key in limits for what in ("precision", "recall", "f1")]
        return [*cells, *(cell(share, figures.percent) for share in shares)]

    rules = sorted(found["rules"].items())
    heads = [f"{what}, {name(key)}" for key in limits for what in ("Precision", "Recall", "F1")]
    return Table(
        "Finding wrong labels by a rule at its threshold",
        columns("Rule", "Used", "Rejected", *heads, words=("Used",)),
        [row(rule, part) for rule, part in rules if rule != WHOLE],
        [row(WHOLE, found["rules"][WHOLE])],
    )


def _domains(domains: Rows, scores: Sequence[str], limit: str) -> Table:
    """Per domain at one limit: wrong labels, AUC of the best scores, precision and recall of the combination."""
    at = [row for row in domains if row["wer_above"] == limit]
    by: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in at:
        by.setdefault(row["domain"], {})[row["name"]] = row
    rows = []
    for domain, found in sorted(by.items()):
        whole = found.get(WHOLE, {})
        cells = [Cell(domain, domain), cell(_number(whole.get("labels"))), cell(_number(whole.get("wrong")))]
        for score in scores:
            bounds = ((key, _number(found.get(score, {}).get(column))) for key, column in BOUNDS)
            cells.append(area(dict(bounds)))
        rows.append([*cells, *(cell(_number(whole.get(key)), figures.percent) for key in ("precision", "recall"))])
    heads = ("Labels", "Wrong", *(f"AUC, {_title(score)}" for score in scores), "Precision, all filters")
    return Table(f"Per domain, {name(limit)}", columns("Domain", *heads, "Recall, all filters"), rows)


BOUNDS = (("value", "auc"), ("low", "low"), ("high", "high"))


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def chart(curves: Rows, scores: Sequence[str]) -> Chart | None:
    """Hours kept against the WER of what is kept, for each score's threshold; the combination as a point."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in curves:
        if row["domain"] == ALL and row["label_wer"] and row["score"] in (*scores, WHOLE):
            points.setdefault(row["score"], []).append((float(row["kept_hours"]), 100 * float(row["label_wer"])))
    lines = [score for score in scores if score in points]
    if not lines:
        return None
    everything = max((point for score in lines for point in points[score]), key=lambda point: point[0])

    def paint(axes: Any) -> None:
        for number, score in enumerate(lines):
            hours, wer = zip(*points[score], strict=True)
            axes.plot(hours, wer, label=_title(score), color=SERIES[number], linestyle=DASHES[number], lw=1.8)
        axes.axhline(everything[1], color=INK, lw=0.8, linestyle=":", label="a random subset, on average")
        if WHOLE in points:
            axes.plot(*points[WHOLE][0], "o", color=INK, label="all filters together")
        axes.set_xlabel("hours kept")
        axes.set_ylabel("label WER, %")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, handlelength=3, fontsize=8, loc="lower right")

    title = "Hours kept against the WER of what is kept"
    return Chart(title, canvas(title, paint), _in_words(points, lines, everything))


def _in_words(points: Mapping[str, list[tuple[float, float]]], lines: Sequence[str], all_: tuple[float, float]) -> str:
    said = [f"All labels with a transcript: {figures.hours(all_[0])} h at {figures.percent(all_[1] / 100)}"]
    if WHOLE in points:
        hours, wer = points[WHOLE][0]
        said.append(f"all filters together keep {figures.hours(hours)} h at {figures.percent(wer / 100)}")
    for score in lines:
        hours, wer = min(points[score], key=lambda point: abs(point[0] - all_[0] / 2))
        said.append(f"{_title(score)} alone {figures.hours(hours)} h at {figures.percent(wer / 100)}")
    return "; ".join(said) + "."
