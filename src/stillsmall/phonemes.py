"""Words to phonemes, for PER: espeak-ng's rules and dictionaries, without tones and stress; no word is dropped.

K2D (2407.10603) compares untoned Mandarin phonemes and English ones out of two lexicons; its code drops words that
neither holds. Here a grapheme-to-phoneme engine reads every word, in any language that espeak-ng has; what it cannot
read stays in the count as its characters. A phoneme is what espeak puts between two separators, in IPA: an affricate,
a diphthong or a long vowel is one ("church" is tʃ ɜː tʃ).

The library runs in this process: looking up a word takes some 30 microseconds, and depends on nothing but the word.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any

from stillsmall import text as texts

CHARS_UTF8 = 1  # espeakCHARS_UTF8
IPA = 0x02  # of espeak_TextToPhonemes: IPA, and in bits 8 to 23 the character that is put between phonemes
SEPARATED_IPA = ord("_") << 8 | IPA
NOT_SAID = re.compile(r"\([a-z-]+\)|[0-9ˈˌ|]")  # changes of language, tones, stress, pauses
TONAL = frozenset({"cmn", "yue", "hak", "th", "vi"})  # espeak turns the 3 of their tones into an IPA letter
KEPT = 1 << 17  # pronunciations that are remembered, words and runs of Chinese alike
LANGUAGES = 8  # whose words are remembered apart
LONGEST = 32  # characters looked up at once: espeak cuts what is longer than its buffers, and loops are long
VOICES = {"en": "en-us", "zh": "cmn", "no": "nb", "jw": "jv", "fr": "fr", "tl": "fil"}  # elsewhere, the code itself
SPELLED = frozenset({"ja", "ko"})  # espeak calls every Chinese character of these "Chinese letter": each is itself
SCRIPTS = {  # scripts that are not Latin: a word is read by its language's voice if that writes so, else by the first
    "CJK": ("zh", "yue"),
    "HIRAGANA": ("ja",),
    "KATAKANA": ("ja",),
    "HANGUL": ("ko",),
    "CYRILLIC": ("ru", "uk", "be", "bg", "sr", "mk", "kk", "tt", "ba", "mn", "tg"),
    "ARABIC": ("ar", "fa", "ur", "ps", "sd"),
    "HEBREW": ("he", "yi"),
    "DEVANAGARI": ("hi", "mr", "ne", "sa"),
    "BENGALI": ("bn", "as"),
    "GREEK": ("el",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "KANNADA": ("kn",),
    "MALAYALAM": ("ml",),
    "GUJARATI": ("gu",),
    "GURMUKHI": ("pa",),
    "SINHALA": ("si",),
    "THAI": ("th",),
    "GEORGIAN": ("ka",),
    "ARMENIAN": ("hy",),
    "ETHIOPIC": ("am",),
}
LATIN_TOO = frozenset({"sr"})  # writes in both
NOT_LATIN = frozenset(itertools.chain(*SCRIPTS.values())) - LATIN_TOO


def of_text(text: str, language: str) -> list[str]:
    """The phonemes of a text in a language (Whisper's code); words of other scripts in their own."""
    return of_units(texts.mixed_units(text), language)


def of_units(units: Sequence[str], language: str) -> list[str]:
    """The phonemes of a text's mixed units: a run of Chinese characters is read as a phrase, other units by word."""
    known = _words(language)
    heard = [known[unit] for unit in units]
    if None not in heard:
        return list(itertools.chain.from_iterable(heard))  # type: ignore[arg-type]
    found: list[str] = []
    run = ""
    for unit, said in zip(units, heard, strict=True):
        if said is None:
            run += unit
            continue
        found += _cut(run, language)
        found += said
        run = ""
    return found + _cut(run, language)


@functools.lru_cache(LANGUAGES)
def _words(language: str) -> texts.Remembered[list[str] | None]:
    """The phonemes of each unit that is read by itself; None for a Chinese character."""
    return texts.Remembered(lambda unit: None if texts.HAS_HAN.match(unit) else _cut(unit, language))


def _cut(part: str, language: str) -> list[str]:
    pieces = (part[at : at + LONGEST] for at in range(0, len(part), LONGEST))
    return [phoneme for piece in pieces for phoneme in _pronounced(piece, voice_of(piece, language))]


@functools.lru_cache(KEPT)
def voice_of(word: str, language: str) -> str | None:
    """espeak's name for the voice that reads a word; None: nobody can, its characters stand for themselves."""
    script = texts.script(word)
    if script == "CJK" and language in SPELLED:
        return None
    if script == "LATIN":
        spoken = "en" if language in NOT_LATIN else language
    else:
        spoken = language if language in SCRIPTS.get(script or "", (language,)) else SCRIPTS[script or ""][0]
    return VOICES.get(spoken, spoken)


@functools.lru_cache(KEPT)
def _pronounced(word: str, voice: str | None) -> tuple[str, ...]:
    """The phonemes of a word; a Chinese character that espeak does not know, and an unread word, by character."""
    said = None if voice is None else _engine().say(word, voice)
    if said and voice == "cmn" and "(en)" in said and texts.HAS_HAN.match(word):
        if len(word) > 1:
            return tuple(itertools.chain(*(_pronounced(character, voice) for character in word)))
        said = None  # it said "Chinese letter"
    said = NOT_SAID.sub("", (said or "").replace("ɜ", "") if voice in TONAL else said or "")
    phonemes = tuple(part for part in re.split(r"[_\s]+", said) if part)
    return phonemes or tuple(word)


class _Engine:
    """espeak-ng, loaded once a process; a change of voice takes ten times as long as a word."""

    def __init__(self) -> None:
        import espeakng_loader

        from stillsmall.speech_lab import espeak_server

        self.library: Any = espeak_server.load(espeakng_loader.get_library_path(), espeakng_loader.get_data_path())[0]
        self.library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.voice: str | None = None
        self.unknown: set[str] = set()

    def say(self, word: str, voice: str) -> str | None:
        """espeak's IPA with separators; None where it has no such voice."""
        if voice in self.unknown:
            return None
        if voice != self.voice:
            if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
                self.unknown.add(voice)
                return None
            self.voice = voice
        rest = ctypes.c_char_p(word.encode(errors="replace"))
        clauses = []
        while rest.value:  # each call takes one clause off the text
            clauses.append(self.library.espeak_TextToPhonemes(ctypes.byref(rest), CHARS_UTF8, SEPARATED_IPA) or b"")
        return b" ".join(clauses).decode(errors="ignore")


@functools.cache
def _engine() -> _Engine:
    return _Engine()
