"""The tables that stages hand to each other, in Parquet: Utterance, Hypothesis, Score. Schema, read, write, validate.

An utterance of the manifest:
    {"utt_id": "l2en/train/0094/009440140.flac", "source": "l2en-train", "split": "train", "domain": "child",
     "language": "en", "speaker": "0094", "recording": "l2en/train/0094/009440140.flac", "offset_s": 0.0,
     "duration_s": 3.42, "text": "mark is going to see elephant", "shard": "shard-00003.parquet"}
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

UNDETERMINED = "und"  # ISO 639: nobody has said which language; the teacher detects it
_text, _float, _int = pa.string(), pa.float64(), pa.int32()
SEGMENT = pa.struct([("start", _float), ("end", _float), ("text", _text)])  # seconds from the start of the row's audio


def _schema(required: dict[str, pa.DataType], optional: dict[str, pa.DataType]) -> pa.Schema:
    fields = [pa.field(name, kind, nullable=False) for name, kind in required.items()]
    return pa.schema(fields + [pa.field(name, kind) for name, kind in optional.items()])


UTTERANCE = _schema(
    {"utt_id": _text, "source": _text, "split": _text, "domain": _text, "language": _text, "recording": _text}
    | {"offset_s": _float, "duration_s": _float, "shard": _text},
    {"speaker": _text, "text": _text},
)
AUDIO = _schema({"utt_id": _text, "audio": pa.large_binary()}, {})  # FLAC, 16 kHz, mono, 16 bit
LIKELIHOOD = _schema({"utt_id": _text}, {"lm_logprob": _float})
QUARANTINE = _schema({"source": _text, "item": _text, "reason": _text, "detail": _text}, {})
HYPOTHESIS = _schema(
    {"utt_id": _text, "parent": _text, "start_s": _float, "end_s": _float, "language": _text, "text": _text}
    | {"segments": pa.list_(SEGMENT), "tokens": pa.list_(_int)},
    {"token_logprob": pa.list_(pa.float32()), "token_entropy": pa.list_(pa.float32())}  # nats
    | {"mean_logprob": _float, "mean_entropy": _float, "compression_ratio": _float, "no_speech_prob": _float}
    | {"heard_language": _text, "heard_language_prob": _float},  # by the model's ear, whatever it was told
)
FAILED = _schema({"utt_id": _text, "reason": _text, "detail": _text}, {})
SCORE = _schema(
    {"utt_id": _text, "parent": _text, "source": _text, "domain": _text, "language": _text, "duration_s": _float}
    | {"start_s": _float, "end_s": _float, "teacher_text": _text, "segments": pa.list_(SEGMENT)},
    {"recording": _text, "offset_s": _float}
    | {"speaker": _text, "validator_text": _text, "reference": _text}
    | {"ref_wer": _float, "ref_wer_errors": _int, "ref_words": _int}
    | {"ref_cer": _float, "ref_cer_errors": _int, "ref_chars": _int}
    | {"agreement_mer": _float, "agreement_mer_errors": _int, "agreement_units": _int}
    | {"teacher_repeats": pa.bool_(), "validator_repeats": pa.bool_()}
    | {"mean_logprob": _float, "confidence": _float, "mean_entropy": _float, "compression_ratio": _float}
    | {"no_speech_prob": _float, "words": _int, "words_per_s": _float, "chars_per_s": _float}
    | {"ref_mer": _float, "ref_mer_errors": _int, "ref_units": _int}
    | {"agreement_per": _float, "agreement_per_errors": _int, "agreement_phonemes": _int}
    | {"agreement_composite": _float}  # K2D: max(h(teacher), min(1 - h(validator), PER))
    | {"speech_share": _float, "silence_share": _float}  # by a voice-activity model; by energy alone
    | {"heard_language": _text, "heard_language_prob": _float, "text_language": _text, "text_language_prob": _float}
    | {"language_mismatch": pa.bool_(), "lm_logprob": _float},  # nats a token, of a text language model
)
VERDICT = pa.struct([("rule", _text), ("value", _text), ("reason", _text)])
REJECTED = SCORE.append(pa.field("verdicts", pa.list_(VERDICT), nullable=False))


class TableError(ValueError):
    """A table that is not what its schema says; the message names the file, the column and the row."""


def write(path: Path, rows: Iterable[dict[str, Any]] | pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows to Parquet under `schema`, whole or not at all (temporary name, then rename). The bytes follow the rows.

    Raises TableError for a missing column or a null where the schema wants a value, naming the row.
    """
    table = rows if isinstance(rows, pa.Table) else _table(list(rows), schema, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        pq.write_table(table, partial, compression="zstd", use_dictionary=False, write_statistics=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return table


def _table(rows: list[dict[str, Any]], schema: pa.Schema, path: Path) -> pa.Table:
    for field in schema:
        if not field.nullable:
            for number, row in enumerate(rows):
                if row.get(field.name) is None:
                    raise TableError(f"{path}: row {number} ({row.get('utt_id')}): column '{field.name}' has no value")
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise TableError(f"{path}: columns that the table does not have: {', '.join(sorted(unknown))}")
    return pa.Table.from_pylist(rows, schema=schema)


def read(path: Path, schema: pa.Schema) -> pa.Table:
    """The table at `path`: one Parquet file, or a folder of shards in the order of their names.

    Raises TableError where it is missing, unreadable, or of other columns than `schema`.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not path.exists():
        raise TableError(f"{path}: no such table; has the stage that writes it run? (dvc repro)")
    tables = []
    for file in files:
        try:
            with pq.ParquetFile(file) as source:
                missing = set(schema.names) - set(source.schema_arrow.names)
                tables.append(source.read(columns=schema.names))  # of wide tables, what is asked for alone
        except (pa.ArrowInvalid, OSError) as error:
            raise TableError(f"{path}: not a readable Parquet table: {error}") from error
        if missing:
            raise TableError(f"{file}: missing column(s) {', '.join(sorted(missing))}")
    return pa.concat_tables([table.select(schema.names) for table in tables]) if tables else schema.empty_table()


def rows(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """The table at `path` as one dict a row."""
    return read(path, schema).to_pylist()


def audio(folder: Path, shards: Iterable[str] | None = None) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Per shard of a prepared split: (shard name, [(utt_id, FLAC bytes)]); one shard in memory at a time."""
    names = sorted(path.name for path in (folder / "shards").glob("*.parquet")) if shards is None else shards
    for name in names:
        table = read(folder / "shards" / name, AUDIO)
        yield name, list(zip(table["utt_id"].to_pylist(), table["audio"].to_pylist(), strict=True))
