"""Error counts for WER, CER and MER: counts are kept and summed, rates are views of them.

A corpus rate divides summed errors by summed reference units; it is never a mean of rates. Substitutions, deletions
and insertions come from one optimal alignment (rapidfuzz, the engine under jiwer).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass

from rapidfuzz.distance import Levenshtein

from stillsmall import text as texts

PRIME, OWNER = 0x9E3779B1, 0x85EBCA6B  # odd multipliers that spread n-grams and texts over all buckets
BUCKET_BITS = 17  # of a table of counts: an audio shard's labels have some ten thousand n-grams


@dataclass(frozen=True)
class ErrorCounts:
    """Counts against references: all in units (words, characters or mixed units)."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_units(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float | None:
        """errors / reference units; above 1 is possible. None where there is nothing to divide by."""
        return self.errors / self.reference_units if self.reference_units else None

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(*(getattr(self, f) + getattr(other, f) for f in self.__dataclass_fields__))

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """The sum of counts."""
    return sum(counts, ErrorCounts())


def count(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> ErrorCounts:
    """Errors of one hypothesis: an optimal alignment of two sequences of units. Empty references count insertions."""
    ops = Counter(op.tag for op in Levenshtein.editops(reference, hypothesis))
    lost = ops["replace"] + ops["delete"]
    return ErrorCounts(len(reference) - lost, ops["replace"], ops["delete"], ops["insert"])


def distances(references: Sequence[Sequence[Hashable]], hypotheses: Sequence[Sequence[Hashable]]) -> list[int]:
    """Errors of each pair, without telling them apart: `count(...).errors` of many pairs, at a fraction of its cost."""
    from rapidfuzz.process import cpdist  # brings numpy

    return cpdist(references, hypotheses, scorer=Levenshtein.distance).tolist() if references else []


def rate(errors: int, units: int) -> float | None:
    """errors / units; 0 where nothing was said and nothing heard, None where something was heard in nothing."""
    return errors / units if units else (None if errors else 0.0)


def wer(reference: str, hypothesis: str, language: str, form: texts.Form) -> ErrorCounts:
    """Word errors (characters in languages without spaces)."""
    pair = (texts.words(texts.in_form(t, language, form), language) for t in (reference, hypothesis))
    return count(*pair)


def cer(reference: str, hypothesis: str, language: str, form: texts.Form) -> ErrorCounts:
    """Character errors."""
    pair = (texts.characters(texts.in_form(t, language, form)) for t in (reference, hypothesis))
    return count(*pair)


def mer(reference: str, hypothesis: str) -> ErrorCounts:
    """Mixed errors (K2D 2407.10603): Chinese characters and words of other scripts are the units. Not capped."""
    return count(texts.mixed_units(reference), texts.mixed_units(hypothesis))


def repeats(text: str, ngram: int, most: int) -> bool:
    """K2D's flag h: does some n-gram of characters occur more than `most` times in the normalised text?

    Spaces are not counted. With n = 6 and most = 5, one six-character phrase five times over is not flagged, six is.
    """
    return repeats_units(texts.mixed_units(text), ngram, most)


def repeats_units(units: Sequence[str], ngram: int, most: int) -> bool:
    """`repeats` of a text that is split into its mixed units already."""
    folded = "".join(units)
    grams = [folded[i : i + ngram] for i in range(len(folded) - ngram + 1)]
    if len(grams) - len(set(grams)) < most:  # one n-gram more than `most` times is `most` doubles at least
        return False
    return any(n > most for n in Counter(grams).values())


def loops(texts_units: Sequence[Sequence[str]], ngram: int, most: int) -> list[bool]:
    """`repeats_units` of many texts that are split into mixed units, at a fraction of its cost."""
    import numpy as np

    folded = ["".join(units) for units in texts_units]
    sizes = np.array([len(text) for text in folded])
    codes = np.frombuffer("".join(folded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    found = [False] * len(folded)
    if len(codes) < ngram:
        return found
    grams = codes[: len(codes) - ngram + 1]  # rolled into one number each; what overlaps two texts does no harm
    for shift in range(1, ngram):
        grams = grams * PRIME + codes[shift : len(codes) - ngram + 1 + shift]
    owners = np.repeat(np.arange(len(folded), dtype=np.uint32), sizes)[: len(grams)]
    places = (grams * PRIME + owners * OWNER) >> (32 - BUCKET_BITS)
    crowded = np.bincount(places, minlength=1 << BUCKET_BITS) > most  # no n-gram is often where its bucket is not
    for number in np.unique(owners[crowded[places]]).tolist():
        found[number] = repeats_units([folded[number]], ngram, most)
    return found


def composite(teacher_repeats: bool, validator_repeats: bool, per: float | None) -> float | None:
    """K2D's composite distance (2407.10603, section 3): max(h(teacher), min(1 - h(validator), PER)).

    1 where the teacher loops, 0 where only the validator does, else the PER, at most 1; None where that is None.
    """
    if teacher_repeats or validator_repeats:
        return float(teacher_repeats)
    return None if per is None else min(1.0, per)


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of its zlib form (Whisper's measure of looping); 0 for an empty text."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0
