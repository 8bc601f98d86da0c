"""The bootstrap: exact values, pairing, clusters, and that a 95 % interval covers about 95 %."""

import numpy as np

from stillsmall import stats


def test_values_are_the_corpus_rates_and_their_difference():
    a, b, difference = stats.bootstrap(["x", "y"], [[1, 1], [2, 2]], [5, 5], 200, 1)
    assert (a.value, b.value, round(difference.value, 9)) == (0.2, 0.4, 0.2)


def test_few_clusters_give_no_interval():
    (rate,) = stats.bootstrap(["x"] * 50, [[1] * 50], [4] * 50, 200, 1)
    assert rate.low is None and rate.clusters == 1


def test_pairing_makes_a_constant_difference_certain():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 10, 40)
    clusters = [f"s{i}" for i in range(40)]
    _, _, difference = stats.bootstrap(clusters, [first, first + 1], [20] * 40, 500, 1)
    assert difference.high - difference.low < 1e-9 and abs(difference.value - 0.05) < 1e-9


def test_clusters_widen_what_utterances_alone_would_hide():
    rates = np.repeat(np.random.default_rng(1).uniform(0, 0.5, 12), 20)
    errors = np.random.default_rng(2).binomial(10, rates)
    by_speaker = [f"s{i // 20}" for i in range(240)]
    alone = [f"u{i}" for i in range(240)]
    wide, narrow = (stats.bootstrap(c, [errors], [10] * 240, 2000, 3)[0] for c in (by_speaker, alone))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_a_95_percent_interval_covers_about_95_percent():
    rng, covered, trials = np.random.default_rng(5), 0, 300
    for trial in range(trials):
        speakers = rng.beta(4, 16, 40)  # true corpus rate 0.2
        errors = rng.binomial(50, speakers)
        (rate,) = stats.bootstrap([str(i) for i in range(40)], [errors], [50] * 40, 400, trial)
        covered += rate.low <= 0.2 <= rate.high
    assert 0.89 <= covered / trials <= 0.985
