"""Languages of labels: what a text says, and what may be called a mismatch."""

import random

import pytest

from stillsmall import language_identity
from stillsmall.speech_lab import sentences

LIMITS = (0.9, 20)
ENGLISH = "her brother reads quietly in the kitchen every evening"
HINDI = "वह लड़का रात को स्कूल में पत्र लिखता है"
CHINESE = "我妈妈去年在家里写了很多有意思的故事"
SWITCHED = "我妈妈去年在家里写了很多有意思的 paper and slides"


@pytest.mark.parametrize(("text", "language"), [(ENGLISH, "en"), (CHINESE, "zh"), (HINDI, "hi")])
def test_sentences_are_identified(text, language):
    found, probability = language_identity.of_text(text)
    assert found == language and 0.8 < probability <= 1.0


@pytest.mark.parametrize("text", ["", "?!", "123 456", "🙂"])
def test_what_has_no_letter_has_no_language(text):
    assert language_identity.of_text(text) == (None, None)


@pytest.mark.parametrize(
    ("declared", "text", "written", "heard", "verdict"),
    [
        ("en", ENGLISH, ("en", 0.98), (None, None), False),
        ("de", ENGLISH, ("en", 0.98), (None, None), True),  # the label is in another language
        ("en", ENGLISH, ("en", 0.98), ("de", 0.99), True),  # a model heard another one
        ("en", ENGLISH, ("en", 0.98), ("de", 0.5), False),  # and is not sure
        ("de", ENGLISH, ("en", 0.89), (None, None), None),  # the text is not clear
        ("de", "the cat", ("en", 0.99), (None, None), None),  # too short for a say
        ("de", "the cat", ("en", 0.99), ("de", 0.99), False),
        ("en", "我妈妈写书", ("zh", 0.99), (None, None), True),  # five characters are worth twenty letters
        ("zh", SWITCHED, ("en", 0.99), ("en", 0.99), None),  # code-switching: nothing speaks against Chinese
        ("zh", SWITCHED, ("en", 0.99), ("zh", 0.99), False),
        ("ja", "漢字とカナの文がここに書いてあります", ("ja", 0.99), (None, None), False),  # two alphabets, one script
        ("zh", CHINESE, ("yue", 0.95), ("yue", 0.95), False),  # the same in writing
        ("und", ENGLISH, ("en", 0.99), ("en", 0.99), None),
        ("en", "", (None, None), (None, None), None),
    ],
)
def test_a_mismatch_needs_a_sure_voice_against(declared, text, written, heard, verdict):
    assert language_identity.mismatch(declared, text, written, heard, *LIMITS) is verdict


def test_hardly_a_sentence_of_the_lab_is_called_a_mismatch():
    chance = random.Random(3)
    for grammar in sentences.GRAMMARS:
        drawn = [sentences.expand(grammar, chance) for _ in range(200)]
        rows = [(grammar.split("-")[0], text, language_identity.of_text(text), (None, None)) for text in drawn]
        assert sum(language_identity.mismatch(*row, *LIMITS) is True for row in rows) <= 2
