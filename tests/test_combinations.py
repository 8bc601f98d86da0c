"""Rules under all, any and not: the algebra as properties, and that every rejection names what led to it."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small import params, score_row
from stillsmall import filtering, manifest
from stillsmall.config import ConfigError
from stillsmall.plugins import UnknownName

NAMES = ["not_empty", "agreement", "confidence", "keep_best"]
ENTRIES = st.recursive(
    st.sampled_from(NAMES),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"all": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"any": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=6,
)
LOADED = params()
TABLE = pa.Table.from_pylist(
    [
        score_row(
            utt_id=f"{words}{mer}{sure}{rank}", words=words, agreement_mer=mer, mean_logprob=sure, mean_entropy=rank
        )
        for words in (0, 1)
        for mer in (0.0, 0.9)
        for sure in (-0.1, -3.0)
        for rank in (0.1, 0.9)
    ],
    schema=manifest.SCORE,
)
ROWS = TABLE.to_pylist()
BEST = {"column": "mean_entropy", "share": 0.5, "direction": "ascending", "per_domain": False, "without_value": "drop"}


def rules(*entries):
    config = LOADED.filter.model_copy(update={"keep_if": list(entries)})
    made = filtering.rules(config, LOADED.filters | {"keep_best": BEST})
    made.fit(TABLE)
    return made


def kept(*entries):
    return rules(*entries).keeps(TABLE).tolist()


quick = settings(max_examples=60, deadline=None)


@quick
@given(ENTRIES)
def test_a_row_and_its_table_are_judged_alike_and_only_a_dropped_row_has_findings(entry):
    made = rules(entry)
    assert made.keeps(TABLE).tolist() == [not made.against(row) for row in ROWS]


@quick
@given(ENTRIES, ENTRIES)
def test_de_morgan(a, b):
    assert kept({"not": {"all": [a, b]}}) == kept({"any": [{"not": a}, {"not": b}]})
    assert kept({"not": {"any": [a, b]}}) == kept({"all": [{"not": a}, {"not": b}]})
    one, other = rules({"not": {"all": [a, b]}}), rules({"any": [{"not": a}, {"not": b}]})
    assert [one.against(row) for row in ROWS] == [other.against(row) for row in ROWS]


@quick
@given(ENTRIES, ENTRIES)
def test_all_is_the_intersection_and_any_the_union(a, b):
    one, other = kept(a), kept(b)
    assert kept({"all": [a, b]}) == kept(a, b) == [x and y for x, y in zip(one, other, strict=True)]
    assert kept({"any": [a, b]}) == [x or y for x, y in zip(one, other, strict=True)]
    assert kept({"not": a}) == [not x for x in one]
    assert kept({"not": {"not": a}}) == one


@quick
@given(st.lists(ENTRIES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_entries_does_not_matter(entries, chance):
    shuffled = chance.sample(entries, len(entries))
    assert kept(*entries) == kept(*shuffled)
    for row in ROWS:
        a, b = rules(*entries).against(row), rules(*shuffled).against(row)
        assert sorted(map(str, a)) == sorted(map(str, b))


def findings(row, *entries):
    return [(f["rule"], f["value"], f["reason"]) for f in rules(*entries).against(score_row(**row))]


def test_any_names_every_branch_that_failed():
    either = {"any": ["agreement", "confidence"]}
    assert findings({"agreement_mer": 0.9}, either) == []
    assert [rule for rule, _, _ in findings({"agreement_mer": 0.9, "mean_logprob": -3.0}, either)] == [
        "agreement",
        "confidence",
    ]


def test_not_says_which_rule_the_label_met():
    said = [("not confidence", "-0.1", "meets confidence, which must not hold")]
    assert findings({}, {"not": "confidence"}) == said
    assert findings({"mean_logprob": -3.0}, {"not": "confidence"}) == []
    assert findings({"words": 0}, {"not": {"any": ["not_empty", "confidence"]}}) == said
    assert findings({"agreement_mer": 0.9}, {"not": {"not": "agreement"}}) == findings(
        {"agreement_mer": 0.9}, "agreement"
    )


def test_a_rule_that_stands_in_two_branches_speaks_once():
    twice = {"any": [{"all": ["agreement", "confidence"]}, {"all": ["agreement", "not_empty"]}]}
    assert [rule for rule, _, _ in findings({"agreement_mer": 0.9}, twice)] == ["agreement"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"any": ["agreement", "confidense"]},
            r"filter\.keep_if\[0\]\.any\[1\]: unknown 'confidense'; did you mean 'confidence'",
        ),
        ({"anny": ["agreement"]}, r"filter\.keep_if\[0\]: unknown 'anny'; did you mean 'any'"),
        ({"not": {"all": ["agrement"]}}, r"filter\.keep_if\[0\]\.not\.all\[0\]: unknown 'agrement'"),
        ({"any": []}, r"filter\.keep_if\[0\]\.any: got \[\]; expected a list of at least one entry"),
        ({"all": "agreement"}, r"filter\.keep_if\[0\]\.all: got 'agreement'; expected a list"),
        (
            {"any": ["agreement"], "not": "confidence"},
            r"filter\.keep_if\[0\]: got .*; expected a filter's name or one of",
        ),
        (3, r"filter\.keep_if\[0\]: got 3; expected a filter's name or one of"),
    ],
)
def test_an_entry_that_cannot_be_is_named(entry, said):
    with pytest.raises((ConfigError, UnknownName), match=said):
        rules(entry)
