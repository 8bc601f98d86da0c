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
    sure_heard = heard[0] is not None and (heard[1] or 0.0) >= least_probability
    sure_written = written[0] is not None and (written[1] or 0.0) >= least_probability
    if not sure_heard and not sure_written:
        return None
    letters, switched = _letters(text)
    voices = [heard[0]] if sure_heard else []
    if sure_written and letters >= least_letters and not switched:
        voices.append(written[0])
    if any(name and same(name) != same(declared) for name in voices):
        return None if switched else True
    return False if voices else None


def _letters(text: str) -> tuple[int, bool]:
    """How many letters of an alphabet a text is worth, and whether it is in two scripts."""
    counts = texts.scripts(text)
    counts["CJK"] += sum(counts.pop(name, 0) for name in JAPANESE)
    letters = sum(counts.values())
    switched = letters - max(counts.values(), default=0) >= SECOND_SCRIPT * max(letters, 1)
    return letters + (CHINESE_LETTERS - 1) * counts["CJK"], switched


def same(language: str) -> str:
    """One name for languages that are the same in writing."""
    return ALIASES.get(language, language)
