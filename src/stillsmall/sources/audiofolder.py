"""`audiofolder`: audio beside a `metadata.csv` or `metadata.jsonl`, the Hugging Face convention; or without either.

    - {name: l2en-train, kind: audiofolder, split: train, path: l2en/train, transcripts: drop}

A row of l2en/train/metadata.csv:
    {"file_name": "0003/000030012.flac", "text": "mark is going to see elephant", "speaker": "0003", "language": "en"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillsmall.sources.base import Clip, Place, Plan, PreparationError, audio_files, files, recording_name, within
from stillsmall.sources.tables import Table, log, read_csv, read_jsonl

METADATA = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"


class AudioFolder(Table):
    path: str

    def plan(self, place: Place) -> Plan:
        folder = self.folder(self.path, place)
        tables = [folder / path for name in METADATA for path in files(folder, f"**/{name}")]
        rows = [row for table in tables for row in _rows(table, folder)]
        if not tables:
            rows = [{FILE_NAME: name} for name in audio_files(folder)]
            columns = self.columns([], place)
        else:
            columns = self.columns(dict.fromkeys(name for row in rows for name in row), place)
            unlisted = set(audio_files(folder)) - {row[FILE_NAME] for row in rows}
            if unlisted:
                log.warning(
                    "%s: %d audio file(s) in no metadata are left out, such as %s",
                    place.where, len(unlisted), min(unlisted),
                )  # fmt: skip
        clips = []
        for row in rows:
            item = row[FILE_NAME]
            facts = self.facts(row, columns, item, place)
            clips.append(
                Clip(
                    item=item,
                    audio=within(folder, item),
                    recording=recording_name(folder / item, place.root),
                    **facts,
                )
            )
        return self.planned(clips, place)


def _rows(table: Path, folder: Path) -> list[dict[str, Any]]:
    """Rows of one metadata file; file names start at the folder that it lies in, here at the source's."""
    rows: list[dict[str, Any]] = read_csv(table)[1] if table.suffix == ".csv" else list(read_jsonl(table))
    below = table.parent.relative_to(folder).as_posix()
    out = []
    for number, row in enumerate(rows, start=1):
        if not row.get(FILE_NAME):
            raise PreparationError(f"{table}: row {number}: no {FILE_NAME}; columns: {', '.join(map(str, row))}")
        name = str(row[FILE_NAME])
        out.append({**row, FILE_NAME: name if below == "." else f"{below}/{name}"})
    return out
