"""Text as it is counted: orthographic or normalised, and split into the units of its language.

Whisper's basic normaliser puts a space in place of every combining mark, which tears Hindi and Tamil words apart and
drops nothing from Arabic that it should; here each language has its own rules (Radford et al. 2022, appendix C, for
English; 2406.04512, section 4, for Arabic).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

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
WORDS_KEPT = 1 << 16  # normalised words that are remembered: a language has that many, and memory stays bounded
WORD_MOST = 40  # characters of a word that is remembered; what is longer is a sentence without spaces
PLAIN = re.compile(r"([a-z]+)(?:'([a-z]+))?[.,!?;:]*")  # an English word on which no neighbour has an influence
FILLERS = frozenset({"hmm", "mm", "mhm", "mmm", "uh", "um"})
PERFECT = re.compile(r"\b(?:been|gone|done|got)\b")  # after these, "he's" is "he has"


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
    words = [_basic_word(word) if len(word) <= WORD_MOST else _basic_part(word) for word in text.split()]
    if None not in words:
        return " ".join(" ".join(words).split())  # type: ignore[arg-type]
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"[<\[][^>\]]*[>\]]|\([^)]*\)", " ", text)
    return " ".join(text.translate(_separators).split())


def _basic_part(word: str) -> str | None:
    """One word by itself; None where it holds a bracket, which may close words later."""
    word = unicodedata.normalize("NFKC", word).lower()
    return None if any(bracket in word for bracket in "<[(") else word.translate(_separators)


_basic_word = functools.lru_cache(WORDS_KEPT)(_basic_part)


def _english_text(text: str) -> str:
    """Whisper's English normaliser. Its forty expressions run on the whole text only where words act on each other."""
    if "'" not in text or not PERFECT.search(text.lower()):
        words = [_english_word(word) for word in text.split()]
        if None not in words:
            return " ".join(word for word in words if word)
    return _english_whole(text)


def _english_whole(text: str) -> str:
    said = str(_english()(text)).split()  # it leaves points and dashes that stand alone
    return " ".join(word for word in said if not all(unicodedata.category(c)[0] == "P" for c in word))


@functools.lru_cache(WORDS_KEPT)
def _english_word(word: str) -> str | None:
    """One word by itself; None where its neighbours matter: numbers, brackets, symbols, and anything unusual."""
    found = PLAIN.fullmatch(word.lower())
    if not found or len(word) > WORD_MOST:
        return None
    numbers = _english().standardize_numbers.words - {"and"} | {"half"}  # "and" matters beside another of them only
    if numbers & set(found.groups()) or (found[2] and found[1] in FILLERS):
        return None
    return _english_whole(word)


def _arabic(text: str) -> str:
    """Alef forms folded before anything is deleted; then diacritics and foreign letters go; ta marbuta stays."""
    text = unicodedata.normalize("NFC", text).translate(ALEFS).translate(ARABIC_DIGITS).replace(TATWEEL, "")
    text = re.sub(r"[\u064b-\u065f\u0670\u06d6-\u06ed]", "", text)  # marks vanish; the word stays whole
    return " ".join(ARABIC_DROPPED.sub(" ", text).split())


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
        return fold_chinese(_basic(text))
    return _basic(text)


def in_form(text: str, language: str, form: Form) -> str:
    """`text` orthographic or normalised."""
    return orthographic(text) if form == "orthographic" else normalise(text, language)


def words(text: str, language: str) -> list[str]:
    """The units of WER: words between spaces; where a language has no spaces, its characters."""
    if language in UNSPACED:
        return SINGLE.findall(text)
    return text.split()


@functools.lru_cache(1 << 13)
def _script(character: str) -> str:
    return unicodedata.name(character, "?").split()[0].split("-")[0]


def script(text: str) -> str | None:
    """Unicode's name for the script of a text's first letter: LATIN, CJK, ARABIC, ...; None without a letter."""
    return next((_script(c) for c in text if c.isalpha()), None)


def scripts(text: str) -> Counter[str]:
    """How many letters of each script a text has."""
    return Counter(_script(c) for c in text if c.isalpha())


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
    return UNIT.findall(fold_chinese(_basic(text)))
