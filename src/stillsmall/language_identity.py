"""Which language a label is written in, and whether that, or what a model heard, is another one than declared.

The text is identified by py3langid (a naive Bayes model over byte n-grams, Lui and Baldwin 2011, with weights in its
wheel). It errs on a few words, on languages that are close, and on text of two languages; so a mismatch needs a clear
voice, and there is no voice where a text is short or switches script.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from stillsmall import text as texts

ALIASES = {  # what can't be told apart in writing, or only by choice of words, counts as one language
    **dict.fromkeys(("yue", "wuu"), "zh"),
    **dict.fromkeys(("ary", "arz"), "ar"),
    **dict.fromkeys(("nn", "nb"), "no"),
    **dict.fromkeys(("hr", "bs"), "sr"),
    "ms": "id",
    "jw": "jv",
    "hbo": "he",
    "grc": "el",
    "fil": "tl",
    "pcm": "en",
}
NO_LANGUAGE = "zxx"  # ISO 639: no linguistic content
CHINESE_LETTERS = 4  # letters of an alphabet that a Chinese character, a word or half of one, is worth
JAPANESE = ("HIRAGANA", "KATAKANA")  # with Chinese characters they are one script
SECOND_SCRIPT = 0.1  # of the letters: from this share on a text is in two scripts


@functools.cache
def _identifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    classify: Callable[[str], tuple[str, float]] = found.classify
    return classify


def of_text(text: str) -> tuple[str, float] | tuple[None, None]:
    """(language, probability) of a text; (None, None) where it has no letter."""
    if texts.script(text) is None:
        return None, None
    language, probability = _identifier()(text)
    return (None, None) if language == NO_LANGUAGE else (language, round(probability, 6))


def mismatch(
    declared: str,
    text: str,
    written: tuple[str | None, float | None],
    heard: tuple[str | None, float | None],
    least_probability: float,
    least_letters: int,
) -> bool | None:
    """Whether the declared language is contradicted: by what a model heard, or by what the label is written in.

    Only an identification of at least `least_probability` has a voice; the written one only where the text has
    `least_letters` letters (a Chinese character is worth four) in one script. True: some voice is against. False: there
    is a voice, and none is against. None: no language is declared ("und"), or nothing is sure. In a text of two scripts
    (code-switching) nothing speaks against the declared language: True is then impossible.
    """
    if declared == "und":
        return None
    counts = texts.scripts(text)
    counts["CJK"] += sum(counts.pop(name, 0) for name in JAPANESE)
    letters = sum(counts.values())
    switched = letters - max(counts.values(), default=0) >= SECOND_SCRIPT * max(letters, 1)
    long_enough = letters + (CHINESE_LETTERS - 1) * counts["CJK"] >= least_letters
    voices = [heard, *([written] if long_enough and not switched else [])]
    sure = [name for name, probability in voices if name and (probability or 0.0) >= least_probability]
    against = [name for name in sure if same(name) != same(declared)]
    if against:
        return None if switched else True
    return False if sure else None


def same(language: str) -> str:
    """One name for languages that are the same in writing."""
    return ALIASES.get(language, language)
