"""Phonemes by hand, K2D's checks of PER, and words that no lexicon holds."""

import random

import pytest

from stillsmall import metrics, phonemes
from stillsmall.speech_lab import sentences


def per(hypothesis: str, reference: str, language: str) -> float | None:
    return metrics.count(phonemes.of_text(reference, language), phonemes.of_text(hypothesis, language)).rate


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Church.", "en", ["tʃ", "ɜː", "tʃ"]),  # an affricate and a long vowel are one phoneme each
        ("church", "und", ["c", "h", "u", "r", "c", "h"]),  # a language without a voice: by character
        ("她很高", "zh", ["th", "ɑ", "χ", "ə", "n", "k", "ɑu"]),
        ("买 coffee", "zh", ["m", "ai", "k", "ɔ", "f", "i"]),
        ("дом ok", "ru", ["d", "o", "m", "oʊ", "k", "eɪ"]),
        ("漢字", "ja", ["汉", "字"]),  # espeak reads no kanji
        ("?! ...", "en", []),
    ],
)
def test_phonemes_are_the_engine_s_without_tones_and_stress(text, language, expected):
    assert phonemes.of_text(text, language) == expected


@pytest.mark.parametrize(("one", "other"), [("她", "他"), ("買", "賣"), ("零", "领"), ("講", "讲")])
def test_what_sounds_alike_but_for_the_tone_has_no_phoneme_error(one, other):
    assert per(one, other, "zh") == 0.0


def test_sounds_that_are_near_cost_less_than_words_that_differ():
    assert metrics.mer("machine learning", "machine burning").rate == 0.5
    assert 0 < per("machine burning", "machine learning", "en") < 0.25  # of 10 phonemes, the l


@pytest.mark.parametrize("word", ["xqzt", "བོད", "龘", "zzyzx", "q" * 300])
@pytest.mark.parametrize("language", ["en", "zh", "ta", "haw", "xx"])
def test_no_word_is_dropped_whatever_its_language(word, language):
    assert len(phonemes.of_text(f"{word} {word}", language)) >= 2
    assert per("", word, language) == 1.0


def test_every_grammar_of_the_lab_is_read_and_the_order_of_words_does_not_matter():
    chance = random.Random(5)
    drawn = [(sentences.expand(name, chance), name.split("-")[0]) for name in sentences.GRAMMARS for _ in range(40)]
    first = {pair: phonemes.of_text(*pair) for pair in drawn}
    assert all(len(found) > 2 and not any(c.isdigit() for p in found for c in p) for found in first.values())
    phonemes._pronounced.cache_clear()
    chance.shuffle(drawn)
    assert {pair: phonemes.of_text(*pair) for pair in drawn} == first
