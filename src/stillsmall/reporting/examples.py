"""Rejected labels and test utterances to listen to: which ones, with their texts marked and their audio."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from stillsmall import cache
from stillsmall.reporting import clips, figures, words
from stillsmall.reporting.clips import Room, Stretch

TEST_EXAMPLES = 12
RATES = frozenset({"agreement", "reference_wer"})  # rules whose value is a rate
UNITS = {"confidence": "nats per token", "compression": "×"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Reason:
    rule: str
    text: str
    value: str


@dataclass(frozen=True)
class Example:
    """One card of the page."""

    utt_id: str
    domain: str
    source: str
    language: str
    duration: str
    lines: list[words.Line]
    reasons: list[Reason] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    audio: str | None = None  # a data URI

    @property
    def rules(self) -> str:
        """The names of the rules as JSON, for the page's filter."""
        return json.dumps([reason.rule for reason in self.reasons])


def spread(rows: list[Row], most: int) -> list[Row]:
    """Up to `most` rows in turn over rules, then over domains within a rule; which row of a group is a fair draw.

    The draw is by the digest of the id: the same rows give the same examples, and no kind of row is preferred.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (cache.digest(row["utt_id"]), row["utt_id"])):
        for rule in sorted({verdict["rule"] for verdict in row["verdicts"]}):
            groups.setdefault((rule, row["domain"]), []).append(row)
    per_rule, per_domain, pairs = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    chosen: dict[str, Row] = {}
    while groups and len(chosen) < most:
        pair = min(groups, key=lambda p: (per_rule[p[0]], pairs[p], per_domain[p[1]], p))
        row = groups[pair].pop(0)
        if not groups[pair]:
            del groups[pair]
        if row["utt_id"] in chosen:
            continue
        chosen[row["utt_id"]] = row
        per_domain[row["domain"]] += 1
        for rule in {verdict["rule"] for verdict in row["verdicts"]}:
            per_rule[rule] += 1
            pairs[(rule, row["domain"])] += 1
    return list(chosen.values())


def rejected(table: pa.Table, split: Path, most: int, room: Room) -> list[Example]:
    """Examples of rejected labels (`manifest.REJECTED`), with audio as long as there is room."""
    light = table.select(["utt_id", "domain", "verdicts"]).to_pylist()  # whole rows of the chosen only: there are many
    chosen = spread([{**row, "place": place} for place, row in enumerate(light)], most)
    rows = table.take(pa.array([row["place"] for row in chosen], pa.int64())).to_pylist()
    return _with_audio(rows, split, room, _stretch_of_label, _rejected)


def _stretch_of_label(row: Row) -> Stretch:
    whole = row["utt_id"] == row["parent"]
    return Stretch(row["parent"]) if whole else Stretch(row["parent"], row["start_s"], row["end_s"])


def _with_audio(
    chosen: list[Row],
    split: Path,
    room: Room,
    stretch: Callable[[Row], Stretch],
    make: Callable[[Row, str | None], Example],
) -> list[Example]:
    sound = clips.fetch(split, [stretch(row) for row in chosen] if room.megabytes else [])
    found = []
    for row in chosen:
        flac = sound.get(stretch(row))
        found.append(make(row, room.admit(flac) if flac is not None else None))
    return found


def _rejected(row: Row, sound: str | None) -> Example:
    teacher, validator = row["teacher_text"], row["validator_text"]
    if row["reference"] is not None:
        heard = [("Teacher", teacher)] + ([("Validator", validator)] if validator is not None else [])
        lines = words.lines(("Reference", row["reference"]), heard, row["language"])
        if validator is not None:  # the difference that the agreement counted
            _, apart = words.lines(("", validator), [("Teacher, against the validator", teacher)], row["language"])
            lines.append(apart)
    elif validator is not None:
        lines = words.lines(("Validator", validator), [("Teacher", teacher)], row["language"])
    else:
        lines = words.lines(("Teacher", teacher), [], row["language"])
    facts = []
    if row["reference"] is not None:
        rate = row["ref_wer"]
        facts.append(("Label WER", "nothing was said" if rate is None else figures.percent(rate)))
    if row["agreement_mer"] is not None:
        facts.append(("MER to validator", figures.percent(row["agreement_mer"])))
    if row["mean_logprob"] is not None:
        facts.append(("Log-probability", f"{figures.number(row['mean_logprob'])} nats per token"))
    reasons = [Reason(v["rule"], v["reason"], value_of(v["rule"], v["value"])) for v in row["verdicts"]]
    return Example(
        row["utt_id"], row["domain"], row["source"], row["language"], figures.seconds(row["duration_s"]),
        lines, reasons, facts, sound,
    )  # fmt: skip


def value_of(rule: str, value: str) -> str:
    """A verdict's value (JSON) as people read it; rates in percent. Empty where there is none."""
    found = json.loads(value)
    if found is None or found is True:  # the reason says it all
        return ""
    if rule in RATES and isinstance(found, (int, float)):
        return figures.percent(found)
    return " ".join(part for part in (figures.number(found), UNITS.get(rule)) if part)


def errors(row: Row, system: str) -> int:
    """Word errors of an evaluated utterance (normalised)."""
    return sum(row[f"{system}_wer_normalised_{kind}"] for kind in ("substitutions", "deletions", "insertions"))


def differing(rows: list[Row], most: int = TEST_EXAMPLES) -> list[Row]:
    """Test utterances by how far teacher and student are apart in word errors, the furthest first; no equals."""
    apart = [row for row in rows if errors(row, "student") != errors(row, "teacher")]
    return sorted(apart, key=lambda row: (-_distance(row), cache.digest(row["utt_id"]), row["utt_id"]))[:most]


def _distance(row: Row) -> int:
    return abs(errors(row, "student") - errors(row, "teacher"))


def tested(rows: list[Row], split: Path, room: Room) -> list[Example]:
    """Test utterances where the systems differ most, with audio if there is room left."""
    return _with_audio(differing(rows), split, room, lambda row: Stretch(row["utt_id"]), _tested)


def _tested(row: Row, sound: str | None) -> Example:
    heard = [("Teacher", row["teacher"]), ("Student", row["student"])]
    counted = [(name, figures.plural(errors(row, name.lower()), "word error")) for name, _ in heard]
    return Example(
        row["utt_id"], row["domain"], row["source"], row["language"], figures.seconds(row["duration_s"]),
        words.lines(("Reference", row["reference"]), heard, row["language"]), [], counted, sound,
    )  # fmt: skip
