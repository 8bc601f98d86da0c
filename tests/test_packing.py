"""Packs: what may be joined, when a pack is full, and that nothing is lost or said at another time than it is heard."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from small import split
from stillsmall import audio, data, manifest
from stillsmall.data import Example, Part
from stillsmall.packing import join, pack

WINDOW_S = 30.0


def label(name: str, seconds: float, **values) -> Example:
    base = {"language": "en", "source": "s", "recording": "r", "speaker": "ann", "offset_s": 0.0, "previous": ""}
    part = Part(name, name, 0.0, seconds)
    return Example(utt_id=name, parts=(part,), text=name, segments=((0.0, seconds, name),), **{**base, **values})


def row(*seconds: float, **values) -> list[Example]:
    """Labels of one recording, one after the other."""
    starts = np.cumsum([0.0, *seconds])
    return [label(f"u{n:02d}", length, offset_s=float(starts[n]), **values) for n, length in enumerate(seconds)]


def fits(example: Example) -> bool:
    return example.duration_s <= WINDOW_S + 1e-6


def packs(found: list[Example], within="speaker") -> list[list[str]]:
    return [[part.label for part in one.parts] for one in pack(found, within, fits)]


def test_the_papers_example_and_a_pack_that_is_exactly_full():
    assert packs(row(10, 15, 6, 29, 1)) == [["u00", "u01"], ["u02"], ["u03", "u04"]]
    assert packs(row(10, 20, 30, 0.5)) == [["u00", "u01"], ["u02"], ["u03"]]


def test_a_second_label_is_later_by_the_first_ones_length():
    one, two = row(2.5, 4.0)
    joined = join(replace(one, previous="before"), two)
    assert joined.segments == ((0.0, 2.5, "u00"), (2.5, 6.5, "u01"))
    assert joined.text == "u00 u01" and joined.previous == "before" and joined.duration_s == 6.5


def test_recordings_are_joined_only_where_the_speaker_is_known():
    here, there = label("a", 5, recording="one"), label("b", 5, recording="two")
    assert packs([here, there]) == [["a", "b"]]
    assert packs([here, there], "recording") == [["a"], ["b"]]
    unknown = [replace(one, speaker=None) for one in (here, there)]
    assert packs(unknown) == [["a"], ["b"]]
    assert packs([replace(one, recording=None) for one in unknown]) == [["a"], ["b"]]


@pytest.mark.parametrize("other", [{"speaker": "bob"}, {"language": "zh"}, {"source": "t"}])
def test_speakers_languages_and_sources_do_not_mix(other):
    assert packs([label("a", 5), label("b", 5, **other)]) == [["a"], ["b"]]


def test_a_speaker_is_not_taken_for_a_recording_of_that_name():
    assert packs([label("a", 5, speaker="x"), label("b", 5, recording="x", speaker=None)]) == [["a"], ["b"]]


def test_none_leaves_all_as_they_are():
    found = row(1, 2, 3)
    assert pack(found, "none", fits) == found


LENGTHS = st.lists(st.floats(0.1, 30), min_size=1, max_size=30)


@given(LENGTHS, st.lists(st.sampled_from(["ann", "bob", None]), min_size=30, max_size=30), st.randoms())
def test_every_label_is_in_one_pack_once_none_is_too_long_and_order_does_not_matter(seconds, speakers, chance):
    found = [replace(one, speaker=who) for one, who in zip(row(*seconds), speakers, strict=False)]
    made = pack(found, "speaker", fits)
    assert sorted(part.label for one in made for part in one.parts) == [one.utt_id for one in found]
    assert all(fits(one) and len({p.label[0] for p in one.parts}) == 1 for one in made)
    assert pack(chance.sample(found, len(found)), "speaker", fits) == made


@given(LENGTHS)
def test_two_packs_in_a_row_would_not_fit_into_one(seconds):
    made = pack(row(*seconds), "recording", fits)
    assert all(not fits(join(one, two)) for one, two in pairwise(made))


def test_a_pack_sounds_like_its_parts(tmp_path):
    prepared = split(tmp_path / "train", [{"duration_s": 1.0}] * 3)
    wholes = {}
    for _, found in manifest.audio(prepared):
        wholes |= {utt_id: audio.decode_flac(flac) for utt_id, flac in found}
    names = sorted(wholes)[:2]
    parts = (Part("a", names[0], 0.0, 0.5), Part("b", names[1], 0.25, 0.75))
    heard = data.Audio(prepared, [replace(label("a", 0.5), parts=parts)])(0)
    rate = audio.SAMPLE_RATE
    expected = np.concatenate([wholes[names[0]][: rate // 2], wholes[names[1]][rate // 4 : 3 * rate // 4]])
    assert np.array_equal(heard, expected)
