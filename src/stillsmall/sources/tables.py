"""Sources whose transcripts come in a table: which column is what, and rows from CSV and JSON lines."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from stillsmall.plugins import nearest
from stillsmall.sources.base import Place, PreparationError, Source, language

TEXT = ("text", "transcription")  # the names of the Hugging Face convention
SPEAKER = ("speaker", "speaker_id")
FIELD_CHARS = 1 << 24  # csv's own limit, 131,072, is less than the transcript of a long recording
log = logging.getLogger("stillsmall.prepare")


@dataclass(frozen=True)
class Columns:
    text: str | None
    speaker: str | None
    domain: str | None
    language: str | None


class Facts(TypedDict):
    text: str | None
    speaker: str | None
    domain: str
    language: str
    may_be_silent: bool


class Table(Source):
    """A source with columns. A column that is named must exist; the others are used where they do."""

    text_column: str | None = None
    speaker_column: str | None = None
    domain_column: str | None = None
    language_column: str | None = None
    empty_text: Literal["missing", "nothing_said"] = "missing"

    def columns(self, have: Iterable[str], place: Place) -> Columns:
        """Which of the columns at hand is what. Raises PreparationError for a named one that is not there."""
        names = list(have)

        def pick(field: str, usual: tuple[str, ...]) -> str | None:
            named = getattr(self, field)
            if named is not None and named not in names:
                raise PreparationError(f"{place.where}.{field}: no column '{named}'; {nearest(named, names)}")
            return named or next((name for name in usual if name in names), None)

        found = Columns(
            text=pick("text_column", TEXT),
            speaker=pick("speaker_column", SPEAKER),
            domain=pick("domain_column", () if self.domain else ("domain",)),
            language=pick("language_column", () if self.language else ("language",)),
        )
        if found.language is None:
            self.need_language(place)
        if found.text is None and names and self.transcripts == "keep":
            log.warning("%s: no text column, so no transcripts; columns: %s", place.where, ", ".join(names))
        return found

    def need_language(self, place: Place) -> str:
        if self.language is None:
            raise PreparationError(
                f"{place.where}.language: missing; give a code such as en, or language_column; und if nobody knows"
            )
        return self.language

    def facts(self, row: Mapping[str, Any], columns: Columns, item: str, place: Place) -> Facts:
        """What the table says of an item; an empty cell says nothing, unless `empty_text: nothing_said`."""

        def cell(column: str | None) -> str:
            value = row.get(column) if column else None
            return "" if value is None else str(value).strip()

        code = cell(columns.language) or self.need_language(place)
        try:
            language(code)
        except ValueError as error:
            raise PreparationError(f"{place.where}: '{item}': {error}") from None
        text: str | None = cell(columns.text)
        if not text and (self.empty_text == "missing" or row.get(columns.text or "") is None):
            text = None
        return Facts(
            text=self.reference(text),
            speaker=cell(columns.speaker) or None,
            domain=cell(columns.domain) or self.domain or self.name,
            language=code,
            may_be_silent=text == "",
        )


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows. Raises PreparationError with the line where it is not a table."""
    csv.field_size_limit(FIELD_CHARS)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            rows = []
            for row in reader:
                if "" in row:
                    raise PreparationError(f"{path}: line {reader.line_num}: more cells than the header has columns")
                rows.append(row)
            return list(reader.fieldnames or []), rows
    except (csv.Error, UnicodeDecodeError) as error:
        raise PreparationError(f"{path}: not readable as CSV in UTF-8: {error}") from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """One object a line. Raises PreparationError with the line that is none."""
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise PreparationError(f"{path}: line {number}: expected an object, got {line.strip()[:80]}")
                    yield row
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise PreparationError(f"{path}: line {number}: not JSON: {error}") from error
