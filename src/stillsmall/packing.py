"""Several short labels in one window of the model, so that less of it is silence.

Whisper's window is 30 s and is encoded whole; ten clips of 3 s cost ten windows one by one and one window together.
Labels are packed after scoring and filtering, so that a bad one spoils nothing but itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Literal

from stillsmall import text as texts
from stillsmall.data import Example

Within = Literal["none", "recording", "speaker"]


def pack(found: Sequence[Example], within: Within, fits: Callable[[Example], bool]) -> list[Example]:
    """Greedy packs, in the order of their first labels' ids; "none" gives the examples as they are.

    Neighbours are joined while `fits` the joined example: first in time is first in the pack, as K2D's chunks
    (2407.10603) and Distil-Whisper's packs (2311.00430) are made. "recording": only labels of one recording and one
    speaker; "speaker": of one known speaker of a source, over recordings. A speaker that nobody has named is only
    ever joined with itself within one recording. One language to a pack: its prefix has room for one.
    """
    if within == "none":
        return list(found)
    ordered = sorted(found, key=lambda example: (*_place(example, within), *_time(example)))
    packs: list[Example] = []
    for _, group in groupby(ordered, key=lambda example: _place(example, within)):
        packs += _greedy(group, fits)
    return sorted(packs, key=lambda example: example.utt_id)


def _place(example: Example, within: Within) -> tuple[str, ...]:
    """What labels of one pack have in common. The marks keep a recording's name from being taken for a speaker's."""
    if within == "speaker" and example.speaker is not None:
        return ("speaker", example.source, example.speaker, example.language)
    return ("recording", example.source, example.recording or example.utt_id, example.speaker or "", example.language)


def _time(example: Example) -> tuple[str, float, str]:
    return (example.recording or "", example.offset_s, example.utt_id)


def _greedy(group: Iterable[Example], fits: Callable[[Example], bool]) -> list[Example]:
    packs: list[Example] = []
    for example in group:
        if packs and fits(joined := join(packs[-1], example)):
            packs[-1] = joined
        else:
            packs.append(example)
    return packs


def join(first: Example, then: Example) -> Example:
    """One example that hears `first`, then `then`; the second one's segments are later by the first one's length."""
    by = first.duration_s
    later = tuple((round(start + by, 3), round(end + by, 3), text) for start, end, text in then.segments)
    return Example(
        utt_id=first.utt_id,
        parts=first.parts + then.parts,
        language=first.language,
        text=texts.join((first.text, then.text), first.language),
        segments=first.segments + later,
        previous=first.previous,
        source=first.source,
        recording=first.recording,
        speaker=first.speaker,
        offset_s=first.offset_s,
    )
