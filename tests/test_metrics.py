"""Error counts on values computed by hand (K2D's examples among them) and against jiwer."""

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillsmall import metrics


@pytest.mark.parametrize(
    ("hypothesis", "reference", "errors", "units"),
    [
        ("我想買咖啡", "我想買 coffee", 2, 4),
        ("今天我們講 machine running", "今天我們講 machine learning", 1, 7),
        ("deeplearning很難", "deep learning 很難", 2, 4),
        ("OK OK OK", "OK", 2, 1),
        ("她很高", "他很高", 1, 3),
        ("講", "讲", 0, 1),
        ("Python3", "python3", 0, 1),
    ],
)
def test_mixed_error_rate_matches_hand_counts(hypothesis, reference, errors, units):
    counts = metrics.mer(reference, hypothesis)
    assert (counts.errors, counts.reference_units) == (errors, units)


@pytest.mark.parametrize(
    ("text", "flagged"),
    [("谢谢大家收看" * 5, False), ("谢谢大家收看" * 6, True), ("a" * 10, False), ("a" * 11, True), ("", False)],
)
def test_repetition_flag_turns_on_above_five_occurrences(text, flagged):
    assert metrics.repeats(text, ngram=6, most=5) is flagged


def test_operations_are_told_apart():
    assert metrics.count(["a", "b", "c", "d"], ["a", "x", "c"]) == metrics.ErrorCounts(2, 1, 1, 0)
    assert metrics.count([], ["x"]) == metrics.ErrorCounts(0, 0, 0, 1)


def test_a_corpus_rate_sums_counts_before_dividing():
    both = metrics.total([metrics.count(["a"], ["b"]), metrics.count(list("abcdefghi"), list("abcdefghi"))])
    assert both.rate == 0.1  # the mean of the two rates would be 0.5


def test_rate_of_an_empty_reference_is_none_not_a_number():
    assert metrics.count([], ["noise"]).rate is None


def test_normalised_counts_ignore_what_orthographic_counts_see():
    pair = ("Mr. Smith doesn't know.", "mister smith does not know")
    assert metrics.wer(*pair, "en", "normalised").errors == 0
    assert metrics.wer(*pair, "en", "orthographic").errors > 0


words = st.lists(st.sampled_from(["a", "b", "c", "dd"]), min_size=1, max_size=12)


@given(words, words)
def test_counts_agree_with_jiwer(reference, hypothesis):
    theirs = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    ours = metrics.count(reference, hypothesis)
    assert ours.rate == pytest.approx(theirs.wer)
    assert ours.errors == theirs.substitutions + theirs.deletions + theirs.insertions


@given(st.lists(st.tuples(words, words), max_size=5))
def test_distances_are_the_errors_of_every_pair(pairs):
    references, hypotheses = [r for r, _ in pairs], [h for _, h in pairs]
    assert metrics.distances(references, hypotheses) == [metrics.count(r, h).errors for r, h in pairs]
    assert metrics.distances([[], ["a"]], [["b", "c"], []]) == [2, 1]


@given(st.text(alphabet="abc ", max_size=60), st.integers(1, 4), st.integers(1, 5))
def test_a_loop_is_an_ngram_more_often_than_allowed(text, ngram, most):
    letters = text.replace(" ", "")
    grams = [letters[i : i + ngram] for i in range(len(letters) - ngram + 1)]
    assert metrics.repeats(text, ngram, most) == any(grams.count(gram) > most for gram in grams)


LETTERS = st.text(alphabet="ab買\U0001f600 ", max_size=30)


@given(st.lists(st.builds(str.__mul__, LETTERS, st.integers(1, 8)), max_size=6), st.integers(1, 7), st.integers(1, 6))
def test_loops_of_many_texts_are_those_of_each(texts, ngram, most):
    units = [metrics.texts.mixed_units(text) for text in texts]
    assert metrics.loops(units, ngram, most) == [metrics.repeats_units(found, ngram, most) for found in units]


def test_ngrams_that_share_a_bucket_are_no_loop(monkeypatch):
    monkeypatch.setattr(metrics, "BUCKET_BITS", 1)
    assert metrics.loops([["abcdefghijklmnopqrstuvwxyz"], ["ab"] * 6, []], 2, 5) == [False, True, False]
    assert metrics.loops([], 6, 5) == []


def test_a_rate_needs_something_to_divide_by():
    assert (metrics.rate(1, 4), metrics.rate(0, 0), metrics.rate(2, 0)) == (0.25, 0.0, None)


def test_compression_ratio_rises_with_loops():
    assert metrics.compression_ratio("go on " * 50) > 5 > metrics.compression_ratio("the cat sat on a mat")
    assert metrics.compression_ratio("") == 0.0
