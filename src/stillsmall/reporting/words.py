"""Two transcripts side by side: which words are the same, put in, left out or put in place of another.

Words are compared as they are counted (normalised, one by one) and shown as they are written, so that case and
punctuation are no differences. A Chinese character is a word; so is any character where a language has no spaces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import Levenshtein

from stillsmall import text as texts

Kind = Literal["same", "ins", "del", "sub"]
RIGHT_TO_LEFT = frozenset({"ar", "arc", "ckb", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi"})
WIDE_POINTS = r"\u3000-\u303f\uff00-\uffef"  # Chinese punctuation
LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@dataclass(frozen=True)
class Mark:
    """A stretch of words: what the reference has, what was heard. `same` shows what was heard."""

    kind: Kind
    reference: str
    heard: str


@dataclass(frozen=True)
class Line:
    """One transcript as it is shown: who wrote it, its marks, and how the text runs."""

    who: str
    marks: list[Mark]
    lang: str
    dir: str


def lang_of(language: str) -> str:
    """The `lang` attribute: the language if it is a tag, else 'und' (undetermined)."""
    return language if LANGUAGE_TAG.fullmatch(language) else "und"


def dir_of(language: str) -> str:
    """The `dir` attribute: rtl for Arabic and its like."""
    return "rtl" if language.partition("-")[0].lower() in RIGHT_TO_LEFT else "ltr"


def units(text: str, language: str) -> list[str]:
    """The words of a text as they are written."""
    if language in texts.UNSPACED:
        return re.findall(r"[!-~]+|[^\x00-\x7f\s]", text)  # a Latin word stays whole, also before a wide full stop
    return [unit for word in text.split() for unit in texts.UNIT.findall(word)]


def key(unit: str, language: str) -> str:
    """What a word is compared by; empty for punctuation and whatever else is not counted."""
    return texts.normalise(unit, language).replace(" ", "")


def join(words: list[str], language: str) -> str:
    """Words with spaces between them, except where the script has none: Chinese, and languages without spaces."""
    joined = " ".join(word for word in words if word)
    close = r"[^\x00-\x7f]" if language in texts.UNSPACED else f"[{texts.HAN}]"
    return re.sub(rf" (?=[{WIDE_POINTS}])|(?<={close}) (?={close})", "", joined)


def compare(reference: str, heard: str, language: str) -> list[Mark]:
    """The marks that turn `reference` into `heard`, neighbours of one kind in one mark (substitutions stay apart)."""
    left, right = units(reference, language), units(heard, language)
    counted_left = [i for i, unit in enumerate(left) if key(unit, language)]
    counted_right = [i for i, unit in enumerate(right) if key(unit, language)]
    keys_left = [key(left[i], language) for i in counted_left]
    keys_right = [key(right[i], language) for i in counted_right]
    marks: list[Mark] = []
    shown = 0  # words of `right` that already stand in a mark
    for op in Levenshtein.opcodes(keys_left, keys_right):
        for step in range(max(op.src_end - op.src_start, op.dest_end - op.dest_start)):
            old = left[counted_left[op.src_start + step]] if op.tag in ("equal", "replace", "delete") else ""
            new = ""
            if op.tag != "delete":
                place = counted_right[op.dest_start + step]
                marks += [Mark("same", "", word) for word in right[shown:place]]
                new, shown = right[place], place + 1
            marks.append(Mark(_KINDS[op.tag], old, new))
    return _merged([*marks, *(Mark("same", "", word) for word in right[shown:])], language)


_KINDS: dict[str, Kind] = {"equal": "same", "replace": "sub", "insert": "ins", "delete": "del"}


def _merged(marks: list[Mark], language: str) -> list[Mark]:
    groups: list[list[Mark]] = []
    for mark in marks:
        if groups and mark.kind == groups[-1][0].kind != "sub":
            groups[-1].append(mark)
        else:
            groups.append([mark])
    made = []
    for group in groups:
        reference, heard = (join([getattr(mark, side) for mark in group], language) for side in ("reference", "heard"))
        made.append(Mark(group[0].kind, reference, heard))
    return made


def lines(base: tuple[str, str], others: list[tuple[str, str]], language: str) -> list[Line]:
    """The base as it is, then each other text marked against it; pairs of (who, text)."""
    lang, direction = lang_of(language), dir_of(language)
    plain = [Mark("same", "", base[1])] if base[1].strip() else []
    shown = [Line(base[0], plain, lang, direction)]
    return shown + [Line(who, compare(base[1], text, language), lang, direction) for who, text in others]
