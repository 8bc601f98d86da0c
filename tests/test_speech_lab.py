"""The offline speech lab: the same bytes always, and nothing of one split in another."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from stillsmall.speech_lab import corpus, espeak, rooms, sentences, voices
from stillsmall.speech_lab.corpus import LONGEST_CLIP, SAMPLE_RATE, clips, domains

SHORT_DOMAINS = [name for name in domains() if name != "en-long"]


def digest(clip: corpus.LabClip) -> str:
    known = repr((clip.clip_id, clip.text, clip.language, clip.domain, clip.speaker, clip.segments))
    return hashlib.sha256(clip.audio.tobytes() + known.encode()).hexdigest()


def one(domain: str, split: str = "train", number: int = 0, seed: int = 3) -> corpus.LabClip:
    return next(iter(clips(domain, split, 1, seed, start=number)))


# --- determinism


@pytest.mark.parametrize("domain", SHORT_DOMAINS)
def test_a_clip_does_not_depend_on_what_was_spoken_before(domain: str) -> None:
    in_order = [digest(clip) for clip in clips(domain, "train", 3, seed=3)]
    for number in (2, 0, 1):
        espeak.speak("Something else entirely.", "en-gb+f5", rate=90 + 50 * number)
        assert digest(one(domain, number=number)) == in_order[number]


def test_another_process_gives_the_same_bytes() -> None:
    program = (
        "import hashlib, sys; from stillsmall.speech_lab.corpus import clips\n"
        "for clip in clips('en-noisy', 'test', 2, 5, start=4): print(hashlib.sha256(clip.audio.tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    here = [hashlib.sha256(clip.audio.tobytes()).hexdigest() for clip in clips("en-noisy", "test", 2, 5, start=4)]
    assert there == here


def test_seeds_splits_and_numbers_all_matter() -> None:
    told_apart = {
        digest(one("en-us", split, number, seed)) for split in ("train", "dev") for number in (0, 1) for seed in (0, 1)
    }
    assert len(told_apart) == 8


def test_a_clip_is_named_by_what_it_depends_on() -> None:
    assert one("en-noisy", "test", number=12, seed=7).clip_id == "en-noisy-test-s7-00012"


# --- splits


@pytest.mark.parametrize("grammar", sentences.GRAMMARS)
def test_pools_share_no_sentence(grammar: str) -> None:
    chance = random.Random(0)
    pools = {split: {sentences.sentence(grammar, split, chance) for _ in range(150)} for split in sentences.POOLS}
    for split, texts in pools.items():
        assert len(texts) > 60
        assert all(texts.isdisjoint(others) for name, others in pools.items() if name != split)


def test_spelling_variants_of_a_sentence_stay_in_one_pool() -> None:
    chance = random.Random(1)
    for _ in range(50):
        text = sentences.expand("en", chance)
        assert sentences.pool(text) == sentences.pool(text.lower().rstrip(".?") + " !")


def test_every_pool_gets_its_share() -> None:
    chance = random.Random(2)
    drawn = [sentences.pool(sentences.expand("en", chance)) for _ in range(4000)]
    for split, share in sentences.POOLS.items():
        assert 100 * drawn.count(split) / len(drawn) == pytest.approx(share, abs=3)


def test_clips_say_sentences_of_their_own_pool() -> None:
    for domain in ("en-us", "zh-en", "ar", "en-noisy"):
        for split in sentences.POOLS:
            for clip in clips(domain, split, 4, seed=0):
                assert {sentences.pool(text) for _, _, text in clip.segments} == {split}


def test_nobody_speaks_in_two_splits_but_the_teachers_own() -> None:
    assert set(voices.VARIANTS["test"]).isdisjoint(
        {*voices.VARIANTS["teacher"], *voices.VARIANTS["train"], *voices.VARIANTS["dev"]}
    )
    assert set(voices.VARIANTS["train"]).isdisjoint(voices.VARIANTS["dev"])
    spoken = {split: {clip.speaker for clip in clips("en-gb", split, 30, seed=0)} for split in ("train", "dev", "test")}
    variants = {split: {re.search(r"\+(\w+)-r", name)[1] for name in names} for split, names in spoken.items()}
    for split, names in variants.items():
        assert names <= set(voices.VARIANTS[split])


# --- sentences


def test_the_vocabularies_are_wide_enough() -> None:
    assert len(sentences.vocabulary("en")) >= 600
    mixed = sentences.vocabulary("zh-en")
    assert sum(word.isascii() for word in mixed) >= 60
    assert sum("\u4e00" <= word <= "\u9fff" for word in mixed) >= 150


def test_english_is_spelled_as_whisper_spells_it() -> None:
    chance = random.Random(3)
    drawn = [sentences.expand("en", chance) for _ in range(500)]
    assert len(set(drawn)) > 480
    for text in drawn:
        assert re.fullmatch(r"[A-Z][A-Za-z ,]*[.?]", text), text
        assert "  " not in text
        assert " ," not in text


def test_english_inside_mandarin_stands_between_spaces() -> None:
    assert sentences.space_english("我 跟 boss说了 天气 。") == "我跟 boss 说了天气。"
    assert sentences.space_english("学习 deep learning 。") == "学习 deep learning。"


def test_every_slot_of_every_grammar_has_a_rule() -> None:
    for name in sentences.GRAMMARS:
        rules = sentences.grammar(name)
        used = {slot for texts in rules.values() for text in texts for slot in sentences.SLOT.findall(text)}
        assert used <= rules.keys()
        assert rules.keys() - used == {"sentence"}


# --- speech


@pytest.mark.parametrize("domain", SHORT_DOMAINS)
def test_clips_fit_the_window_and_are_sane(domain: str) -> None:
    for clip in clips(domain, "dev", 6, seed=1):
        assert clip.audio.dtype == np.float32
        assert clip.audio.ndim == 1
        assert 1.2 <= clip.audio.size / SAMPLE_RATE <= LONGEST_CLIP
        assert 0 < np.abs(clip.audio).max() <= 1
        assert clip.text == " ".join(text for _, _, text in clip.segments)
        for start, end, _ in clip.segments:
            assert 0 <= start < end <= clip.audio.size / SAMPLE_RATE


def test_segments_are_where_the_speech_is() -> None:
    for clip in clips("en-us", "train", 5, seed=2):
        ((start, end, _),) = clip.segments
        first, last = round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)
        inside = rooms.rms(clip.audio[first:last])
        assert inside > 100 * rooms.rms(clip.audio[: first - 80])
        assert inside > 100 * rooms.rms(clip.audio[last + 80 :])


def test_a_long_recording_is_sentences_and_pauses() -> None:
    clip = one("en-long", "test")
    assert 60 <= clip.audio.size / SAMPLE_RATE <= 180
    assert 1 <= len(clip.speaker.split("+en-")) <= 2
    pauses = [after[0] - before[1] for before, after in zip(clip.segments, clip.segments[1:], strict=False)]
    assert min(pauses) >= 0.299
    assert max(pauses) <= 1.501
    assert {sentences.pool(text) for _, _, text in clip.segments} == {"test"}


def test_rate_and_pitch_are_heard() -> None:
    slow, fast = (espeak.speak("The old clock is broken.", "en-us", rate=rate) for rate in (120, 200))
    assert slow.size > 1.3 * fast.size
    low, high = (espeak.speak("The old clock is broken.", "en-us", pitch=pitch) for pitch in (20, 80))
    assert not np.array_equal(low[: high.size], high[: low.size])


def test_english_words_in_mandarin_are_spoken() -> None:
    speaker = voices.Voice("cmn", "m1", 165, 50, 50)
    mixed, alone = speaker.speak("我喜欢 computer。"), speaker.speak("我喜欢。")
    assert mixed.size > 1.3 * alone.size
    longer = speaker.speak("我喜欢 refrigerator。")  # not spelled out, letter by letter: that takes far longer
    assert mixed.size < longer.size < 2 * mixed.size


def test_phonemes_tell_sounds_not_letters() -> None:
    assert espeak.phonemes("I knew the right night.", "en-us") == espeak.phonemes("I new the write knight.", "en-us")
    assert espeak.phonemes("lamp", "en-us") != espeak.phonemes("lump", "en-us")
    assert espeak.phonemes("他买书。", "cmn") == espeak.phonemes("她买书。", "cmn")
    mixed = espeak.phonemes("我们的 meeting 很好，对吗？", "cmn")
    assert "(" not in mixed
    assert len(mixed) > len(espeak.phonemes("我们的 meeting 很好，", "cmn"))  # all clauses, not the first alone


# --- rooms


@pytest.mark.parametrize("snr", [0.0, 10.0, 25.0])
@pytest.mark.parametrize("noise", [rooms.white, rooms.pink])
def test_noise_stands_at_the_stated_ratio(noise, snr: float) -> None:
    speech = espeak.speak("Nobody closed the window.", "en-us")
    noisy = rooms.add_noise(speech, noise(speech.size, np.random.default_rng(0)), snr)
    measured = 20 * np.log10(rooms.rms(speech) / rooms.rms(noisy - speech))
    assert measured == pytest.approx(snr, abs=0.05)


def test_the_noisy_domain_is_within_its_range_of_ratios() -> None:
    for clip in clips("en-noisy", "test", 8, seed=4):
        ((start, end, _),) = clip.segments
        before = clip.audio[: round(start * SAMPLE_RATE)]
        spoken = clip.audio[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        with_noise = 20 * np.log10(rooms.rms(spoken) / rooms.rms(before))
        # Speech and noise together are 3.0 dB over the noise at 0 dB, 10.4 at 10 dB; a babble's start may differ a bit.
        assert 1.0 < with_noise < 16.0
    quiet = [20 * np.log10(rooms.rms(c.audio) / rooms.rms(c.audio[:800])) for c in clips("en-us", "test", 4, seed=4)]
    assert min(quiet) > 40


def test_pink_noise_falls_by_3_db_an_octave() -> None:
    power = np.abs(np.fft.rfft(rooms.pink(1 << 18, np.random.default_rng(1)))) ** 2
    low, high = power[4096:8192].mean(), power[32768:65536].mean()  # three octaves apart
    assert 10 * np.log10(low / high) == pytest.approx(9.0, abs=0.5)


def test_the_telephone_keeps_its_band_only() -> None:
    noise = rooms.white(SAMPLE_RATE, np.random.default_rng(2))
    power = np.abs(np.fft.rfft(rooms.telephone(noise))) ** 2  # one bin a hertz
    assert 10 * np.log10(power[1000:2000].mean() / power[4500:].mean()) > 40
    assert 10 * np.log10(power[1000:2000].mean() / power[:100].mean()) > 20


def test_a_room_rings_on_after_the_voice() -> None:
    click = np.zeros(SAMPLE_RATE, dtype=np.float32)
    click[0] = 1
    answer = rooms.reverberate(click, decay=0.5, wet=1.0, generator=np.random.default_rng(3))
    assert answer[0] == pytest.approx(1.0, abs=1e-3)
    early, late = rooms.rms(answer[800:1600]), rooms.rms(answer[4800:5600])  # 0.25 s apart: half of the 60 dB
    assert 20 * np.log10(early / late) == pytest.approx(30, abs=3)
    assert rooms.rms(answer[9000:]) < 1e-4


def test_trouble_is_noise_silence_or_two_at_once() -> None:
    found = {}
    for clip in clips("trouble", "test", 20, seed=0):
        found.setdefault(clip.speaker if not clip.text else "two", clip)
    assert found.keys() == {"noise", "silence", "two"}
    assert rooms.rms(found["silence"].audio) < 2e-4
    assert rooms.rms(found["noise"].audio) > 5e-3
    assert found["noise"].segments == found["silence"].segments == ()
    assert found["two"].speaker.count("-r") == 2


# --- errors


def test_an_unknown_voice_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'en-us'"):
        espeak.speak("Hello.", "en-uss")
    with pytest.raises(ValueError, match="unknown variant 'f22'; did you mean 'f2'"):
        espeak.speak("Hello.", "en-us+f22")


def test_unknown_domains_and_splits_are_refused_before_anything_is_spoken() -> None:
    with pytest.raises(ValueError, match="unknown domain 'en-noise'; did you mean 'en-noisy'"):
        clips("en-noise", "train", 1, 0)
    with pytest.raises(ValueError, match="unknown split 'tset'; did you mean 'test'"):
        clips("en-us", "tset", 1, 0)
