"""What every backend for Whisper models shares: batches, fallback, long recordings, and hypotheses made of tokens.

A backend decodes windows (`decode`) and measures given tokens (`measure`); all else is here, so that the backends
differ in speed and in the last bits, not in what they do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from stillsmall.audio import SAMPLE_RATE
from stillsmall.config import Run, Transcribe
from stillsmall.metrics import compression_ratio
from stillsmall.teachers import window
from stillsmall.teachers.base import Clip, Failed, Hypothesis, Segment, chunk, shift
from stillsmall.teachers.batching import Batches, Trouble
from stillsmall.teachers.longform import Recording, cuts
from stillsmall.text import join
from stillsmall.whisper_tokens import WhisperTokens

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Request:
    """One window to decode. `language` None: detect it. `name` seeds the sampling, if there is any."""

    name: str
    audio: np.ndarray  # (samples,), at most a window
    language: str | None
    timestamps: bool
    prompt: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decoded:
    """What a model said to a window. `tokens` end with the end of text; measures as in `Hypothesis`."""

    tokens: tuple[int, ...]
    language: str
    no_speech_prob: float | None = None
    heard: tuple[str, float] | None = None  # the likeliest language and its share among the model's
    token_logprob: tuple[float, ...] | None = None
    token_entropy: tuple[float, ...] | None = None
    mean_logprob: float | None = None  # of all tokens, where there are none per token
    temperature: float = 0.0

    @property
    def surety(self) -> float:
        """The mean log-probability of all tokens, as Whisper's thresholds have it; 0 where nothing is known."""
        known = self.mean_logprob if self.token_logprob is None else _mean(self.token_logprob)
        return 0.0 if known is None else known


class WhisperTeacher(ABC):
    """`Teacher` for Whisper models; backends set the attributes below and give `decode` and `measure`."""

    tokens: WhisperTokens
    revision: str
    window_s: float
    positions: int  # of the decoder, prompt and prefix included
    processor: Any  # transformers' WhisperProcessor

    def __init__(self, config: Transcribe, run: Run, path: str) -> None:
        self.config, self.run, self.path = config, run, path
        self.batches = Batches(config.batch_size, path, self.release)

    @abstractmethod
    def decode(self, requests: Sequence[Request], temperature: float) -> list[Decoded]:
        """Windows of one number of `samples`, whose prompts are of one length, in one batch, in order."""

    @abstractmethod
    def measure(self, requests: Sequence[Request], sequences: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """Per window (of one language, of one number of `samples`): what measures the given tokens on its audio.

        The names are those of columns of `Hypothesis`.
        """

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(parameters, bytes of the weights as they are computed with)."""

    def release(self) -> None:
        """Gives back what memory it can, after a batch was too large."""
        import gc

        gc.collect()

    def transcribe(self, clips: Sequence[Clip]) -> list[list[Hypothesis] | Failed]:
        """Hypotheses of clips of any length, or why there are none; the order of the clips changes no text."""
        found: dict[int, list[Hypothesis] | Failed] = {}
        short = [i for i, clip in enumerate(clips) if clip.duration_s <= self.window_s]
        short.sort(key=lambda i: clips[i].duration_s)  # clips of a length are decoded together: they end together
        requests = [self._request(clips[i], self.config.timestamps) for i in short]
        for i, request, made in zip(short, requests, self._all_heard(requests), strict=True):
            found[i] = _failed(clips[i], made) or [self._short(clips[i], request, made)]  # type: ignore[arg-type]
        long = [i for i in range(len(clips)) if i not in found]
        read = self._chunked if self.config.long_form == "chunked" else self._sequential
        found |= dict(zip(long, read([clips[i] for i in long]), strict=True))
        return [found[i] for i in range(len(clips))]

    def language_of(self, clip: Clip) -> str | None:
        """As the configuration says: fixed, the manifest's, or None for what the model hears. TokenError: unknown."""
        if not self.tokens.languages:
            return "en"
        if self.config.language not in ("per_utterance", "detect"):
            return self.config.language
        language = clip.language if self.config.language == "per_utterance" else None
        if language is not None:
            self.tokens.require_language(language, f"{self.path}.language (the manifest's)")
        return language

    def room(self, prefix: int) -> int:
        """Tokens that may be generated after `prefix` tokens."""
        most = self.config.max_new_tokens
        return max(1, self.positions - prefix if most is None else min(most, self.positions - prefix))

    def _request(self, clip: Clip, timestamps: bool) -> Request:
        return Request(clip.utt_id, clip.audio, self.language_of(clip), timestamps)

    def samples(self, request: Request) -> int:
        """Samples that are encoded for a window of audio: the configuration's `window`."""
        margin = None if self.config.window == "full" else self.config.clip_margin_s
        return window.samples_for(len(request.audio), margin, round(self.window_s * SAMPLE_RATE))

    def log_mel(self, requests: Sequence[Request]) -> np.ndarray:
        """(B, mels, frames) of requests of one number of samples."""
        extract = self.processor.feature_extractor
        return window.log_mel(extract, [r.audio for r in requests], max(map(self.samples, requests)))

    @property
    def frames(self) -> int:
        """Frames of the log-mel of the whole window."""
        extract = self.processor.feature_extractor
        return int(extract.n_samples // extract.hop_length)

    def _all_heard(self, requests: Sequence[Request]) -> list[Decoded | Trouble]:
        """Every request's outcome, in order; in batches of those whose prompts and windows are of one length."""
        return self._in_batches(requests, lambda r: (len(r.prompt), self.samples(r)), self._heard)

    def _in_batches(
        self, items: Sequence[T], key: Callable[[T], Any], work: Callable[[Sequence[T]], Sequence[R]]
    ) -> list[R | Trouble]:
        """Every item's result, in order; no batch has items of two keys."""
        groups: dict[Any, list[int]] = {}
        for i, item in enumerate(items):
            groups.setdefault(key(item), []).append(i)
        found: dict[int, R | Trouble] = {}
        for name in sorted(groups):
            made = self.batches.run([items[i] for i in groups[name]], work)
            found |= dict(zip(groups[name], made, strict=True))
        return [found[i] for i in range(len(items))]

    def _heard(self, requests: Sequence[Request]) -> list[Decoded]:
        """One batch at the first temperature; what comes out badly again at the next ones, each window by itself."""
        first, *others = self.config.temperatures
        found = self.decode(requests, first)
        for i, request in enumerate(requests):
            for temperature in others:
                if not self._bad(found[i]):
                    break
                found[i] = replace(self.decode([request], temperature)[0], temperature=temperature)
        return found

    def _bad(self, made: Decoded) -> bool:
        """Whisper's rule for another try: it loops, or is unsure, and somebody speaks."""
        most, least = self.config.compression_ratio_threshold, self.config.logprob_threshold
        loops = most is not None and compression_ratio(self.tokens.text(made.tokens)) > most
        unsure = least is not None and made.surety < least
        return (loops or unsure) and not self._silent(made)

    def _silent(self, made: Decoded) -> bool:
        """Whisper's rule for silence: it says so, and is unsure of the words that it gives."""
        most, least = self.config.no_speech_threshold, self.config.logprob_threshold
        sure = least is not None and made.surety >= least
        return most is not None and (made.no_speech_prob or 0.0) > most and not sure

    def _short(self, clip: Clip, request: Request, made: Decoded) -> Hypothesis:
        text = self.tokens.text(made.tokens)
        segments: tuple[Segment, ...] = (Segment(0.0, round(clip.duration_s, 3), text),) if text else ()
        if request.timestamps:
            segments = tuple(Segment(*s) for s in self.tokens.segments(made.tokens, clip.duration_s))
        row = Hypothesis(clip.utt_id, clip.utt_id, 0.0, clip.duration_s, made.language, text, segments, made.tokens)
        return replace(row, compression_ratio=compression_ratio(text), **self._measures(made))

    def _measures(self, made: Decoded) -> dict[str, Any]:
        """Columns of `Hypothesis`; the means are of the words and the end: times are unsure by nature."""
        said = [token < self.tokens.timestamp_begin for token in made.tokens]
        language, chance = made.heard or (None, None)
        known = made.token_logprob is not None
        return {
            "no_speech_prob": made.no_speech_prob,
            "heard_language": language,
            "heard_language_prob": chance,
            "token_logprob": made.token_logprob,
            "token_entropy": made.token_entropy,
            "mean_logprob": _mean(made.token_logprob, said) if known else made.mean_logprob,
            "mean_entropy": _mean(made.token_entropy, said),
        }

    def _chunked(self, clips: Sequence[Clip]) -> list[list[Hypothesis] | Failed]:
        """Windows cut at quiet places, all of them in batches; each is a hypothesis, so that all audio is covered."""
        samples, windows = round(self.window_s * SAMPLE_RATE), list[tuple[int, float, Clip]]()
        for number, clip in enumerate(clips):
            for first, audio in cuts(clip, samples):
                name = f"{clip.utt_id}#{round(first * 1000 / SAMPLE_RATE):08d}"
                windows.append((number, first / SAMPLE_RATE, Clip(name, audio, clip.language)))
        requests = [self._request(clip, timestamps=True) for _, _, clip in windows]
        found: list[list[Hypothesis] | Failed] = [[] for _ in clips]
        heard = self._all_heard(requests)
        for (number, start, clip), request, made in zip(windows, requests, heard, strict=True):
            rows, failed = found[number], _failed(clips[number], made)
            if failed or isinstance(rows, Failed):
                found[number] = failed or rows
                continue
            row = self._short(clip, request, made)  # type: ignore[arg-type]
            rows.append(replace(row, parent=clips[number].utt_id, start_s=start, end_s=start + clip.duration_s))
        return found

    def _sequential(self, clips: Sequence[Clip]) -> list[list[Hypothesis] | Failed]:
        """Whisper's sequential reading of several recordings side by side, then K2D's chunks."""
        found: list[list[Hypothesis] | Failed] = []
        for begin in range(0, len(clips), self.config.batch_size):
            part = [Recording(clip, self.language_of(clip)) for clip in clips[begin : begin + self.config.batch_size]]
            troubles: dict[int, Failed] = {}
            while left := [i for i, recording in enumerate(part) if not recording.done and i not in troubles]:
                requests = [self._window(part[i]) for i in left]
                for i, made in zip(left, self._all_heard(requests), strict=True):
                    if isinstance(made, Trouble):
                        troubles[i] = Failed(part[i].clip.utt_id, made.reason, made.detail)
                    else:
                        self._take(part[i], made)
            found += [troubles.get(i) or self._chunks(recording) for i, recording in enumerate(part)]
        return found

    def _window(self, recording: Recording) -> Request:
        samples = round(self.window_s * SAMPLE_RATE)
        prompt: list[int] = []
        if self.config.condition_on_previous_text and recording.previous:
            prompt = [self.tokens.previous, *recording.previous[-(self.positions // 2 - 1) :]]
        name = f"{recording.clip.utt_id}#{recording.at}"
        return Request(name, recording.window(samples), recording.language, True, tuple(prompt))

    def _take(self, recording: Recording, made: Decoded) -> None:
        samples = round(self.window_s * SAMPLE_RATE)
        recording.language = recording.language or made.language
        if self._silent(made):
            recording.skip(samples)
        else:
            recording.hear(made.tokens, self.tokens, samples, made.temperature)

    def _chunks(self, recording: Recording) -> list[Hypothesis] | Failed:
        """K2D's chunks of a recording, each measured by itself on its own audio, with its timestamps as targets."""
        clip, language = recording.clip, recording.language or "en"
        pieces = []
        for part in chunk(recording.segments, self.window_s):
            start, end = (round(t * SAMPLE_RATE) for t in (part[0].start, part[-1].end))
            name = f"{clip.utt_id}#{round(part[0].start * 1000):08d}"
            segments = shift(part, -part[0].start)
            tokens = self.tokens.timed_target([(s.start, s.end, s.text) for s in segments], language)
            most = self.positions - len(self.tokens.prefix(language, self.config.task, True))
            request = Request(name, clip.audio[start:end], language, True)
            pieces.append((request, segments, tokens[:most]))
        measured = self._in_batches(
            pieces, lambda p: self.samples(p[0]), lambda some: self.measure([p[0] for p in some], [p[2] for p in some])
        )
        found = []
        for (request, segments, tokens), measures in zip(pieces, measured, strict=True):
            if isinstance(measures, Trouble):
                return Failed(clip.utt_id, measures.reason, measures.detail)
            text, start_s = join((s.text for s in segments), language), int(request.name.rsplit("#", 1)[1]) / 1000
            end_s = start_s + len(request.audio) / SAMPLE_RATE
            row = Hypothesis(request.name, clip.utt_id, start_s, end_s, language, text, segments, tuple(tokens))
            found.append(replace(row, compression_ratio=compression_ratio(text), **measures))
        return found


def _failed(clip: Clip, made: object) -> Failed | None:
    return Failed(clip.utt_id, made.reason, made.detail) if isinstance(made, Trouble) else None


def _mean(values: Sequence[float] | None, chosen: Sequence[bool] | None = None) -> float | None:
    """The mean of those chosen; None where there are none."""
    if values is None:
        return None
    kept = [v for v, keep in zip(values, chosen or [True] * len(values), strict=False) if keep]
    return float(np.mean(kept)) if kept else None
