"""`jsonl`: a JSON-lines manifest as NeMo writes it.

    - {name: calls, kind: jsonl, split: train, path: calls/manifest.jsonl, language: en}

A line of it; an `offset` (even 0.0) means a cut, without one the item is the whole file:
    {"audio_filepath": "audio/0001.wav", "offset": 12.5, "duration": 3.2, "text": "good morning"}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillsmall.audio import AudioError
from stillsmall.sources.base import Clip, Place, Plan, PreparationError, recording_name, within
from stillsmall.sources.tables import Columns, Table, read_jsonl


class JsonLines(Table):
    path: str
    audio_root: str | None = None  # the folder of the audio; without it, the manifest's own
    id_column: str | None = None

    def plan(self, place: Place) -> Plan:
        manifest = place.root / self.path
        if not manifest.is_file():
            raise PreparationError(f"{place.where}.path: {manifest}: no such file (relative paths start at data.root)")
        folder = manifest.parent if self.audio_root is None else place.root / self.audio_root
        rows = list(read_jsonl(manifest))
        columns = self.columns(dict.fromkeys(name for row in rows for name in row), place)
        clips = [
            self._clip(row, number, columns, folder, place) for number, row in enumerate(rows, start=1)
        ]  # fmt: skip
        return self.planned(clips, place)

    def _clip(self, row: dict[str, Any], number: int, columns: Columns, folder: Path, place: Place) -> Clip:
        name = row.get("audio_filepath")
        if not isinstance(name, str) or not name:
            raise PreparationError(f"{place.root / self.path}: line {number}: no audio_filepath; has: {', '.join(row)}")
        audio = within(folder, name)
        short = audio.relative_to(folder).as_posix() if isinstance(audio, Path) else name
        offset, duration = _seconds(row, "offset"), _seconds(row, "duration")
        item = short if offset is None or isinstance(offset, AudioError) else f"{short}@{offset:.3f}"
        if self.id_column is not None:
            if row.get(self.id_column) in (None, ""):
                raise PreparationError(f"{place.where}.id_column: line {number} has no '{self.id_column}'")
            item = str(row[self.id_column])
        fault = next((part for part in (audio, offset, duration) if isinstance(part, AudioError)), None)
        return Clip(
            item=item,
            audio=fault or audio,
            recording=recording_name(folder / name, place.root),
            offset_s=offset if isinstance(offset, float) else 0.0,
            duration_s=duration if isinstance(duration, float) else None,
            cut=isinstance(offset, float),
            **self.facts(row, columns, item, place),
        )


def _seconds(row: dict[str, Any], column: str) -> float | AudioError | None:
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        return AudioError("misdeclared_duration", f"{column} is {value!r}; expected seconds, zero or more")
    return float(value)
