"""Error rates of the demo models on sentences and voices that neither has met: the lab's `test` pool.

    python evaluate.py teacher validator

Writes measured.json beside this file and prints the table of the README.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from shapes import HERE, SAMPLE_RATE
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from stillsmall.speech_lab import corpus as lab

DOMAINS = ("en-us", "en-gb", "en-scot", "en-carib", "en-noisy-light", "en-room", "en-phone", "en-noisy", "zh-en")
CLIPS, LONG_CLIPS, SEED, BATCH = 100, 4, 1, 25
STAMPED = ("en-us", "zh-en")  # domains also read with timestamps
UNIT = re.compile(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+(?:'\w+)?")


def units(text: str) -> list[str]:
    """Lower-cased words without punctuation; Chinese characters are units of their own (so WER becomes MER)."""
    return UNIT.findall(text.lower())


def letters(text: str) -> list[str]:
    """Characters without spaces and punctuation."""
    return list("".join(units(text)))


def rate(references: Sequence[list[str]], answers: Sequence[list[str]]) -> float:
    """Errors of all texts over units of all references, in percent."""
    errors = sum(Levenshtein.distance(*pair) for pair in zip(references, answers, strict=True))
    return round(100 * errors / max(1, sum(map(len, references))), 1)


class Reader:
    """A model folder that reads audio."""

    def __init__(self, name: str) -> None:
        self.processor = WhisperProcessor.from_pretrained(HERE / name)
        self.model = WhisperForConditionalGeneration.from_pretrained(HERE / name, dtype=torch.float32).eval()

    @torch.no_grad()
    def read(self, audio: list[np.ndarray], language: str, stamped: bool = False) -> list[str]:
        """Greedy transcripts of short clips."""
        texts: list[str] = []
        for first in range(0, len(audio), BATCH):
            batch = audio[first : first + BATCH]
            features = self.processor(batch, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
            tokens = self.model.generate(features, language=language, task="transcribe", return_timestamps=stamped)
            texts += self.processor.batch_decode(tokens, skip_special_tokens=True)
        return texts

    @torch.no_grad()
    def read_long(self, audio: np.ndarray, language: str) -> str:
        """One recording longer than the window."""
        features = self.processor(
            audio, sampling_rate=SAMPLE_RATE, truncation=False, padding="longest", return_tensors="pt"
        ).input_features
        tokens = self.model.generate(features, language=language, task="transcribe", return_timestamps=True)
        return self.processor.batch_decode(tokens, skip_special_tokens=True)[0]


def measure(reader: Reader, domain: str, stamped: bool = False) -> dict[str, float]:
    """WER (MER for zh-en) and CER of one domain."""
    clips = list(lab.clips(domain, "test", CLIPS, SEED))
    began = time.monotonic()
    answers = reader.read([clip.audio for clip in clips], clips[0].language, stamped)
    seconds = time.monotonic() - began
    return {
        "wer": rate([units(clip.text) for clip in clips], [units(text) for text in answers]),
        "cer": rate([letters(clip.text) for clip in clips], [letters(text) for text in answers]),
        "seconds_per_audio_second": round(seconds / sum(clip.audio.size / SAMPLE_RATE for clip in clips), 4),
    }


def measure_long(reader: Reader) -> dict[str, float]:
    """WER of recordings of one to three minutes, read window by window."""
    clips = list(lab.clips("en-long", "test", LONG_CLIPS, SEED))
    answers = [units(reader.read_long(clip.audio, clip.language)) for clip in clips]
    return {"wer": rate([units(clip.text) for clip in clips], answers)}


def measure_trouble(reader: Reader) -> dict[str, float]:
    """Share of recordings without speech to which it invents a text, in percent; WER of the louder of two speakers."""
    clips = list(lab.clips("trouble", "test", CLIPS, SEED))
    answers = reader.read([clip.audio for clip in clips], "en")
    pairs = list(zip(clips, answers, strict=True))
    result = {}
    for kind in ("silence", "noise"):
        texts = [text for clip, text in pairs if clip.speaker == kind]
        result[f"invented_on_{kind}"] = round(100 * sum(bool(units(text)) for text in texts) / len(texts), 1)
    spoken = [(units(clip.text), units(text)) for clip, text in pairs if clip.text]
    return result | {"wer_of_louder_speaker": rate(*zip(*spoken, strict=True))}


def evaluate(name: str) -> dict[str, dict[str, float]]:
    """All figures of one model."""
    reader = Reader(name)
    table = {domain: measure(reader, domain) for domain in DOMAINS}
    table |= {f"{domain}, timestamps": measure(reader, domain, stamped=True) for domain in STAMPED}
    return table | {"en-long, timestamps": measure_long(reader), "trouble": measure_trouble(reader)}


def main(names: list[str]) -> None:
    """Measure, keep, print."""
    measured = {name: evaluate(name) for name in names}
    (HERE / "measured.json").write_text(json.dumps(measured, indent=2) + "\n")
    print("| domain | " + " | ".join(f"{name} WER / CER %" for name in names) + " |")
    print("|---|" + "---|" * len(names))
    for domain in measured[names[0]]:
        cells = [" / ".join(str(v) for k, v in measured[name][domain].items() if "seconds" not in k) for name in names]
        print(f"| {domain} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(sys.argv[1:] or ["teacher", "validator"])
