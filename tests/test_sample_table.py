"""The table of samples: a row per sample and step, none lost by a kill and none doubled by what is trained again."""

import pyarrow.parquet as pq
import torch

from stillsmall.sample_table import SampleTable


def rows(path):
    return pq.read_table(path).to_pylist()


def add(table, step, ids=("a", "b"), **columns):
    table.add(step, ids, {name: torch.tensor(value) for name, value in columns.items()})


def test_a_row_per_sample_and_step_with_steps_counted_from_one(tmp_path):
    table = SampleTable(tmp_path / "s")
    add(table, 0, alpha=[0.25, 0.5])
    table.flush(1)
    add(table, 1, ("c",), alpha=[1.0])
    table.flush(2)
    table.write(tmp_path / "t.parquet")
    assert rows(tmp_path / "t.parquet") == [
        {"utt_id": "a", "step": 1, "alpha": 0.25},
        {"utt_id": "b", "step": 1, "alpha": 0.5},
        {"utt_id": "c", "step": 2, "alpha": 1.0},
    ]


def test_what_was_not_flushed_and_what_a_lost_checkpoint_wrote_is_trained_again_and_stands_once(tmp_path):
    first = SampleTable(tmp_path / "s")
    add(first, 0, alpha=[0.1, 0.2])
    first.flush(1)
    add(first, 1, alpha=[0.3, 0.4])
    first.flush(2)  # and killed before the checkpoint of step 2 stood, with step 3 in memory
    add(first, 2, alpha=[0.5, 0.6])
    again = SampleTable(tmp_path / "s")
    again.forget_after(1)
    add(again, 1, alpha=[0.3, 0.4])
    again.flush(2)
    again.write(tmp_path / "t.parquet")
    assert [(row["utt_id"], row["step"]) for row in rows(tmp_path / "t.parquet")] == [
        ("a", 1), ("b", 1), ("a", 2), ("b", 2)
    ]  # fmt: skip


def test_an_objective_without_a_word_on_samples_gives_an_empty_table_that_still_joins(tmp_path):
    table = SampleTable(tmp_path / "s")
    add(table, 0)
    table.flush(1)
    table.write(tmp_path / "t.parquet")
    assert pq.read_schema(tmp_path / "t.parquet").names == ["utt_id", "step"] and rows(tmp_path / "t.parquet") == []


def test_columns_that_come_later_are_null_before(tmp_path):
    table = SampleTable(tmp_path / "s")
    add(table, 0, ("a",), x=[1.0])
    table.flush(1)
    add(table, 1, ("a",), y=[2.0])
    table.flush(2)
    table.write(tmp_path / "t.parquet")
    assert [(row["x"], row["y"]) for row in rows(tmp_path / "t.parquet")] == [(1.0, None), (None, 2.0)]
