"""Sections on what went in: what prepare took and refused, what the filter kept and rejected, how training went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stillsmall.reporting import figures
from stillsmall.reporting.curves import charts
from stillsmall.reporting.parts import Cell, Section, Table, cell, columns

Json = dict[str, Any]
AMOUNTS = (
    ("hours", "Hours", figures.hours),
    ("utterances", "Utterances", figures.count),
    ("transcribed", "With transcript", figures.count),
    ("speakers", "Speakers", figures.count),
)
LIMITS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # of the agreement: steps to read a threshold from


def data(prepared: Json | None) -> Section:
    """Hours, utterances and speakers per split, data set and domain; what was quarantined, and why."""
    if not prepared:
        return Section("data", "Data", ["There is no record of what prepare took in."])
    sources = prepared.get("sources", {})
    splits = [((name,), part) for name, part in prepared.get("splits", {}).items() if part.get("utterances")]
    sets = [((name, str(part.get("split", figures.ABSENT))), part) for name, part in sources.items()]
    domains = [((n, split), part) for n, by in prepared.get("domains", {}).items() for split, part in by.items()]
    tables = [
        _amounts("Splits", ("Split",), splits),
        _amounts("Data sets", ("Data set", "Split"), sets),
        _amounts("Domains", ("Domain", "Split"), domains),
        _quarantine(sources),
    ]
    sentences = []
    if (refused := prepared.get("quarantine")) is not None:
        total, items = sum(refused.values()), sum(part.get("items", 0) for part in sources.values())
        of = f" of {figures.count(items)}" if items else ""
        said = f"{figures.count(total)}{of} items went to quarantine." if total else "Nothing went to quarantine."
        sentences.append(said)
    return Section("data", "Data", sentences, tables=[table for table in tables if table.rows])


def _amounts(caption: str, names: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], Json]]) -> Table:
    have = [(key, label, show) for key, label, show in AMOUNTS if any(key in part for _, part in rows)]
    made = [
        [*(Cell(name, name) for name in labels), *(cell(part.get(key), show) for key, _, show in have)]
        for labels, part in sorted(rows, key=lambda row: row[0])
    ]
    return Table(caption, columns(*names, *(label for _, label, _ in have), words=names), made)


def _quarantine(sources: Json) -> Table:
    rows = [
        [Cell(name, name), Cell(reason.replace("_", " "), reason), cell(n)]
        for name, part in sorted(sources.items())
        for reason, n in sorted(part.get("quarantine", {}).items())
    ]
    return Table("Quarantined items", columns("Data set", "Reason", "Items", words=("Reason",)), rows)


def labels(filtered: Json, scores: Sequence[Json]) -> Section:
    """What the filter kept and rejected, per rule and per domain, with the labels' WER where transcripts exist."""
    kept, rejected = filtered["kept"], filtered["rejected"]
    total = kept["labels"] + rejected["labels"]
    if rejected["labels"]:
        sentence = (
            f"Of {figures.plural(total, 'label')}, {figures.count(kept['labels'])} were kept "
            f"({figures.hours(kept['hours'])} h) and {figures.count(rejected['labels'])} rejected "
            f"({figures.hours(rejected['hours'])} h). A label may be rejected for several reasons."
        )
    else:
        sentence = (
            f"{figures.plural(total, 'label')}, {figures.hours(kept['hours'])} h: all were kept, none was rejected."
        )
    tables = [_reasons(filtered), _domains(filtered), thresholds(scores)]
    notes = []
    if not any("label_wer" in part for part in (kept, rejected)):
        notes.append("No label has a transcript to be compared with, so the labels' error rate is not known.")
    return Section("labels", "Labels: kept and rejected", [sentence], tables=[t for t in tables if t.rows], notes=notes)


def _reasons(filtered: Json) -> Table:
    total = filtered["kept"]["labels"] + filtered["rejected"]["labels"]

    def row(name: str, part: Json) -> list[Cell]:
        share = cell(part["labels"] / total if total else None, figures.percent, 1.0)
        cells = [Cell(name, name), cell(part["labels"]), share, cell(part["hours"], figures.hours)]
        return [*cells, cell(part.get("label_wer"), figures.percent)]

    rows = [row(name.replace("_", " "), part) for name, part in sorted(filtered.get("reasons", {}).items())]
    foot = [row(f"{name} in all", filtered[name]) for name in ("rejected", "kept")]
    heads = columns("Rejected by", "Labels", "Share of all labels", "Hours", "Label WER")
    return Table("Rejected labels per rule", heads, rows, foot)


def _domains(filtered: Json) -> Table:
    rows = []
    for name, part in sorted(filtered.get("domains", {}).items()):
        kept, rejected = part["kept"], part["rejected"]
        total = kept["labels"] + rejected["labels"]
        cells = [Cell(name, name), cell(kept["labels"]), cell(rejected["labels"])]
        cells.append(cell(rejected["labels"] / total if total else None, figures.percent, 1.0))
        cells += [cell(side["hours"], figures.hours) for side in (kept, rejected)]
        rows.append([*cells, *(cell(side.get("label_wer"), figures.percent) for side in (kept, rejected))])
    heads = ("Domain", "Kept", "Rejected", "Rejected, share", "Hours kept", "Hours rejected")
    return Table("Labels per domain", columns(*heads, "WER of kept", "WER of rejected"), rows)


def thresholds(scores: Sequence[Json]) -> Table:
    """What the agreement with the validator alone would keep, at several limits."""
    known = [row for row in scores if row.get("agreement_mer") is not None]
    rows = []
    for step in LIMITS if known else ():
        kept = [row for row in known if row["agreement_mer"] <= step]
        judged = [row for row in kept if row["reference"] is not None]
        wrong, words = (sum(row[name] for row in judged) for name in ("ref_wer_errors", "ref_words"))
        cells = [cell(step, figures.percent), cell(len(kept))]
        cells.append(cell(len(kept) / len(scores), figures.percent, 1.0))
        cells.append(cell(sum(row["duration_s"] for row in kept) / 3600, figures.hours))
        rows.append([*cells, cell(wrong / words if words else None, figures.percent)])
    heads = columns("MER at most", "Labels kept", "Share of all labels", "Hours kept", "Label WER")
    return Table("If agreement with the validator were the only rule", heads, rows)


def training(distilled: Json | None, log: dict[str, list[float | None]]) -> Section:
    """Steps, examples, what was skipped; the curves."""
    sentences = []
    if distilled:
        labels, windows = distilled["labels"], distilled["examples"]
        packed = f" in {figures.plural(windows, 'window')}" if windows < labels else ""
        seen = f"{figures.plural(labels, 'label')}{packed} ({figures.number(distilled['epochs'])} epochs)"
        size = f"a student of {figures.millions(distilled['parameters'])} parameters"
        sentences.append(f"{figures.plural(distilled['steps'], 'step')} over {seen} trained {size}.")
        reasons = sorted(distilled.get("skipped", {}).items())
        skipped = ", ".join(f"{reason.replace('_', ' ')} {n}" for reason, n in reasons)
        sentences.append(f"Labels that did not fit the model: {skipped}." if skipped else "No label was skipped.")
        bad = distilled.get("steps_skipped", {}).get("bad", 0)
        if bad:
            sentences.append(f"{figures.plural(bad, 'step')} without a finite loss and gradient: skipped.")
        if "dev" in distilled:
            best, clips = distilled["dev"]["best"], figures.plural(distilled["dev"]["clips"], "clip")
            wer = figures.percent(best["wer"])
            sentences.append(f"Lowest word error rate on {clips} not trained on: {wer}, at step {best['step']}.")
    drawn = charts(log)
    if not drawn:
        sentences.append("There is no training log to draw.")
    return Section("training", "Training", sentences, charts=drawn)
