"""The teacher through CTranslate2 (the engine of faster-whisper): converted once, then several times as fast.

Any Whisper folder or hub id is converted on first use and kept under the digest of its weights, the number type and
CTranslate2's version. CTranslate2 encodes and searches. It draws samples from a generator per thread that is seeded
once, so that a label would depend on those before it: samples (the fallback by temperature) are drawn by the model's
decoder in torch, with the seeds and the rules of the transformers backend, on CTranslate2's encoder states. It scores
no given text, so chunks of long recordings have a mean log-probability (of their words, by forced alignment) but none
per token, and no entropy. Per-token measures of short clips are those of the tokens that its rules still allow.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor

from stillsmall import cache, compute
from stillsmall.audio import SAMPLE_RATE
from stillsmall.config import ConfigError, Run, Transcribe
from stillsmall.ctc import KINDS
from stillsmall.teachers import window
from stillsmall.teachers.torch_decoder import TorchDecoder
from stillsmall.teachers.whisper import Decoded, Request, WhisperTeacher
from stillsmall.whisper_tokens import WhisperTokens

ANY_INITIAL_TIMESTAMP = 1 << 20  # where the generation config sets no limit
STORED = {"auto": "float16"}  # how weights are kept on disk; all other types are kept as they compute


class CTranslate2Teacher(WhisperTeacher):
    """`Teacher` for Whisper models in CTranslate2. `compute_type` says how it computes; `dtype` is torch's."""

    def __init__(self, config: Transcribe, run: Run, models_root: str | Path, path: str) -> None:
        super().__init__(config, run, path)
        if compute.model_type(models_root, config.model, config.revision) in KINDS:
            raise ConfigError(f"{path}.backend: got 'ctranslate2'; {config.model} is a CTC model: use transformers")
        compute.quiet()
        self.source, self.revision = compute.locate(models_root, config.model, config.revision, path)
        source = self.source
        where = self.where = {} if Path(source).is_dir() else {"revision": config.revision}
        self.processor = WhisperProcessor.from_pretrained(source, **where)
        shape: Any = WhisperConfig.from_pretrained(source, **where)
        self.generation: Any = GenerationConfig.from_pretrained(source, **where)
        self.tokens = WhisperTokens.of(self.processor.tokenizer, self.generation)
        self.window_s = self.processor.feature_extractor.n_samples / SAMPLE_RATE
        self.positions = shape.max_target_positions
        self.device = compute.device(config.device).type
        self.folder = converted(source, self.revision, config.compute_type, self.processor, where)
        self.model = ctranslate2.models.Whisper(
            str(self.folder), device=self.device, compute_type=config.compute_type, intra_threads=run.threads
        )
        self._torch: TorchDecoder | None = None
        self.silence: window.Silence[np.ndarray] = window.Silence(self._states)
        # CTranslate2 detects languages only with the vocabularies that OpenAI published
        self.detects = self.model.is_multilingual or not self.tokens.languages
        if config.language not in ("per_utterance", "detect"):
            self.tokens.require_language(config.language, f"{path}.language")

    def size(self) -> tuple[int, int]:
        """The parameters are those of the model that was converted, the bytes those of the conversion."""
        with torch.device("meta"):
            model: Any = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(self.source, **self.where))
        return sum(p.numel() for p in model.parameters()), (self.folder / "model.bin").stat().st_size

    def decode(self, requests: Sequence[Request], temperature: float) -> list[Decoded]:
        states = self._encode(requests)
        if temperature > 0:
            return self.decoder.decode(self._in_torch(states), requests, temperature, self.room)
        heard = self._heard_languages(states)
        languages = [r.language or (h[0] if h else "en") for r, h in zip(requests, heard, strict=True)]
        prefixes = [self.tokens.prefix(name, self.config.task, requests[0].timestamps) for name in languages]
        prompts = [[*r.prompt, *prefix] for r, prefix in zip(requests, prefixes, strict=True)]
        limit = self.room(len(prompts[0]))
        latest = getattr(self.generation, "max_initial_timestamp_index", None)
        made = self.model.generate(
            states,
            prompts,
            beam_size=self.config.num_beams,
            max_length=max(2 * limit, limit + len(prompts[0])),  # it generates min(half of this, this - the prompt)
            return_scores=True,
            return_no_speech_prob=True,
            return_logits_vocab=self.config.num_beams == 1,
            max_initial_timestamp_index=ANY_INITIAL_TIMESTAMP if latest is None else latest,
            suppress_tokens=list(getattr(self.generation, "suppress_tokens", None) or []),
            suppress_blank=bool(getattr(self.generation, "begin_suppress_tokens", None)),
        )
        return [self._decoded(one, language, ear) for one, language, ear in zip(made, languages, heard, strict=True)]

    def _decoded(self, made: Any, language: str, ear: tuple[str, float] | None) -> Decoded:
        tokens = [t for t in made.sequences_ids[0] if t != self.tokens.end]
        tokens.append(self.tokens.end)
        logprob, entropy = _measured(made.logits[0], tokens) if made.logits else (None, None)
        mean = made.scores[0] * (len(tokens) - 1) / len(tokens)  # theirs is per token without the end
        return Decoded(tuple(tokens), language, made.no_speech_prob, ear, logprob, entropy, mean)

    def measure(self, requests: Sequence[Request], sequences: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """The mean log-probability of the words, by CTranslate2's forced alignment (without timestamps)."""
        states = self._encode(requests)
        prefix = self.tokens.prefix(requests[0].language or "en", self.config.task, True)
        words = [[t for t in tokens if t < self.tokens.end] for tokens in sequences]
        frames = [max(2, len(r.audio) // self.processor.feature_extractor.hop_length) for r in requests]
        aligned = self.model.align(states, prefix, words, frames)
        found = []
        for one, ear in zip(aligned, self._heard_languages(states), strict=True):
            chances = np.maximum(np.asarray(one.text_token_probs, np.float64), np.finfo(np.float32).tiny)
            mean = float(np.log(chances).mean()) if len(chances) else None
            language, chance = ear or (None, None)
            found.append({"mean_logprob": mean, "heard_language": language, "heard_language_prob": chance})
        return found

    def _encode(self, requests: Sequence[Request]) -> Any:
        """(B, positions, D), where CTranslate2 computes."""
        features = self.log_mel(requests)
        states = self.model.encode(ctranslate2.StorageView.from_array(features))
        if self.config.window == "silence" and features.shape[-1] < self.frames:
            silence = self.silence.after(features, states.shape[1], self.frames)
            joined = np.concatenate([_plain(states), np.concatenate(silence)], 1)
            return ctranslate2.StorageView.from_array(joined).to(states.dtype)  # it takes states of the CPU, too
        return states

    def _states(self, features: np.ndarray) -> np.ndarray:
        return _plain(self.model.encode(ctranslate2.StorageView.from_array(features)))

    @property
    def decoder(self) -> TorchDecoder:
        """The model's decoder in torch, loaded when it is first asked: for samples, and to hear languages."""
        if self._torch is None:
            compute.set_threads(self.run.threads)
            kind = compute.dtype(self.config.dtype)
            model: Any = WhisperForConditionalGeneration.from_pretrained(self.source, dtype=kind, **self.where)
            del model.model.encoder
            model = model.to(self.device).eval()
            self._torch = TorchDecoder(model, self.tokens, self.config.task, self.run.seed)
        return self._torch

    def _in_torch(self, states: Any) -> torch.Tensor:
        """CTranslate2's encoder states (B, positions, D) on torch's device, as `dtype`."""
        return torch.from_numpy(_plain(states)).to(self.device, compute.dtype(self.config.dtype))

    def _heard_languages(self, states: Any) -> list[tuple[str, float] | None]:
        """The likeliest language of each window and its share among all."""
        if not self.tokens.languages:
            return [None] * states.shape[0]
        if not self.detects:
            return self.decoder.hear(self._in_torch(states))
        return [(one[0][0].strip("<|>"), float(one[0][1])) for one in self.model.detect_language(states)]


def _plain(states: Any) -> np.ndarray:
    """CTranslate2's states as float32 on the CPU."""
    return np.array(states.to_device(ctranslate2.Device.cpu).to(ctranslate2.DataType.float32))


def _measured(
    logits: Sequence[Any], tokens: Sequence[int]
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """(log-probabilities, entropies) of tokens from one row of logits a step; None where the end was never reached."""
    if len(logits) != len(tokens):
        return None, None
    table = np.stack([np.asarray(row, np.float32).reshape(-1) for row in logits])
    table -= table.max(1, keepdims=True)
    chances = np.exp(table)
    total = chances.sum(1, keepdims=True)
    table -= np.log(total)
    chances /= total
    logprob = table[np.arange(len(tokens)), list(tokens)]
    entropy = -np.where(chances > 0, chances * table, 0).sum(1)
    return tuple(logprob.tolist()), tuple(entropy.tolist())


def converted(source: str, revision: str, compute_type: str, processor: Any, where: dict[str, Any]) -> Path:
    """The folder of the converted model, made on first use: whole or not at all, tokenizer and features beside it."""
    kind = STORED.get(compute_type, compute_type)
    key = cache.digest([revision, kind, ctranslate2.__version__])
    folder = cache.ROOT / "ctranslate2" / key
    if (folder / "model.bin").is_file():
        return folder
    partial = folder.with_name(f".{key}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        ctranslate2.converters.TransformersConverter(source, **where).convert(str(partial), quantization=kind)
        processor.tokenizer.save_pretrained(partial)
        processor.feature_extractor.save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:
            if not (folder / "model.bin").is_file():  # another process was first otherwise, with the same bytes
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
