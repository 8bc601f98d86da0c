"""Rules of params.yaml with changes, and what they keep of rows: for tests of filters."""

import pyarrow as pa

from small import params, score_row
from stillsmall import filtering, manifest


def rules(*entries, **sections):
    loaded = params()
    return filtering.rules(loaded.filter.model_copy(update={"keep_if": list(entries)}), loaded.filters | sections)


def section(name, **changes):
    return {name: params().filters[name] | changes}


def table(rows):
    return pa.Table.from_pylist(rows, schema=manifest.SCORE)


def kept(rows, made):
    found = table(rows)
    made.fit(found)
    keeps = made.keeps(found)
    assert keeps.tolist() == [not made.against(row) for row in rows]  # a table and its rows are judged alike
    return [row["utt_id"] for row, keep in zip(rows, keeps, strict=True) if keep]


def many(count, **columns):
    return [
        score_row(utt_id=f"u{n:03d}", **{name: values[n] for name, values in columns.items()}) for n in range(count)
    ]
