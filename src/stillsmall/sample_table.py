"""What an objective says of samples (difficulty, weight), kept so that a kill neither loses nor doubles a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from stillsmall import cache

MARK = "to-"


class SampleTable:
    """Rows in memory up to the next checkpoint, then a file beside it; together they are the table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, object]] = []

    def add(self, step: int, sample_ids: Sequence[str], columns: Mapping[str, Tensor]) -> None:
        """A row per sample: its id, the step (from 1) that it was in, and the (B,) columns."""
        if not columns:
            return
        values = {name: [_known(x) for x in value.float().tolist()] for name, value in columns.items()}
        self.rows += [
            {"utt_id": sample, "step": step + 1, **{name: column[i] for name, column in values.items()}}
            for i, sample in enumerate(sample_ids)
        ]

    def drop(self, step: int) -> None:
        """Forgets the rows of a step (from 0) that was not taken."""
        self.rows = [row for row in self.rows if row["step"] != step + 1]

    def flush(self, step: int) -> None:
        """Puts the rows up to `step` on disk; the checkpoint of this step follows."""
        if self.rows:
            _write(pa.Table.from_pylist(self.rows), self.folder / f"{MARK}{step:09d}.parquet")
            self.rows = []

    def forget_after(self, step: int) -> None:
        """Drops what was written for a checkpoint that never stood: those steps are trained again."""
        self.rows = []
        for path in self.folder.glob(f"{MARK}*.parquet"):
            if int(path.stem.removeprefix(MARK)) > step:
                path.unlink()

    def write(self, path: Path) -> None:
        """The whole table; without a row where the objective says nothing of samples."""
        parts = [pq.read_table(part) for part in sorted(self.folder.glob(f"{MARK}*.parquet"))]
        empty = pa.schema([("utt_id", pa.string()), ("step", pa.int64())]).empty_table()
        _write(pa.concat_tables(parts, promote_options="default") if parts else empty, path)


def _known(value: float) -> float | None:
    """Null where it is not a finite number."""
    return value if math.isfinite(value) else None


def _write(table: pa.Table, path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    cache.write_bytes(path, sink.getvalue().to_pybytes())
