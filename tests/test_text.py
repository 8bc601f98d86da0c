"""Normalisers and units, language by language."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillsmall import text


def test_arabic_folds_alefs_and_drops_diacritics_but_keeps_ta_marbuta():
    assert text.normalise("أَهْلاً بِٱلْمَدْرَسَةِ ١٢", "ar") == "اهلا بالمدرسة 12"
    assert text.normalise("مـــرحبا", "ar") == "مرحبا"


def test_hindi_and_tamil_words_stay_whole():
    assert text.words(text.normalise("नमस्ते, दुनिया!", "hi"), "hi") == ["नमस्ते", "दुनिया"]
    assert text.words(text.normalise("வணக்கம் உலகம்.", "ta"), "ta") == ["வணக்கம்", "உலகம்"]


def test_chinese_is_counted_by_character_and_english_inside_it_by_word():
    assert text.words(text.normalise("我買 Coffee。", "zh"), "zh") == ["我", "买", "coffee"]


def test_punctuation_alone_normalises_to_nothing():
    for language in ("en", "zh", "ar", "hi"):
        assert text.normalise("?! ... —", language) == ""


def test_orthographic_keeps_case_and_punctuation():
    assert text.orthographic("  Hello,   World. ") == "Hello, World."


def test_segments_join_with_spaces_only_where_the_language_has_them():
    assert text.join(["Hello there.", " How are you?"], "en") == "Hello there. How are you?"
    assert text.join(["我想", "買咖啡"], "zh") == "我想買咖啡"
    assert text.join(["我要 coffee", "tea 也好"], "zh") == "我要 coffee tea 也好"


def test_a_latin_word_beside_a_wide_full_stop_stays_one_word():
    assert text.words("我們吃lunch。", "zh") == ["我", "們", "吃", "lunch", "。"]


@pytest.mark.parametrize(
    ("language", "sentence", "units"),
    [
        ("zh", "今天很好", ["今", "天", "很", "好"]),
        ("ja", "カナ漢字。", ["カ", "ナ", "漢", "字"]),
        ("th", "กขค", ["ก", "ข", "ค"]),
        ("yue", "買嘢", ["买", "嘢"]),
        ("lo", "ກຂ", ["ກ", "ຂ"]),
        ("ko", "안녕 하세요", ["안녕", "하세요"]),  # Korean has spaces
    ],
)
def test_languages_without_spaces_are_counted_by_character(language, sentence, units):
    assert text.words(text.normalise(sentence, language), language) == units


# words on which others act, or that act on others: numbers, titles, contractions, fillers, brackets, symbols
WORDS = """
    he's she'd been gone don't it's twenty one and a half two point five dollars the cat dog. Dog, uh um. O'clock mm's
    second first mr. Mrs st. half 3,000 $5 (aside) [noise colour favourite hmm, let's got cent per double 'tis A.M. café
    – … % okay] ain't one's hundreds minus plus
""".split()  # noqa: SIM905


@given(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join))
def test_english_word_by_word_is_whispers_normaliser_on_the_whole(sentence):
    assert text.normalise(sentence, "en") == text._english_whole(sentence)


NUMBERS = """
    and And, a half Half. half, hundred thousand, million two three. five six... ten twenty thirty first third double
    triple point minus plus per cent percent dollars cents pound zero o oh ones fifths the dog the cat it's uh um been
""".split()  # noqa: SIM905


@settings(max_examples=400)
@given(st.lists(st.sampled_from(NUMBERS), max_size=14).map(" ".join))
def test_spelt_out_numbers_are_read_apart_as_whispers_normaliser_reads_them_in_the_whole(sentence):
    assert text.normalise(sentence, "en") == text._english_whole(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        *(
            "the point and the dog",
            "hundred and and dog",
            "the minus uh and dog",
            "two uh and a half",
            "a dog and a half",
        ),
        *("two dollars and seven cents", "and a half dog", "five and and a half", "half and a half and a half"),
    ],
)
def test_number_words_act_on_their_neighbours_as_in_whispers_normaliser(sentence):
    assert text.normalise(sentence, "en") == text._english_whole(sentence)


def test_the_whole_sentence_is_not_read_where_numbers_stand_apart(monkeypatch):
    read = []
    monkeypatch.setattr(text, "_english_numbers", text.Remembered(lambda part: read.append(part) or "N"))
    sentence = "we sold the lamp for twenty five dollars and six cents but kept the other one and a half"
    assert text.normalise(sentence, "en") == "we sold the lamp for N but kept the other N"
    assert text.normalise("there was a dog and a half in it", "en") == "there was a N in it"
    assert read == ["twenty five dollars and six cents", "one and a half", "dog and a half"]


PIECES = [
    "ﬁne",
    "(a",
    "b)",
    "[x]",
    "<",
    "Straße",
    "ΟΔΟΣ",
    "नमस्ते",
    "१२",
    "e\u0301",
    "x" * 50,
    "½",
    "（旁",
    "白）",
    "-",
    "a–b",
]


@given(st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join))
def test_the_basic_normaliser_remembers_words_and_changes_nothing(sentence):
    import re
    import unicodedata

    whole = unicodedata.normalize("NFKC", sentence).lower()
    whole = re.sub(r"[<\[][^>\]]*[>\]]|\([^)]*\)", " ", whole)
    whole = "".join(" " if unicodedata.category(c)[0] in "SPC" else c for c in whole)
    assert text._basic(sentence) == " ".join(whole.split())


MIXED = "我們買coffee, （旁 白） [x y] 繁體 Café < ½ e\u0301 أَهْلاً ٱل مـر ١٢% a@b \u064bا".split()  # noqa: SIM905


@given(st.lists(st.sampled_from(MIXED), max_size=6).map(" ".join) | st.text(max_size=30))
def test_units_and_normalised_texts_by_the_word_are_those_of_the_whole_text(sentence):
    import unicodedata

    folded = text.fold_chinese(text._basic(sentence))
    assert text.normalise(sentence, "zh") == folded
    assert text.mixed_units(sentence) == text.UNIT.findall(folded)
    assert text.words(sentence, "ja") == text.SINGLE.findall(sentence)
    arabic = unicodedata.normalize("NFC", sentence).translate(text.ALEFS).translate(text.ARABIC_DIGITS)
    arabic = text.MARKS.sub("", arabic.replace(text.TATWEEL, ""))
    assert text.normalise(sentence, "ar") == " ".join(text.ARABIC_DROPPED.sub(" ", arabic).split())


def test_words_are_remembered_up_to_a_number_and_a_length(monkeypatch):
    monkeypatch.setattr(text, "WORDS_KEPT", 2)
    made = []
    table = text.Remembered(lambda word: made.append(word) or word.upper())
    long = "x" * 41
    assert [table[word] for word in ("a", "b", "a", long, long, "c", "a")] == [*"ABA", *[long.upper()] * 2, *"CA"]
    assert made == ["a", "b", long, long, "c", "a"]  # full at c: all is forgotten
    assert set(table) == {"a", "c"}


@given(st.text(alphabet="aб買क1 ؟", max_size=20))
def test_letters_of_a_script_are_counted_one_by_one(sentence):
    assert sum(text.scripts(sentence).values()) == sum(c.isalpha() for c in sentence)
    assert text.scripts(sentence) == sum((text.scripts(c) for c in sentence), start=text.scripts(""))


def test_scripts_are_told_by_their_letters():
    assert text.script("12 買 ok") == "CJK" and text.script("?! 12") is None
    assert text.scripts("買 ok, дом") == {"CJK": 1, "LATIN": 2, "CYRILLIC": 3}
