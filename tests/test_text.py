"""Normalisers and units, language by language."""

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
