"""Filters that rank: the best share and the random subset, by exact numbers."""

import pytest

from judging import kept, many, rules, section
from small import score_row
from stillsmall import config
from stillsmall.plugins import UnknownName


def best(**changes):
    return rules("keep_best", **section("keep_best", **changes))


@pytest.mark.parametrize(
    ("share", "count"), [(0.0, 0), (0.05, 1), (0.14, 1), (0.15, 2), (0.5, 5), (0.7, 7), (0.94, 9), (1.0, 10)]
)
def test_the_best_share_is_an_exact_number_of_labels(share, count):
    rows = many(10, mean_logprob=[-0.1 * n for n in range(10)])
    assert kept(rows, best(share=share)) == [f"u{n:03d}" for n in range(count)]
    last = [f"u{n:03d}" for n in range(10 - count, 10)]
    assert kept(rows, best(share=share, direction="ascending")) == last


def test_ties_go_by_the_id_and_the_order_of_the_table_does_not_matter():
    rows = many(6, mean_logprob=[-1.0, -0.5, -0.5, -0.5, -0.5, -0.1])
    assert kept(rows, best(share=0.5)) == ["u001", "u002", "u005"]
    assert sorted(kept(rows[::-1], best(share=0.5))) == ["u001", "u002", "u005"]


def test_a_share_of_every_domain():
    rows = many(8, domain=["a"] * 4 + ["b"] * 4, mean_logprob=[-0.1, -0.2, -0.3, -0.4, -1.1, -1.2, -1.3, -1.4])
    assert kept(rows, best(share=0.5)) == ["u000", "u001", "u002", "u003"]
    assert kept(rows, best(share=0.5, per_domain=True)) == ["u000", "u001", "u004", "u005"]
    made = best(share=0.25, per_domain=True)
    kept(rows, made)
    assert made.against(rows[7])[0]["reason"] == "not among the best 0.25 of its domain by mean_logprob"


def test_labels_without_the_score_are_no_part_of_the_share():
    rows = many(6, mean_logprob=[None, None, -0.1, -0.2, -0.3, -0.4])
    assert kept(rows, best(share=0.5)) == ["u002", "u003"]
    assert kept(rows, best(share=0.5, without_value="keep")) == ["u000", "u001", "u002", "u003"]


def test_truths_and_counts_can_be_ranked_by_too():
    rows = many(4, teacher_repeats=[True, False, True, False], words=[1, 2, 3, 4])
    assert kept(rows, best(column="teacher_repeats", share=0.5, direction="ascending")) == ["u001", "u003"]
    assert kept(rows, best(column="words", share=0.25)) == ["u003"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "mean_logprb",
            r"filters\.keep_best\.column: got 'mean_logprb'; no score to rank by; did you mean 'mean_logprob'\?",
        ),
        ("teacher_text", r"filters\.keep_best\.column: got 'teacher_text'; no score to rank by"),
    ],
)
def test_a_column_that_cannot_rank_names_the_nearest(name, said):
    with pytest.raises(config.ConfigError, match=said):
        best(column=name)


def test_a_random_subset_has_the_asked_size_whatever_the_order():
    rows = [score_row(utt_id=f"u{i}") for i in range(30)]

    def drawn(rows, seed=1):
        return set(kept(rows, rules("random", random={"labels": 7, "seed": seed})))

    assert len(drawn(rows)) == 7
    assert drawn(rows) == drawn(rows[::-1]) != drawn(rows, seed=2)


def test_a_random_subset_takes_its_size_from_other_rules():
    rows = many(40, agreement_mer=[n / 40 for n in range(40)])
    match = ["not_empty", {"any": ["agreement", "keep_best"]}]
    size = len(kept(rows, rules(*match)))
    assert 0 < size < 40
    made = rules("random", random={"labels": {"match": match}, "seed": 3})
    assert len(kept(rows, made)) == size
    assert kept(rows, made) != kept(rows, rules(*match))
    assert (
        next(made.against(row) for row in rows if made.against(row))[0]["reason"] == f"not drawn among {size} at random"
    )


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (0, r"filters\.random\.labels: got 0; expected a number of labels above 0, or \{match: \[rules\]\}"),
        (True, r"filters\.random\.labels: got True; expected a number"),
        ({"match": []}, r"filters\.random\.labels: got \{'match': \[\]\}; expected a number"),
        ({"mach": ["agreement"]}, r"filters\.random\.labels: got .*; unknown 'mach'; did you mean 'match'\?"),
        ({"match": ["random"]}, r"filters\.random\.labels\.match: goes in a circle: random -> random"),
    ],
)
def test_a_size_that_cannot_be_is_named(labels, said):
    with pytest.raises(config.ConfigError, match=said):
        rules("random", random={"labels": labels, "seed": 1})


def test_a_misspelt_rule_to_match_names_the_nearest():
    with pytest.raises(
        UnknownName, match=r"filters\.random\.labels\.match\[1\]: unknown 'agrement'; did you mean 'agree"
    ):
        rules("not_empty", random={"labels": {"match": ["not_empty", "agrement"]}, "seed": 1})
