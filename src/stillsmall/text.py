"""Text as it is counted: orthographic or normalised, and split into the units of its language.

Whisper's basic normaliser puts a space in place of every combining mark, which tears Hindi and Tamil words apart and
drops nothing from Arabic that it should; here each language has its own rules (Radford et al. 2022, appendix C, for
English; 2406.04512, section 4, for Arabic).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal

Form = Literal["orthographic", "normalised"]
UNSPACED = frozenset(
    {"zh", "yue", "ja", "th", "lo", "my", "km", "bo"}
)  # a character is the unit of WER (Whisper's list)
HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
UNIT = re.compile(rf"[{HAN}]|[^\s{HAN}]+")  # MER: a Chinese character, or a run of anything else
SINGLE = re.compile(r"[A-Za-z0-9\u00c0-\u024f'’]+|\S")  # without spaces: Latin words whole, all else by character
ARABIC_DROPPED = re.compile(r"[^0-9\u0621-\u064a%@ ]")  # what is not a digit, an Arabic letter, %, @ or a space
ALEFS = str.maketrans(dict.fromkeys("\u0622\u0623\u0625\u0671", "\u0627"))  # madda, hamza above/below, wasla
ARABIC_DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩", "0123456789")
TATWEEL = "\u0640"


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


def _basic(text: str) -> str:
    """Lower case, no bracketed asides, symbols and punctuation to spaces; letters and their marks stay."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"[<\[][^>\]]*[>\]]|\([^)]*\)", " ", text)
    return " ".join("".join(" " if unicodedata.category(c)[0] in "SPC" else c for c in text).split())


def _arabic(text: str) -> str:
    """Alef forms folded before anything is deleted; then diacritics and foreign letters go; ta marbuta stays."""
    text = unicodedata.normalize("NFC", text).translate(ALEFS).translate(ARABIC_DIGITS).replace(TATWEEL, "")
    text = re.sub(r"[\u064b-\u065f\u0670\u06d6-\u06ed]", "", text)  # marks vanish; the word stays whole
    return " ".join(ARABIC_DROPPED.sub(" ", text).split())


def fold_chinese(text: str) -> str:
    """Traditional characters as simplified ones, one for one."""
    return str(_traditional_to_simplified().convert(text)) if re.search(rf"[{HAN}]", text) else text


def normalise(text: str, language: str) -> str:
    """The text with what does not count taken away: case, punctuation, variants of spelling, per language.

    English goes through Whisper's English normaliser, which removes fillers ("um") and spells numbers as digits.
    """
    if language == "en":
        said = str(_english()(text)).split()  # it leaves points and dashes that stand alone
        return " ".join(word for word in said if not all(unicodedata.category(c)[0] == "P" for c in word))
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


def characters(text: str) -> list[str]:
    """The units of CER: code points in composed form; a space between words is one of them."""
    return list(unicodedata.normalize("NFC", text))


def mixed_units(text: str) -> list[str]:
    """The units of MER (K2D): Chinese characters and the words of other scripts, folded and in lower case."""
    return UNIT.findall(fold_chinese(_basic(text)))
