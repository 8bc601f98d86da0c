"""The teacher through transformers: any Whisper folder or hub id, short clips in batches, long ones sequentially.

Each batch is encoded once: the same encoder states serve decoding and the teacher-forced pass that measures it
(log-probability and entropy per token, no-speech probability at the first position).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.modeling_outputs import BaseModelOutput

from stillsmall import compute
from stillsmall.audio import SAMPLE_RATE
from stillsmall.config import Run, Transcribe
from stillsmall.metrics import compression_ratio
from stillsmall.teachers.base import Clip, Hypothesis, Segment, chunk, shift
from stillsmall.text import join
from stillsmall.whisper_tokens import WhisperTokens


class TransformersTeacher:
    """`Teacher` for Whisper models. Decoding is greedy or by beams and draws no random numbers."""

    def __init__(self, config: Transcribe, run: Run, models_root: str | Path, path: str) -> None:
        compute.quiet()
        compute.set_threads(run.threads)
        source, self.revision = compute.locate(models_root, config.model, config.revision, path)
        where = {} if Path(source).is_dir() else {"revision": config.revision}
        self.config, self.path = config, path
        self.device, self.dtype = compute.device(config.device), compute.dtype(config.dtype)
        self.processor: Any = WhisperProcessor.from_pretrained(source, **where)
        model: Any = WhisperForConditionalGeneration.from_pretrained(source, dtype=self.dtype, **where)
        self.model = model.to(self.device).eval()
        compute.check_vocabulary(self.processor.tokenizer, model, path)
        self.tokens = WhisperTokens.of(self.processor.tokenizer, model.generation_config)
        self.window_s = self.processor.feature_extractor.n_samples / SAMPLE_RATE
        if config.language not in ("per_utterance", "detect"):
            self.tokens.require_language(config.language, f"{path}.language")

    @torch.inference_mode()
    def transcribe(self, clips: Sequence[Clip]) -> list[list[Hypothesis]]:
        """Hypotheses of clips of any length; order and content do not depend on the order of computing."""
        found: dict[int, list[Hypothesis]] = {}
        short = [i for i, clip in enumerate(clips) if clip.duration_s <= self.window_s]
        short.sort(key=lambda i: clips[i].duration_s)  # clips of a length are decoded together: they end together
        for begin in range(0, len(short), self.config.batch_size):
            batch = short[begin : begin + self.config.batch_size]
            for i, hypothesis in zip(batch, self._short([clips[i] for i in batch]), strict=True):
                found[i] = [hypothesis]
        for i, clip in enumerate(clips):
            if i not in found:
                found[i] = self._long(clip)
        return [found[i] for i in range(len(clips))]

    def _encode(self, clips: Sequence[Clip]) -> BaseModelOutput:
        extract = self.processor.feature_extractor
        features = extract([c.audio for c in clips], sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        states = compute.encode(self.model.get_encoder(), features.to(self.device, self.dtype))
        return BaseModelOutput(last_hidden_state=states)

    def _languages(self, clips: Sequence[Clip], encoded: BaseModelOutput) -> list[str]:
        """Of each clip, as the configuration says: fixed, the manifest's, or what the model hears."""
        if not self.tokens.languages:
            return ["en"] * len(clips)
        if self.config.language not in ("per_utterance", "detect"):
            return [self.config.language] * len(clips)
        known = [clip.language if self.config.language == "per_utterance" else None for clip in clips]
        if None in known:
            names = {token: name for name, token in self.tokens.languages.items()}
            heard = self.model.detect_language(encoder_outputs=encoded)
            known = [name or names[int(token)] for name, token in zip(known, heard, strict=True)]
        for name in known:
            self.tokens.require_language(str(name), f"{self.path}.language (the manifest's)")
        return [str(name) for name in known]

    def _options(self, languages: list[str], timestamps: bool) -> dict[str, Any]:
        options: dict[str, Any] = {"num_beams": self.config.num_beams, "do_sample": False}
        if self.tokens.languages:
            options |= {"language": languages, "task": self.config.task}
        if self.config.max_new_tokens is not None:
            options["max_new_tokens"] = self.config.max_new_tokens
        return options | {"return_timestamps": timestamps}

    def _short(self, clips: Sequence[Clip]) -> list[Hypothesis]:
        """Clips of at most one window: one decoding each, no second look at the silence after the speech."""
        encoded = self._encode(clips)
        languages = self._languages(clips, encoded)
        timestamps = self.config.timestamps
        out = self.model.generate(
            encoder_outputs=encoded, force_unique_generate_call=True, **self._options(languages, timestamps)
        )
        sequences = [self._generated(row.tolist()) for row in (out if torch.is_tensor(out) else out["sequences"])]
        measured = self._measure(encoded, sequences, languages, timestamps)
        found = []
        for clip, tokens, language, measures in zip(clips, sequences, languages, measured, strict=True):
            text = self.tokens.text(tokens)
            segments: tuple[Segment, ...] = (Segment(0.0, round(clip.duration_s, 3), text),) if text else ()
            if timestamps:
                segments = tuple(Segment(*s) for s in self.tokens.segments(tokens, clip.duration_s))
            found.append(
                Hypothesis(clip.utt_id, clip.utt_id, 0.0, clip.duration_s, language, text, segments, tuple(tokens))
            )
            found[-1] = _with(found[-1], compression_ratio=compression_ratio(text), **measures)
        return found

    def _generated(self, sequence: list[int]) -> list[int]:
        """The generated ids alone: without the prefix, up to and with the first end of text."""
        if self.tokens.start in sequence:
            sequence = sequence[sequence.index(self.tokens.start) + 1 :]
        special = {*self.tokens.languages.values(), *self.tokens.tasks.values(), self.tokens.no_timestamps}
        while sequence and sequence[0] in special:
            sequence = sequence[1:]
        cut = sequence.index(self.tokens.end) if self.tokens.end in sequence else len(sequence)
        return [*sequence[:cut], self.tokens.end]

    def _measure(
        self, encoded: BaseModelOutput, sequences: list[list[int]], languages: list[str], timestamps: bool
    ) -> Iterator[dict[str, Any]]:
        """Teacher-forced pass over what was generated: per token log-probability and entropy, no-speech probability."""
        prefixes = [self.tokens.prefix(language, self.config.task, timestamps) for language in languages]
        inputs = [prefix + tokens[:-1] for prefix, tokens in zip(prefixes, sequences, strict=True)]
        longest = min(max(map(len, inputs)), self.model.config.max_target_positions)
        padded = torch.tensor([(i + [self.tokens.end] * longest)[:longest] for i in inputs], device=self.device)
        logits = self.model(decoder_input_ids=padded, encoder_outputs=encoded).logits.float()
        logprobs = logits.log_softmax(-1)
        for row, prefix, tokens in zip(logprobs, prefixes, sequences, strict=True):
            at = row[len(prefix) - 1 : len(prefix) - 1 + len(tokens)]
            logprob = at.gather(1, torch.tensor(tokens[: len(at)], device=self.device)[:, None])[:, 0]
            entropy = -(at.exp() * at).sum(-1)
            said = torch.tensor(
                [token < self.tokens.timestamp_begin for token in tokens[: len(at)]], device=self.device
            )
            yield {
                "token_logprob": tuple(logprob.tolist()),
                "token_entropy": tuple(entropy.tolist()),
                "mean_logprob": float(logprob[said].mean()),  # of the words and the end: times are unsure by nature
                "mean_entropy": float(entropy[said].mean()),
                "no_speech_prob": float(row[0, self.tokens.no_speech].exp()),
            }

    def _long(self, clip: Clip) -> list[Hypothesis]:
        """A recording: Whisper's sequential long-form decoding, then K2D's chunks, each measured by itself."""
        window = int(self.window_s * SAMPLE_RATE)
        head = Clip(clip.utt_id, clip.audio[:window], clip.language)
        language = self._languages([head], self._encode([head]))[0]
        extract = self.processor.feature_extractor
        inputs = extract(
            [clip.audio], sampling_rate=SAMPLE_RATE, return_tensors="pt", truncation=False, return_attention_mask=True
        )
        out = self.model.generate(
            inputs.input_features.to(self.device, self.dtype),
            attention_mask=inputs.attention_mask.to(self.device),
            return_segments=True,
            **self._options([language], timestamps=True),
        )
        segments = self._heard(out["segments"][0], clip.duration_s)
        pieces = [self._piece(clip, part) for part in chunk(segments, self.window_s)]
        found: list[Hypothesis] = []
        for begin in range(0, len(pieces), self.config.batch_size):
            found += self._measured(clip, pieces[begin : begin + self.config.batch_size], language)
        return found

    def _heard(self, raw: list[dict[str, Any]], duration_s: float) -> list[Segment]:
        """Segments with text, their times within the audio and in order."""
        found, last = [], 0.0
        for item in raw:
            start = max(last, min(float(item["start"]), duration_s))
            end = max(start, min(float(item["end"]), duration_s))
            text = self.tokens.text(item["tokens"].tolist())
            if text and end > start:
                found.append(Segment(round(start, 3), round(end, 3), text))
                last = end
        return found

    def _piece(self, clip: Clip, part: list[Segment]) -> tuple[Clip, tuple[Segment, ...]]:
        start, end = part[0].start, part[-1].end
        audio = clip.audio[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        return Clip(f"{clip.utt_id}#{round(start * 1000):08d}", audio, clip.language), shift(part, -start)

    def _measured(
        self, clip: Clip, pieces: list[tuple[Clip, tuple[Segment, ...]]], language: str
    ) -> Iterator[Hypothesis]:
        """Chunks as hypotheses, measured on their own audio, with timestamps as targets (K2D, section 3)."""
        encoded = self._encode([piece for piece, _ in pieces])
        sequences = [
            self.tokens.timed_target([(s.start, s.end, s.text) for s in parts], language) for _, parts in pieces
        ]
        most = self.model.config.max_target_positions - len(self.tokens.prefix(language, self.config.task, True))
        sequences = [tokens[:most] for tokens in sequences]
        measured = self._measure(encoded, sequences, [language] * len(pieces), True)
        for (piece, parts), tokens, measures in zip(pieces, sequences, measured, strict=True):
            start = int(piece.utt_id.rsplit("#", 1)[1]) / 1000
            text = join((s.text for s in parts), language)
            row = Hypothesis(
                piece.utt_id, clip.utt_id, start, start + piece.duration_s, language, text, parts, tuple(tokens)
            )
            yield _with(row, compression_ratio=compression_ratio(text), **measures)


def _with(row: Hypothesis, **values: Any) -> Hypothesis:
    return Hypothesis(**{**row.__dict__, **values})
