"""Whisper's token grammar: prefixes, timestamps, prompts, and segments read back out of what was generated.

<|startofprev|> previous text  <|startoftranscript|><|en|><|transcribe|>  <|0.00|> a sentence<|2.40|>  <|endoftext|>
[--- prompt, no loss -------][--- prefix, no loss ----------------------][--- target -------------------------]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stillsmall.text import lead

TIME_STEP_S = 0.02


class TokenError(ValueError):
    """A model or tokenizer without a token that is asked of it."""


@dataclass(frozen=True)
class WhisperTokens:
    """The ids of one model's special tokens, and the sequences made of them."""

    tokenizer: Any
    start: int
    end: int
    previous: int
    no_speech: int
    no_timestamps: int
    languages: dict[str, int]  # "en" -> id; empty for an English-only model
    tasks: dict[str, int]

    @classmethod
    def of(cls, tokenizer: Any, generation_config: Any) -> WhisperTokens:
        """Read from a tokenizer and a generation config. TokenError names what is missing."""
        vocabulary = tokenizer.get_vocab()

        def one(*names: str) -> int:
            found = [vocabulary[name] for name in names if name in vocabulary]
            if not found:
                raise TokenError(f"the tokenizer has no {' or '.join(names)}; it is not Whisper's kind")
            return int(found[0])

        languages = getattr(generation_config, "lang_to_id", None) or {}
        return cls(
            tokenizer=tokenizer,
            start=one("<|startoftranscript|>"),
            end=one("<|endoftext|>"),
            previous=one("<|startofprev|>"),
            no_speech=one("<|nospeech|>", "<|nocaptions|>"),
            no_timestamps=one("<|notimestamps|>"),
            languages={name.strip("<|>"): int(token) for name, token in languages.items()},
            tasks={name: int(token) for name, token in (getattr(generation_config, "task_to_id", None) or {}).items()},
        )

    @property
    def timestamp_begin(self) -> int:
        return self.no_timestamps + 1

    def require_language(self, language: str, path: str) -> None:
        if self.languages and language not in self.languages:
            from stillsmall.plugins import nearest

            raise TokenError(f"{path}: unknown language '{language}'; {nearest(language, self.languages)}")

    def prefix(self, language: str, task: str, timestamps: bool) -> list[int]:
        """What stands before the target: start, language, task (multilingual models only), no-timestamps mark."""
        ids = [self.start]
        if self.languages:
            self.require_language(language, "language")
            ids += [self.languages[language], self.tasks[task]]
        return ids if timestamps else [*ids, self.no_timestamps]

    def plain(self, text: str, language: str) -> list[int]:
        """Ids of text as Whisper writes it in that language; [] for no text."""
        return self.tokenizer.encode(lead(language) + text.strip(), add_special_tokens=False) if text.strip() else []

    def prompt(self, text: str, language: str, most: int) -> list[int]:
        """Previous text as a prompt of at most `most` tokens, its end kept; [] for no text."""
        ids = self.plain(text, language)
        return [self.previous, *ids[-(most - 1) :]] if ids and most > 1 else []

    def timestamp(self, seconds: float) -> int:
        return self.timestamp_begin + round(seconds / TIME_STEP_S)

    def target(self, text: str, language: str) -> list[int]:
        """Target ids of plain text, with the end of text."""
        return [*self.plain(text, language), self.end]

    def timed_target(self, segments: Sequence[tuple[float, float, str]], language: str) -> list[int]:
        """Target ids of segments, each between its two timestamps, with the end of text."""
        ids: list[int] = []
        for start, end, text in segments:
            ids += [self.timestamp(start), *self.plain(text, language), self.timestamp(end)]
        return [*ids, self.end]

    def text(self, tokens: Sequence[int]) -> str:
        """Plain text of generated ids: no special token, no timestamp, no space at the ends."""
        plain = [int(t) for t in tokens if t < self.timestamp_begin]
        return str(self.tokenizer.decode(plain, skip_special_tokens=True)).strip()

    def segments(self, tokens: Sequence[int], duration_s: float) -> list[tuple[float, float, str]]:
        """Segments read from generated ids: (start s, end s, text), times held within the audio.

        Without any timestamp the whole is one segment. A last segment that was not closed ends with the audio.
        """
        found: list[tuple[float, float, str]] = []
        start, words = 0.0, list[int]()
        for token in tokens:
            if token >= self.timestamp_begin:
                time = min((token - self.timestamp_begin) * TIME_STEP_S, duration_s)
                if words:
                    found.append((start, max(time, start), self.text(words)))
                start, words = time, []
            elif token != self.end:
                words.append(int(token))
        if words:
            found.append((start, duration_s, self.text(words)))
        return [(round(a, 3), round(b, 3), text) for a, b, text in found if text]
