"""Sections on what came out: the headline, rates per data set and domain, all measures, speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stillsmall.reporting import figures
from stillsmall.reporting.parts import Cell, Section, Table, cell, columns
from stillsmall.stats import FEWEST_CLUSTERS, LEVEL

Json = dict[str, Any]
NO_INTERVAL = "No interval: the test set has {n}, and an interval from fewer than {fewest} would mislead."
MEASURES = (
    ("Word error rate, normalised", "wer", "normalised"),
    ("Word error rate, as written", "wer", "orthographic"),
    ("Character error rate, normalised", "cer", "normalised"),
    ("Character error rate, as written", "cer", "orthographic"),
    ("Mixed error rate, normalised", "mer", "normalised"),
)


@dataclass(frozen=True)
class Figure:
    """A figure of the headline: what it is, the figure itself, and what stands beneath it; `kept` is not broken."""

    label: str
    value: str
    note: str
    kept: str = ""


def headline(evaluation: Json, speed: Json | None) -> list[Figure]:
    """Teacher, student, their difference; and, where speed was measured, how fast and how small."""
    found = [
        Figure(f"{name.capitalize()}, WER", figures.percent(part["wer"]["normalised"]), *_bounds(part["interval"]))
        for name, part in ((name, evaluation[name]) for name in ("teacher", "student"))
    ]
    gap = evaluation["difference"]["interval"]
    found.append(Figure("Student − teacher", figures.points(gap["value"]), *_bounds(gap)))
    if speed:
        low, high = speed["speed_up_range"]
        rounds = figures.plural(speed["rounds"], "round")
        found.append(Figure("Speed-up", figures.times(speed["speed_up"]), f"{low:.2f} to {high:.2f} over {rounds}"))
        student, teacher = speed["student"], speed["teacher"]
        share = f"{figures.percent(_ratio(student, teacher))} of the teacher's"
        note = f"{figures.millions(student['parameters'])} parameters; {share}"
        found.append(Figure("Student's size", figures.megabytes(student["bytes"]), note))
    return found


def _bounds(interval: Json) -> tuple[str, str]:
    found = figures.bounds(interval)
    return (f"{100 * LEVEL:.0f} % interval", found) if found else ("no interval", "")


def _ratio(student: Json, teacher: Json) -> float:
    return float(student["bytes"] / teacher["bytes"])


def verdict(evaluation: Json, speed: Json | None) -> list[str]:
    """The headline in sentences, with what the intervals allow to be said."""
    gap = evaluation["difference"]["interval"]
    teacher, student = (figures.rate_with_bounds(evaluation[name]["interval"]) for name in ("teacher", "student"))
    heard = figures.plural(evaluation["utterances"]["with_speech"], "test utterance")
    said = [f"Word error rate on {heard}: teacher {teacher}, student {student}."]
    said.append(f"The difference is {figures.points_with_bounds(gap)}. {_meaning(gap)}")
    if speed:
        faster = figures.times(speed["speed_up"])
        smaller = figures.percent(_ratio(speed["student"], speed["teacher"]))
        said.append(f"The student is {faster} as fast as the teacher and {smaller} of its size.")
    return said


def _meaning(gap: Json) -> str:
    if gap.get("low") is None or gap.get("high") is None:
        had = figures.plural(gap["clusters"], "speaker or recording", "speakers or recordings")
        return NO_INTERVAL.format(n=had, fewest=FEWEST_CLUSTERS)
    if gap["low"] <= 0 <= gap["high"]:
        return "The interval holds zero: on this test set the two cannot be told apart."
    more = "more" if gap["low"] > 0 else "fewer"
    return f"The interval does not hold zero: the student makes {more} errors than the teacher."


def slices(evaluation: Json) -> Section:
    """Teacher, student and difference per domain and per data set."""
    tables = [
        _slice_table(evaluation, "domains", "Domain", "Word error rate per domain"),
        _slice_table(evaluation, "sources", "Data set", "Word error rate per data set"),
    ]
    notes = [
        "Rates are summed errors over summed words of normalised text; a positive difference: the student is worse."
    ]
    return Section("results", "Results by domain and data set", tables=tables, notes=notes)


def _slice_table(evaluation: Json, by: str, name: str, caption: str) -> Table:
    teacher, student = evaluation["teacher"].get(by, {}), evaluation["student"].get(by, {})
    rates = [part["wer"] for part in (*teacher.values(), *student.values()) if part["wer"] is not None]
    scale = max(rates, default=0.0)

    def row(label: str, a: Json, b: Json, top: float | None) -> list[Cell]:
        gap = None if a["wer"] is None or b["wer"] is None else b["wer"] - a["wer"]
        cells = [Cell(label, label), *(cell(part["wer"], figures.percent, top) for part in (a, b))]
        cells += [cell(gap, figures.points), cell(a["utterances"]), cell(a["words"])]
        return [*cells, *(cell(part.get("mer"), figures.percent) for part in (a, b))]

    rows = [row(label, teacher[label], student[label], scale) for label in sorted(teacher) if label in student]
    whole = {
        who: {"wer": evaluation[who]["wer"]["normalised"], "mer": evaluation[who].get("mer", {}).get("normalised")}
        | {"utterances": evaluation["utterances"]["with_speech"], "words": sum(p["words"] for p in teacher.values())}
        for who in ("teacher", "student")
    }
    labels = (name, "Teacher WER", "Student WER", "Difference", "Utterances", "Words", "Teacher MER", "Student MER")
    return Table(caption, columns(*labels), rows, [row("All", whole["teacher"], whole["student"], None)])


def measures(evaluation: Json) -> Section:
    """Every measure of both systems, what kinds of errors they make, and what they say where nothing was said."""
    rows = []
    for label, measure, form in MEASURES:
        pair = [evaluation[name].get(measure, {}).get(form) for name in ("teacher", "student")]
        if any(value is not None for value in pair):
            gap = None if None in pair else pair[1] - pair[0]
            rows.append([Cell(label, label), *(cell(v, figures.percent) for v in pair), cell(gap, figures.points)])
    tables = [Table("Error rates", columns("Measure", "Teacher", "Student", "Difference"), rows, sortable=False)]
    kinds = ("hits", "substitutions", "deletions", "insertions")
    counts = {name: evaluation[name].get("counts", {}) for name in ("teacher", "student")}
    errors = [[Cell(kind, kind), *(cell(counts[n].get(kind)) for n in counts)] for kind in kinds]
    tables.append(Table("Words by kind of error", columns("Words", "Teacher", "Student"), errors, sortable=False))
    notes = ["A mixed error rate counts Chinese characters and words of other scripts."]
    if evaluation["utterances"].get("without_speech"):
        tables.append(_silence(evaluation))
        notes.append("Utterances with an empty transcript are part of no rate; words heard there are hallucinations.")
    return Section("measures", "All measures", tables=tables, notes=notes)


def _silence(evaluation: Json) -> Table:
    said = {name: evaluation[name].get("without_speech", {}) for name in ("teacher", "student")}
    keys = {"utterances": "Utterances", "with_output": "… in which words were heard", "words": "Words heard there"}
    rows = [[Cell(label, label), *(cell(said[n].get(key)) for n in said)] for key, label in keys.items()]
    return Table("Output where nothing was said", columns("Counted", "Teacher", "Student"), rows, sortable=False)


def speed(found: Json | None) -> Section:
    """How fast each system is, and on what; the host stands beside the figure."""
    if not found:
        return Section("speed", "Speed and size", ["No speed was measured."])
    rows = []
    for label, key, show in (
        ("Times real time", "times_real_time", figures.times),
        ("Real-time factor", "real_time_factor", figures.number),
        ("Parameters", "parameters", figures.millions),
        ("Weights in memory", "bytes", figures.megabytes),
    ):
        rows.append([Cell(label, label), *(cell(found[name].get(key), show) for name in ("teacher", "student"))])
    seconds = [" ".join(f"{t:.2f}" for t in found[name].get("seconds", [])) for name in ("teacher", "student")]
    rows.append([Cell("Seconds per round", ""), *(Cell(text or figures.ABSENT, text) for text in seconds)])
    low, high = found["speed_up_range"]
    faster, rounds = figures.times(found["speed_up"]), figures.plural(found["rounds"], "round")
    clips = f"{figures.plural(found['clips'], 'clip')} ({figures.seconds(found['audio_s'])} of speech)"
    at_once = figures.plural(found["batch_size"], "clip")
    sentences = [
        f"The student is {faster} as fast as the teacher ({low:.2f} to {high:.2f} over {rounds}).",
        f"Timings were taken at {figures.moment(found['measured_at'])}, on {host(found.get('host', {}))}.",
        f"Both transcribed the same {clips} in turns, {at_once} at a time; figures are medians.",
    ]
    table = Table("Teacher and student", columns("Figure", "Teacher", "Student"), rows, sortable=False)
    return Section("speed", "Speed and size", sentences, tables=[table])


def host(found: Json) -> str:
    """The machine in words."""
    parts = [f"{found['machine']}" if found.get("machine") else "an unnamed machine"]
    parts += [figures.plural(found["cores"], "core")] if found.get("cores") else []
    parts += [f"{figures.plural(found['threads'], 'thread')} used"] if found.get("threads") else []
    parts.append(f"GPU {found['gpu']}" if found.get("gpu") else "no GPU")
    parts += [f"at most {found['peak_mb']:,} MB of memory in use"] if found.get("peak_mb") else []
    return ", ".join(parts)
