"""The lab's corpora: numbered clips of known text, speaker and segment times, in several domains and four splits.

One row: LabClip("en-noisy-test-s7-00012", "Who sold the lamp in Cairo?", "en", "en-noisy", "en-us+m4-r165-p43-v50",
audio (41_216,), ((0.18, 2.31, "Who sold the lamp in Cairo?"),))

Clip i is a function of (domain, split, seed, i) alone: work on a corpus can be cut anywhere and resumed.
"""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from stillsmall.speech_lab import rooms, sentences, voices
from stillsmall.speech_lab.espeak import SAMPLE_RATE

LONGEST_CLIP = 4.8  # s, outside en-long: fits the 5 s window of the demo models
LONGEST_SENTENCE = 4.4  # s
SHORTEST_SENTENCE = 1.2  # s
LONG_RECORDING = (60.0, 180.0)  # s
LONGEST_STREAMED = 3.3  # s, a sentence of en-long: with the longest pause before it, it still fits a 5 s window
SPEECH_RMS = (0.04, 0.12)
ENGLISHES = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-029",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-us-nyc",
)
BABBLERS = 3
Segments = tuple[tuple[float, float, str], ...]  # (start s, end s, text)
Built = tuple[np.ndarray, str, Segments]  # audio, speaker, segments


@dataclass(frozen=True)
class LabClip:
    """One recording with everything that is known about it."""

    clip_id: str
    text: str
    language: str
    domain: str
    speaker: str
    audio: np.ndarray
    segments: Segments


@dataclass(frozen=True)
class Domain:
    """What is spoken (grammar, accents) and through what (room)."""

    grammar: str
    language: str
    accents: tuple[str, ...]
    room: str = "clean"
    longest: float = LONGEST_SENTENCE


DOMAINS = {
    "en-us": Domain("en", "en", ("en-us", "en-us-nyc")),
    "en-gb": Domain("en", "en", ("en-gb", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")),
    "en-scot": Domain("en", "en", ("en-gb-scotland",)),
    "en-carib": Domain("en", "en", ("en-029",)),
    "en-noisy": Domain("en", "en", ENGLISHES, "noisy"),
    "en-noisy-light": Domain("en", "en", ENGLISHES, "noisy-light"),
    "en-room": Domain("en", "en", ENGLISHES, "reverberant"),
    "en-phone": Domain("en", "en", ENGLISHES, "phone"),
    "zh-en": Domain("zh-en", "zh", ("cmn",)),
    "ar": Domain("ar", "ar", ("ar",)),
    "hi": Domain("hi", "hi", ("hi",)),
    "ta": Domain("ta", "ta", ("ta",)),
    "trouble": Domain("en", "en", ENGLISHES, "trouble"),
    "en-long": Domain("en", "en", ENGLISHES, "long", LONGEST_STREAMED),
}
SNR = {"noisy": (0.0, 10.0), "noisy-light": (10.0, 25.0)}  # dB


@dataclass
class Chance:
    """The two random sources of one clip, both seeded by its name."""

    words: random.Random
    noise: np.random.Generator

    @classmethod
    def of(cls, clip_id: str) -> Chance:
        """The sources of a clip."""
        seed = int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "big")
        return cls(random.Random(seed), np.random.default_rng(seed))


def domains() -> tuple[str, ...]:
    """Names of all domains."""
    return tuple(DOMAINS)


def clips(domain: str, split: str, count: int, seed: int, start: int = 0) -> Iterator[LabClip]:
    """Clips `start` .. `start + count - 1` of a domain's split."""
    _known("domain", domain, DOMAINS)
    _known("split", split, sentences.POOLS)
    return (_clip(domain, split, seed, number) for number in range(start, start + count))


def _known(what: str, name: str, have: Collection[str]) -> None:
    if name not in have:
        nearest = difflib.get_close_matches(name, have, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown {what} {name!r}; did you mean {nearest!r}? Have: {', '.join(have)}")


def _clip(name: str, split: str, seed: int, number: int) -> LabClip:
    domain = DOMAINS[name]
    clip_id = f"{name}-{split}-s{seed}-{number:05d}"
    chance = Chance.of(clip_id)
    build = {"trouble": _trouble, "long": _long}.get(domain.room, _short)
    audio, speaker, segments = build(domain, split, chance)
    text = " ".join(segment[2] for segment in segments)
    return LabClip(clip_id, text, domain.language, name, speaker, rooms.finish(audio, chance.noise), segments)


def utterance(
    domain: Domain, split: str, chance: Chance, voice: voices.Voice | None = None
) -> tuple[str, str, np.ndarray]:
    """(text, speaker, speech): at a random level, no silence around it, neither too short nor too long."""
    voice = voice or voices.choose(domain.accents, split, chance.words)
    level = SPEECH_RMS[0] + (SPEECH_RMS[1] - SPEECH_RMS[0]) * chance.words.random()
    while True:  # ends: every grammar has sentences of every length in every pool
        text = sentences.sentence(domain.grammar, split, chance.words)
        speech = voice.speak(text)
        if SHORTEST_SENTENCE * SAMPLE_RATE <= speech.size <= domain.longest * SAMPLE_RATE:
            return text, voice.name, speech * np.float32(level / rooms.rms(speech))


def _short(domain: Domain, split: str, chance: Chance) -> Built:
    text, speaker, speech = utterance(domain, split, chance)
    before = round(chance.words.uniform(0.05, 0.2) * SAMPLE_RATE)
    after = round(chance.words.uniform(0.1, 0.2) * SAMPLE_RATE)
    audio = np.pad(speech, (before, after))
    segment = (round(before / SAMPLE_RATE, 3), round((before + speech.size) / SAMPLE_RATE, 3), text)
    return through(domain, split, audio, rooms.rms(speech), chance), speaker, (segment,)


def through(domain: Domain, split: str, audio: np.ndarray, level: float, chance: Chance) -> np.ndarray:
    if domain.room in SNR:
        background = noise(domain, split, audio.size, chance)
        return rooms.add_noise(audio, background, chance.words.uniform(*SNR[domain.room]), level)
    if domain.room == "reverberant":
        return rooms.reverberate(audio, chance.words.uniform(0.2, 0.7), chance.words.uniform(0.3, 1.5), chance.noise)
    return rooms.telephone(audio) if domain.room == "phone" else audio


def noise(domain: Domain, split: str, samples: int, chance: Chance) -> np.ndarray:
    kind = chance.words.choice(("white", "pink", "babble"))
    if kind == "babble":
        crowd = [utterance(domain, split, chance)[2] for _ in range(BABBLERS)]
        return rooms.babble(crowd, samples, chance.noise)
    return {"white": rooms.white, "pink": rooms.pink}[kind](samples, chance.noise)


def _trouble(domain: Domain, split: str, chance: Chance) -> Built:
    """Recordings that tempt a recogniser to invent: nothing to hear, or two at once (the louder is the reference)."""
    kind = chance.words.choice(("noise", "silence", "overlap"))
    samples = round(chance.words.uniform(1.5, LONGEST_CLIP) * SAMPLE_RATE)
    if kind == "silence":
        return np.zeros(samples, dtype=np.float32), "silence", ()
    if kind == "noise":
        level = np.float32(chance.words.uniform(0.01, 0.08))
        return level * noise(domain, split, samples, chance), "noise", ()
    audio, speaker, segments = _short(domain, split, chance)
    _, other, speech = utterance(domain, split, chance)
    second = np.pad(speech, (0, max(0, audio.size - speech.size)))[: audio.size]
    return rooms.add_noise(audio, second, chance.words.uniform(2.0, 8.0)), f"{speaker}+{other}", segments


def _long(domain: Domain, split: str, chance: Chance) -> Built:
    """One or two speakers, sentence after sentence, with pauses and a faint noise."""
    speakers = [voices.choose(domain.accents, split, chance.words) for _ in range(chance.words.choice((1, 2)))]
    length = chance.words.uniform(LONG_RECORDING[0], LONG_RECORDING[1] - LONGEST_SENTENCE - 1.5)
    pieces: list[np.ndarray] = []
    segments: list[tuple[float, float, str]] = []
    now = 0
    while now < length * SAMPLE_RATE:
        pause = round(chance.words.uniform(0.3, 1.5) * SAMPLE_RATE)
        text, _, speech = utterance(domain, split, chance, chance.words.choice(speakers))
        begin, end = now + pause, now + pause + speech.size
        segments.append((round(begin / SAMPLE_RATE, 3), round(end / SAMPLE_RATE, 3), text))
        pieces += [np.zeros(pause, dtype=np.float32), speech]
        now = end
    audio = np.concatenate(pieces)
    audio = rooms.add_noise(audio, rooms.pink(audio.size, chance.noise), chance.words.uniform(25.0, 40.0))
    return audio, "+".join(voice.name for voice in speakers), tuple(segments)
