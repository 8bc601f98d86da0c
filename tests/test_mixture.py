"""Mixtures: exact numbers, the same draw every time, and words for what cannot be."""

from collections import Counter
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from small import params, score_row
from stillsmall import filtering, manifest
from stillsmall.config import ConfigError, Mixture
from stillsmall.mixture import apportion, draw, sizes

TABLE = pa.Table.from_pylist(
    [
        {"utt_id": f"{domain}/{n}", "domain": domain}
        for domain, many in {"us": 60, "gb": 30, "scot": 10}.items()
        for n in range(many)
    ]
)


def mixture(**values) -> Mixture:
    base = {"by": "domain", "counts": None, "shares": None, "total": None, "shortage": "error", "seed": 1}
    return Mixture(**{**base, **values})


def kept(config: Mixture) -> Counter[str]:
    left_out = draw(TABLE, config)
    return Counter(row["domain"] for row in TABLE.to_pylist() if row["utt_id"] not in left_out)


def test_counts_are_kept_exactly_and_groups_that_are_not_named_are_left_out():
    assert kept(mixture(counts={"us": 20, "scot": 10})) == {"us": 20, "scot": 10}


def test_shares_of_a_total_are_exact_and_equal_shares_balance():
    assert kept(mixture(shares={"us": 0.5, "gb": 0.3, "scot": 0.2}, total=50)) == {"us": 25, "gb": 15, "scot": 10}
    assert kept(mixture(shares="equal", total=30)) == {"us": 10, "gb": 10, "scot": 10}


def test_without_a_total_the_scarcest_group_says_how_many():
    assert kept(mixture(shares="equal")) == {"us": 10, "gb": 10, "scot": 10}
    assert kept(mixture(shares={"us": 3, "gb": 1})) == {"us": 60, "gb": 20}


def test_what_is_short_is_said_or_taken_as_it_is():
    with pytest.raises(ConfigError, match=r"'gb' has 30 of 40, 'scot' has 10 of 40"):
        draw(TABLE, mixture(shares="equal", total=120))
    assert kept(mixture(shares="equal", total=120, shortage="less")) == {"us": 40, "gb": 30, "scot": 10}


def test_a_misspelt_group_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"filter\.mixture\.counts: no kept label is of 'scott'; did you mean 'scot'"):
        draw(TABLE, mixture(counts={"scott": 1}))


@pytest.mark.parametrize(
    "values", [{}, {"counts": {"us": 1}, "shares": "equal"}, {"counts": {"us": 1}, "total": 4}, {"shares": {"us": 0.0}}]
)
def test_what_contradicts_itself_is_refused(values):
    with pytest.raises(ValidationError):
        mixture(**values)


def test_the_draw_depends_on_ids_and_seed_alone_and_a_smaller_one_is_part_of_a_larger():
    small, large = (set(draw(TABLE, mixture(counts={"us": n}))) for n in (10, 20))
    assert large < small
    assert set(draw(TABLE.take(list(range(len(TABLE)))[::-1]), mixture(counts={"us": 10}))) == small
    assert set(draw(TABLE, mixture(counts={"us": 10}, seed=2))) != small


@given(st.integers(0, 10**6), st.lists(st.integers(1, 1000), min_size=1, max_size=12))
def test_apportioned_numbers_add_up_and_lie_within_one(total, weights):
    shares = {str(n): Fraction(weight, sum(weights)) for n, weight in enumerate(weights)}
    counts = apportion(total, shares)
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - total * share) < 1 for name, share in shares.items())


def test_half_a_million_segments_are_exact():
    wanted = sizes({"a": 10**6, "b": 10**6, "c": 10**6}, mixture(shares={"a": 0.1, "b": 0.2, "c": 0.7}, total=500_000))
    assert wanted == {"a": 50_000, "b": 100_000, "c": 350_000}


def test_what_the_mixture_leaves_out_is_rejected_with_the_reason(tmp_path):
    rows = [score_row(utt_id=f"u{n}", domain="us" if n < 6 else "gb") for n in range(8)]
    manifest.write(tmp_path / "scores.parquet", rows, manifest.SCORE)
    paths = [tmp_path / name for name in ("scores.parquet", "kept.parquet", "rejected.parquet", "counts.json")]
    everything = filtering.rules(params().filter.model_copy(update={"keep_if": []}), params().filters)
    filtering.split(*paths, everything, mixture(shares="equal"))
    assert Counter(row["domain"] for row in manifest.rows(paths[1], manifest.SCORE)) == {"us": 2, "gb": 2}
    verdicts = [row["verdicts"] for row in manifest.rows(paths[2], manifest.REJECTED)]
    assert (
        verdicts
        == [[{"rule": "mixture", "value": '"us"', "reason": "beyond the mixture's 2 labels of domain 'us'"}]] * 4
    )
