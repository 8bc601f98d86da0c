"""Sequential reading of long recordings: what is taken from a window, and where the next one starts."""

import numpy as np
import pytest

import tiny
from small import tone
from stillsmall.audio import SAMPLE_RATE
from stillsmall.teachers import longform
from stillsmall.teachers.base import Clip, Hypothesis, merged, uncovered
from stillsmall.whisper_tokens import WhisperTokens

SECOND = SAMPLE_RATE


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    from transformers import GenerationConfig

    return WhisperTokens.of(tiny.tokenizer(), GenerationConfig())


def tokens(words, *parts):
    """Floats are times in seconds, strings are text."""
    found = []
    for part in parts:
        found += words.plain(part, "en") if isinstance(part, str) else [words.timestamp(part)]
    return [*found, words.end]


CASES = [
    # a segment that is closed twice, and an open one: the next window starts where the open one does
    ((0.0, "the cat", 0.5, 0.6, "sat"), [(0.0, 0.5, "the cat")], 0.5),
    # a single timestamp at the end: all is said, the window is done
    ((0.0, "the cat", 0.5, 0.6, "sat", 1.0), [(0.0, 0.5, "the cat"), (0.6, 1.0, "sat")], 2.0),
    # one segment, closed: the window is done
    ((0.2, "the cat", 1.0), [(0.2, 1.0, "the cat")], 2.0),
    # never closed: the whole window
    ((0.0, "the cat"), [(0.0, 2.0, "the cat")], 2.0),
    # timestamps that do not move: on by a window, never by nothing
    ((0.0, 0.0, "the cat"), [(0.0, 0.0, "")], 2.0),
    ((), [(0.0, 2.0, "")], 2.0),
]


@pytest.mark.parametrize(("said", "segments", "on"), CASES)
def test_closed_segments_are_taken_and_an_open_one_starts_the_next_window(words, said, segments, on):
    found, advance = longform.closed(tokens(words, *said), words, 2 * SECOND)
    assert [(a / SECOND, b / SECOND, words.text(ids)) for a, b, ids in found] == segments
    assert advance == on * SECOND


def test_times_are_the_recordings_and_what_was_sampled_wildly_is_no_context(words):
    recording = longform.Recording(Clip("r", tone(3.0), "en"), "en")
    recording.hear(tokens(words, 0.0, "the cat", 1.5, 1.5, "sat"), words, 2 * SECOND, 0.0)
    assert recording.at == 1.5 * SECOND and words.text(recording.previous) == "the cat"
    recording.hear(tokens(words, 0.1, "sat", 9.0), words, 2 * SECOND, 0.6)
    assert [(s.start, s.end, s.text) for s in recording.segments] == [(0.0, 1.5, "the cat"), (1.6, 3.0, "sat")]
    assert recording.done and recording.previous == []


def test_quiet_cuts_lose_no_sample_and_fit_the_window():
    audio = np.concatenate([tone(1.1, 200 + i, i) for i in range(9)])
    parts = longform.cuts(Clip("r", audio, None), 2 * SECOND)
    assert all(len(part) <= 2 * SECOND for _, part in parts)
    assert np.array_equal(np.concatenate([part for _, part in parts]), audio)
    assert [first for first, _ in parts] == np.cumsum([0, *(len(part) for _, part in parts[:-1])]).tolist()


def row(start, end, text="x", **values):
    return Hypothesis(f"r#{start}", "r", start, end, "en", text, (), (1, 2), **values)


def test_loud_audio_without_text_is_listed_and_silence_is_not():
    loud, silent = tone(3.0), np.zeros(3 * SECOND, np.float32)
    clip = Clip("r", np.concatenate([loud, silent, loud]), "en")
    assert uncovered(clip, [row(0.0, 3.0), row(6.2, 9.0)]) == []
    (gap,) = uncovered(clip, [row(0.0, 3.0)])
    assert (gap.utt_id, gap.reason) == ("r#00003000", "uncovered") and "from 3.00 to 9.00 s" in gap.detail
    assert [f.reason for f in uncovered(Clip("r", silent, None), [])] == ["silent"]


def test_several_windows_of_one_clip_become_one_hypothesis_with_weighted_means():
    one = merged(
        Clip("c", tone(4.0), "en"), [row(0.0, 2.0, "a", mean_logprob=-1.0), row(2.0, 4.0, "b", mean_logprob=-3.0)]
    )
    assert (one.utt_id, one.text, one.start_s, one.end_s, one.mean_logprob) == ("c", "a b", 0.0, 4.0, -2.0)
