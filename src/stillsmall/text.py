"""Text as it is counted: orthographic or normalised, and split into the units of its language.

Whisper's basic normaliser puts a space in place of every combining mark, which tears Hindi and Tamil words apart and
drops nothing from Arabic that it should; here each language has its own rules (Radford et al. 2022, appendix C, for
English; 2406.04512, section 4, for Arabic).
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

Form = Literal["orthographic", "normalised"]
UNSPACED = frozenset(
    {"zh", "yue", "ja", "th", "lo", "my", "km", "bo"}
)  # a character is the unit of WER (Whisper's list)
HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
HAS_HAN = re.compile(f"[{HAN}]")
UNIT = re.compile(rf"[{HAN}]|[^\s{HAN}]+")  # MER: a Chinese character, or a run of anything else
SINGLE = re.compile(r"[A-Za-z0-9\u00c0-\u024f'’]+|\S")  # without spaces: Latin words whole, all else by character
ARABIC_DROPPED = re.compile(r"[^0-9\u0621-\u064a%@ ]")  # what is not a digit, an Arabic letter, %, @ or a space
ALEFS = str.maketrans(dict.fromkeys("\u0622\u0623\u0625\u0671", "\u0627"))  # madda, hamza above/below, wasla
ARABIC_DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩", "0123456789")
TATWEEL = "\u0640"
MARKS = re.compile(r"[\u064b-\u065f\u0670\u06d6-\u06ed]")  # Arabic diacritics
ASIDE = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]*\)")
WORDS_KEPT = 1 << 16  # normalised words that are remembered: a language has that many, and memory stays bounded
WORD_MOST = 40  # characters of a word that is remembered; what is longer is a sentence without spaces
REACH = 3  # words: "two and a half" is the widest that the number words of English act on each other
PLAIN = re.compile(r"([a-z]+)(?:'([a-z]+))?[.,!?;:]*")  # an English word on which no neighbour has an influence
FILLERS = frozenset({"hmm", "mm", "mhm", "mmm", "uh", "um"})
PERFECT = re.compile(r"\b(?:been|gone|done|got)\b")  # after these, "he's" is "he has"
T = TypeVar("T")


class Remembered(dict[str, T]):
    """What a function makes of a word, looked up as in a dict, which is several times faster than a cached call."""

    def __init__(self, make: Callable[[str], T]) -> None:
        self.make = make

    def __missing__(self, word: str) -> T:
        found = self.make(word)
        if len(word) <= WORD_MOST:
            if len(self) >= WORDS_KEPT:
                self.clear()
            self[word] = found
        return found


@functools.cache
def _english() -> Any:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


@functools.cache
def _traditional_to_simplified() -> Any:
    import opencc

    return opencc.OpenCC("t2s")


def orthographic(text: str) -> str:
    """The text as written, in Unicode's composed form, runs of space as one."""
    return " ".join(unicodedata.normalize("NFC", text).split())


class _Separators(dict[int, str]):
    """For str.translate: symbols, punctuation and control characters become spaces; filled in as they are met."""

    def __missing__(self, code: int) -> str:
        self[code] = " " if unicodedata.category(chr(code))[0] in "SPC" else chr(code)
        return self[code]


_separators = _Separators()


def _basic(text: str) -> str:
    """Lower case, no bracketed asides, symbols and punctuation to spaces; letters and their marks stay."""
    words = list(map(_basic_words.__getitem__, text.split()))
    if None not in words:
        return " ".join(filter(None, words))
    text = ASIDE.sub(" ", unicodedata.normalize("NFKC", text).lower())
    return " ".join(text.translate(_separators).split())


def _basic_word(word: str) -> str | None:
    """One word by itself; None where it holds a bracket, which may close words later."""
    word = unicodedata.normalize("NFKC", word).lower()
    if "<" in word or "[" in word or "(" in word:
        return None
    return " ".join(word.translate(_separators).split())


_basic_words = Remembered(_basic_word)


def _english_text(text: str) -> str:
    """Whisper's English normaliser. Its forty expressions run on the whole text only where words act on each other."""
    if "'" in text and PERFECT.search(text.lower()):
        return _english_whole(text)
    words = text.split()
    said = list(map(_english_words.__getitem__, words))
    if None in said and not _fill_numbers(words, said):
        return _english_whole(text)
    return " ".join(filter(None, said))


def _english_whole(text: str) -> str:
    said = str(_english()(text)).split()  # it leaves points and dashes that stand alone
    return " ".join(word for word in said if not all(unicodedata.category(c)[0] == "P" for c in word))


def _english_word(word: str) -> str | None:
    """One word by itself; None where its neighbours matter: numbers, brackets, symbols, and anything unusual."""
    found = PLAIN.fullmatch(word.lower())
    if not found or len(word) > WORD_MOST:
        return None
    numbers = _english().standardize_numbers.words - {"and"} | {"half"}  # "and" matters beside another of them only
    if numbers & set(found.groups()) or (found[2] and found[1] in FILLERS):
        return None
    return _english_whole(word)


_english_words = Remembered(_english_word)
_english_numbers = Remembered(_english_whole)


def _fill_numbers(words: list[str], said: list[str | None]) -> bool:
    """Fills in the words that are None, where all of them are spelt-out numbers: these act on words nearby alone.

    False, and nothing is filled in, where one is anything else, or a filler may stand between them.
    """
    places = [n for n, word in enumerate(said) if word is None]
    if "" in said or not all(_plain(words[n]) for n in places):
        return False
    spans: list[list[int]] = []
    for place in places:
        start, end = place, place + 1
        if _plain(words[place]) == "half":  # "and a half" reads the word before it
            start = max(place - REACH, 0)
        while end < len(words) and _plain(words[end]) == "and":  # a number's first "and" looks at the next word
            end += 1
        if spans and start < spans[-1][1] + REACH:
            spans[-1][1] = end
        else:
            spans.append([start, end])
    for start, end in spans:
        said[start:end] = [_english_numbers[" ".join(words[start:end])], *[""] * (end - start - 1)]
    return True


def _plain(word: str) -> str | None:
    """A word without its case and final punctuation; None for anything but letters."""
    found = PLAIN.fullmatch(word.lower()) if len(word) <= WORD_MOST else None
    return found[1] if found and not found[2] else None


def _arabic(text: str) -> str:
    """Alef forms folded before anything is deleted; then diacritics and foreign letters go; ta marbuta stays."""
    return " ".join(filter(None, map(_arabic_words.__getitem__, text.split())))


def _arabic_word(word: str) -> str:
    word = unicodedata.normalize("NFC", word).translate(ALEFS).translate(ARABIC_DIGITS).replace(TATWEEL, "")
    return " ".join(ARABIC_DROPPED.sub(" ", MARKS.sub("", word)).split())  # marks vanish; the word stays whole


_arabic_words = Remembered(_arabic_word)


def _chinese(text: str) -> str:
    words = list(map(_folded_words.__getitem__, text.split()))
    return fold_chinese(_basic(text)) if None in words else " ".join(filter(None, words))


def _folded_word(word: str) -> str | None:
    spoken = _basic_word(word)
    return None if spoken is None else fold_chinese(spoken)


_folded_words = Remembered(_folded_word)


def fold_chinese(text: str) -> str:
    """Traditional characters as simplified ones, one for one."""
    return str(_traditional_to_simplified().convert(text)) if HAS_HAN.search(text) else text


def normalise(text: str, language: str) -> str:
    """The text with what does not count taken away: case, punctuation, variants of spelling, per language.

    English goes through Whisper's English normaliser, which removes fillers ("um") and spells numbers as digits.
    """
    if language == "en":
        return _english_text(text)
    if language == "ar":
        return _arabic(text)
    if language in ("zh", "yue"):
        return _chinese(text)
    return _basic(text)


def in_form(text: str, language: str, form: Form) -> str:
    """`text` orthographic or normalised."""
    return orthographic(text) if form == "orthographic" else normalise(text, language)


def words(text: str, language: str) -> list[str]:
    """The units of WER: words between spaces; where a language has no spaces, its characters."""
    if language in UNSPACED:
        return list(itertools.chain.from_iterable(map(_single_words.__getitem__, text.split())))
    return text.split()


_single_words = Remembered(SINGLE.findall)


@functools.lru_cache(1 << 13)
def _script(character: str) -> str:
    return unicodedata.name(character, "?").split()[0].split("-")[0]


def script(text: str) -> str | None:
    """Unicode's name for the script of a text's first letter: LATIN, CJK, ARABIC, ...; None without a letter."""
    return next((_script(c) for c in text if c.isalpha()), None)


def scripts(text: str) -> Counter[str]:
    """How many letters of each script a text has."""
    found: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            found[_script(character)] += count
    return found


def lead(language: str) -> str:
    """What Whisper writes before a text: a space, but not in languages that have none between words."""
    return "" if language in UNSPACED else " "


def join(parts: Iterable[str], language: str) -> str:
    """Segments as one text; without spaces between them where the language has none and no Latin words would meet."""
    whole = ""
    for part in (part.strip() for part in parts):
        meets = bool(whole and part) and (language not in UNSPACED or (whole[-1].isascii() and part[0].isascii()))
        whole += (" " if meets else "") + part
    return whole


def composed(text: str) -> str:
    """The units of CER: code points in composed form; a space between words is one of them."""
    return unicodedata.normalize("NFC", text)


def characters(text: str) -> list[str]:
    """`composed`, as a list."""
    return list(composed(text))


def mixed_units(text: str) -> list[str]:
    """The units of MER (K2D): Chinese characters and the words of other scripts, folded and in lower case."""
    words = list(map(_mixed_words.__getitem__, text.split()))
    if None not in words:
        return list(itertools.chain.from_iterable(words))  # type: ignore[arg-type]
    return UNIT.findall(fold_chinese(_basic(text)))


def _mixed_word(word: str) -> tuple[str, ...] | None:
    spoken = _folded_words[word]
    return None if spoken is None else tuple(UNIT.findall(spoken))


_mixed_words = Remembered(_mixed_word)
