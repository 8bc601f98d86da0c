"""`dataset`: a Hugging Face dataset: a hub id, a folder written by `save_to_disk`, or a folder of Parquet files.

    - {name: cv-sv, kind: dataset, split: train, path: mozilla-foundation/common_voice_17_0, config: sv-SE,
       dataset_split: validation, text_column: sentence, speaker_column: client_id, language: sv, streaming: true}

The library's own decoder needs torchcodec and FFmpeg's libraries; here the column gives bytes, and audio.py decodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from stillsmall.audio import AudioError
from stillsmall.plugins import nearest
from stillsmall.sources.base import Clip, Place, Plan, PreparationError, batched, marked_duplicates, rank, sample
from stillsmall.sources.tables import Columns, Table

DIGITS = 8  # of a row's number, so that names sort as rows do


class Dataset(Table):
    path: str
    config: str | None = None
    dataset_split: str | None = None  # without it: the one named as `split` is
    revision: str | None = None
    streaming: bool = False
    audio_column: str = "audio"
    id_column: str | None = None

    def plan(self, place: Place) -> Plan:
        rows = self._open(place)
        have = list(rows.column_names or [])
        for field in ("audio_column", "id_column"):
            name = getattr(self, field)
            if name is not None and name not in have:
                raise PreparationError(f"{place.where}.{field}: no column '{name}'; {nearest(name, have)}")
        columns = self.columns([name for name in have if name != self.audio_column], place)
        rows = _undecoded(rows, self.audio_column)
        if self.streaming:
            return Plan(batched(self._streamed(rows, columns, place), place.batch), None)
        ids = [_name(number) for number in range(len(rows))]
        if self.id_column is not None:
            ids = [str(value) for value in rows[self.id_column]]
        if not ids:
            raise PreparationError(f"{place.where}: '{self.path}' has no rows")
        chosen = _sampled(self, ids)
        clips = (self._clip(rows[number], ids[number], columns, place) for number in chosen)
        return Plan(batched(marked_duplicates(clips), place.batch), len(chosen))

    def _open(self, place: Place) -> Any:
        import datasets

        folder = place.root / self.path
        split = self.dataset_split or self.split
        try:
            if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
                return self._saved(datasets.load_from_disk(str(folder)), split, place)
            if not folder.is_dir() and self.path.startswith(("/", ".")):
                raise PreparationError(f"{place.where}.path: {folder}: no such folder")
            name = str(folder) if folder.is_dir() else self.path
            rows = datasets.load_dataset(
                name, self.config, split=split, revision=self.revision, streaming=self.streaming
            )
            return rows._resolve_features() if self.streaming else rows
        except (OSError, ValueError, ConnectionError) as error:
            if isinstance(error, PreparationError):
                raise
            raise PreparationError(f"{place.where}: cannot open '{self.path}', split '{split}': {error}") from error

    def _saved(self, saved: Any, split: str, place: Place) -> Any:
        if isinstance(saved, dict):
            if split not in saved:
                raise PreparationError(f"{place.where}.dataset_split: unknown '{split}'; {nearest(split, saved)}")
            saved = saved[split]
        elif self.dataset_split is not None:
            raise PreparationError(f"{place.where}.dataset_split: '{self.path}' is one split on its own; leave it out")
        return saved.to_iterable_dataset() if self.streaming else saved

    def _streamed(self, rows: Iterable[Mapping[str, Any]], columns: Columns, place: Place) -> Iterator[Clip]:
        """Rows as they come. `take: {count: N}` takes the first N here: a sample would have to read all of them."""
        take = self.take
        if take is not None and take.count is not None:
            rows = islice(rows, take.count)
        seen = False
        clips = (
            self._clip(row, item, columns, place)
            for item, row in self._named(rows)
            if take is None or take.share is None or rank(take, self.name, item) < take.share
        )
        for clip in marked_duplicates(clips):
            seen = True
            yield clip
        if not seen:
            raise PreparationError(f"{place.where}: the stream of '{self.path}' gave no rows")

    def _named(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for number, row in enumerate(rows):
            yield _name(number) if self.id_column is None else str(row[self.id_column]), row

    def _clip(self, row: Mapping[str, Any], item: str, columns: Columns, place: Place) -> Clip:
        held = row[self.audio_column] or {}
        audio: bytes | Path | AudioError
        if held.get("bytes") is not None:
            audio = held["bytes"]
        elif held.get("path"):
            audio = Path(held["path"])
        else:
            audio = AudioError("missing_file", f"the row has neither bytes nor a path in '{self.audio_column}'")
        parts = (self.path, self.config, self.dataset_split or self.split, item)
        recording = "/".join(part for part in parts if part)
        return Clip(item=item, audio=audio, recording=recording, **self.facts(row, columns, item, place))


def _undecoded(rows: Any, column: str) -> Any:
    from datasets import Audio

    return rows.cast_column(column, Audio(decode=False))


def _sampled(source: Dataset, ids: list[str]) -> list[int]:
    """Row numbers that `take` selects, without reading any audio."""
    if source.take is None:
        return list(range(len(ids)))
    chosen = set(sample(source.take, source.name, ids))
    return [number for number, item in enumerate(ids) if item in chosen]


def _name(number: int) -> str:
    return f"{number:0{DIGITS}d}"
