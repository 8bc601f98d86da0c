"""Training windows of the demo models: 5 s of the lab's speech as log-mel features, and token targets; computed once.

One window in two holds one clip. The others are cut from a stream of sentences, because recordings longer than a
window are read window by window: complete sentences are `<|start|> text <|end|>`; of a sentence that the window's end
cuts, only `<|start|>` is written, which tells `generate` to continue there.
"""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from shapes import FRAMES, MELS, SAMPLE_RATE, WINDOW, WINDOW_SAMPLES, WINDOWS, WORK
from transformers import WhisperFeatureExtractor, WhisperTokenizer

from stillsmall.speech_lab import corpus as lab
from stillsmall.speech_lab import espeak, rooms, voices

# Domain -> share of the windows. The strong noise of en-noisy is left out: the teacher shall be visibly worse there.
MIXTURE = {
    **{"en-us": 22, "en-gb": 17, "en-scot": 9, "en-carib": 9, "zh-en": 21},
    **{"en-noisy-light": 9, "en-room": 6, "en-phone": 6, "trouble": 1},
}
EASY = ("en-us", "en-gb")
STREAMED = 0.5  # share of windows cut from a stream
STAMPED_STREAM, STAMPED_CLIP = 0.7, 0.25  # share of those with timestamps
LEAD_IN = (0.0, 1.6)  # s of pause before the first sentence of a stream's window
OVERHANG = 0.06  # s of the sentence before, where the previous window's end was predicted early
NOTICEABLE = 0.12  # s of a cut sentence without which its start is not written
ACCENTS = {"en": "en-us", "zh": "cmn"}  # one pronunciation for all accents of a language
SILENT_MARKS = dict.fromkeys(map(ord, "_|',%="))
SHARD = 500  # windows computed by one task
IGNORED = -100


@dataclass(frozen=True)
class Window:
    """Audio and its complete sentences; `cut` is the start of a sentence that the window's end cuts off."""

    audio: np.ndarray
    language: str
    segments: tuple[tuple[float, float, str], ...]
    cut: float | None
    stamped: bool


def window(number: int) -> Window:
    """Training window `number`: the same on every run."""
    chance = lab.Chance.of(f"demo-window-{number}")
    name = chance.words.choices(list(MIXTURE), weights=list(MIXTURE.values()))[0]
    if name == "trouble":
        return _nothing(chance)
    if chance.words.random() < STREAMED:
        return _stream(lab.DOMAINS[name], chance)
    clip = next(lab.clips(name, "teacher", 1, seed=0, start=number))
    return Window(clip.audio, clip.language, clip.segments, None, chance.words.random() < STAMPED_CLIP)


def is_easy(number: int) -> bool:
    """Whether a window holds one clean clip of the two most frequent accents: attention locks in soonest on those."""
    chance = lab.Chance.of(f"demo-window-{number}")
    name = chance.words.choices(list(MIXTURE), weights=list(MIXTURE.values()))[0]
    return name in EASY and chance.words.random() >= STREAMED


def _nothing(chance: lab.Chance) -> Window:
    samples = chance.words.randrange(SAMPLE_RATE, WINDOW_SAMPLES + 1)
    audio = np.zeros(samples, dtype=np.float32)
    if chance.words.random() < 0.5:
        audio += np.float32(chance.words.uniform(0.005, 0.05)) * rooms.pink(samples, chance.noise)
    return Window(rooms.finish(audio, chance.noise), chance.words.choice(("en", "zh")), (), None, stamped=False)


def _stream(domain: lab.Domain, chance: lab.Chance) -> Window:
    domain = lab.Domain(domain.grammar, domain.language, domain.accents, domain.room, lab.LONGEST_STREAMED)
    speakers = [voices.choose(domain.accents, "teacher", chance.words) for _ in range(2)]
    audio = np.zeros(WINDOW_SAMPLES, dtype=np.float32)
    _, _, before = lab.utterance(domain, "teacher", chance, speakers[0])
    overhang = chance.words.randrange(int(OVERHANG * SAMPLE_RATE) + 1)
    audio[:overhang] = before[before.size - overhang :]
    now = overhang + round(chance.words.uniform(*LEAD_IN) * SAMPLE_RATE)
    segments, cut, level = [], None, rooms.rms(before)
    while now < WINDOW_SAMPLES:
        text, _, speech = lab.utterance(domain, "teacher", chance, chance.words.choice(speakers))
        end = now + speech.size
        audio[now:end] = speech[: WINDOW_SAMPLES - now]
        if end <= WINDOW_SAMPLES:
            segments.append((now / SAMPLE_RATE, end / SAMPLE_RATE, text))
        elif WINDOW_SAMPLES - now > NOTICEABLE * SAMPLE_RATE:
            cut = now / SAMPLE_RATE
        now = end + round(chance.words.uniform(0.25, 1.5) * SAMPLE_RATE)
    stamped = cut is not None or chance.words.random() < STAMPED_STREAM
    audio = lab.through(domain, "teacher", audio, level, chance)
    return Window(rooms.finish(audio, chance.noise), domain.language, tuple(segments), cut, stamped)


class Targets:
    """Token ids of a window: what the decoder is given, and what it is asked for."""

    def __init__(self, tokenizer: WhisperTokenizer) -> None:
        self.tokenizer = tokenizer
        self.id = tokenizer.convert_tokens_to_ids

    def text(self, text: str) -> list[int]:
        """Text tokens; each text starts with a space in English, as Whisper's do."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def stamp(self, seconds: float) -> int:
        """The timestamp token nearest to a time."""
        return self.id("<|0.00|>") + round(seconds / 0.02)

    def body(self, window: Window) -> list[int]:
        """Everything between the prompt and the end of text."""
        tokens: list[int] = []
        for start, end, text in window.segments:
            words = self.text(text if window.language == "zh" else " " + text)
            tokens += [self.stamp(start), *words, self.stamp(end)] if window.stamped else words
        return tokens + ([self.stamp(window.cut)] if window.cut is not None else [])

    def pair(self, window: Window) -> tuple[list[int], list[int]]:
        """(decoder input, labels), equally long; of the forced prompt only the language (or: no speech) is asked."""
        end = self.id("<|endoftext|>")
        prompt = [self.id("<|startoftranscript|>"), self.id(f"<|{window.language}|>"), self.id("<|transcribe|>")]
        prompt += [] if window.stamped else [self.id("<|notimestamps|>")]
        first = prompt[1] if window.segments or window.cut is not None else self.id("<|nospeech|>")
        body = self.body(window)
        return prompt + body, [first] + [IGNORED] * (len(prompt) - 2) + body + [end]


def phonemes(window: Window) -> str:
    """What is said in the window's complete sentences, without stress and pauses: the targets of CTC."""
    text = " ".join(text for _, _, text in window.segments)
    return "".join(espeak.phonemes(text, ACCENTS[window.language]).translate(SILENT_MARKS).split()) if text else ""


def extractor() -> WhisperFeatureExtractor:
    """Whisper's features over the short window."""
    return WhisperFeatureExtractor(feature_size=MELS, chunk_length=WINDOW, sampling_rate=SAMPLE_RATE)


def _shard(first: int) -> int:
    import torch  # in the worker: one thread each, the workers share the cores

    torch.set_num_threads(1)
    target = WORK / "windows" / f"{first:06d}"
    if target.with_suffix(".json").exists():
        return first
    tokenizer = WhisperTokenizer.from_pretrained(WORK / "tokenizer")
    targets, features = Targets(tokenizer), extractor()
    windows = [window(number) for number in range(first, first + SHARD)]
    mel = [features(w.audio, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features[0] for w in windows]
    np.save(target.with_suffix(".part.npy"), np.stack(mel).astype(np.float16))
    target.with_suffix(".part.npy").replace(target.with_suffix(".npy"))
    rows = [{"pair": targets.pair(w), "phonemes": phonemes(w)} for w in windows]
    target.with_suffix(".part.json").write_text(json.dumps(rows))
    target.with_suffix(".part.json").replace(target.with_suffix(".json"))  # last: this file says that the shard is done
    return first


def build(windows: int = WINDOWS, workers: int = 2) -> Path:
    """All shards under the work folder; those that exist are kept."""
    folder = WORK / "windows"
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for first in pool.imap_unordered(_shard, range(0, windows, SHARD)):
            print(f"windows {first}..{first + SHARD - 1}", flush=True)
    return folder


def load(folder: Path) -> tuple[list[np.ndarray], list[dict], list[int]]:
    """Memory-mapped features by shard, (SHARD, MELS, FRAMES) each; all target rows; frames until each one's padding."""
    names = [folder / f"{first:06d}" for first in range(0, WINDOWS, SHARD)]  # by name: a window's number is its place
    shards = [np.load(name.with_suffix(".npy"), mmap_mode="r") for name in names]
    assert all(shard.shape == (SHARD, MELS, FRAMES) for shard in shards)
    rows = [row for name in names for row in json.loads(name.with_suffix(".json").read_text())]
    some = [shard[:, ::8] for shard in shards]  # a few bins tell sound from padding
    sounding = [(mel != mel[:, :, -1:]).any(1) for mel in some]
    frames = [int(FRAMES - one[::-1].argmax()) if one.any() else 2 for shard in sounding for one in shard]
    return shards, rows, frames


if __name__ == "__main__":
    build()
