"""The teacher through transformers: any Whisper folder or hub id, on a CPU or a GPU.

Each batch is encoded once; greedy and sampled decoding are ours (`greedy.py`), beams are transformers'.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.modeling_outputs import BaseModelOutput

from stillsmall import compute
from stillsmall.audio import SAMPLE_RATE
from stillsmall.config import Run, Transcribe
from stillsmall.ctc import KINDS
from stillsmall.teachers import window
from stillsmall.teachers.base import Teacher
from stillsmall.teachers.torch_decoder import Said, TorchDecoder
from stillsmall.teachers.whisper import Decoded, Request, WhisperTeacher
from stillsmall.whisper_tokens import WhisperTokens


def teacher(config: Transcribe, run: Run, models_root: str | Path, path: str) -> Teacher:
    """The teacher that the model's type asks for: Whisper's decoder, or the frames of a CTC model."""
    if compute.model_type(models_root, config.model, config.revision) in KINDS:
        from stillsmall.teachers.ctc import CtcTeacher

        return CtcTeacher(config, run, models_root, path)
    return TransformersTeacher(config, run, models_root, path)


class TransformersTeacher(WhisperTeacher):
    """`Teacher` for Whisper models in torch. `compute_type` is CTranslate2's; here `dtype` says how it computes."""

    def __init__(self, config: Transcribe, run: Run, models_root: str | Path, path: str) -> None:
        super().__init__(config, run, path)
        compute.quiet()
        compute.set_threads(run.threads)
        source, self.revision = compute.locate(models_root, config.model, config.revision, path)
        where = {} if Path(source).is_dir() else {"revision": config.revision}
        self.device, self.dtype = compute.device(config.device), compute.dtype(config.dtype)
        self.processor = WhisperProcessor.from_pretrained(source, **where)
        model: Any = WhisperForConditionalGeneration.from_pretrained(source, dtype=self.dtype, **where)
        self.model = model.to(self.device).eval()
        compute.check_vocabulary(self.processor.tokenizer, model, path)
        self.tokens = WhisperTokens.of(self.processor.tokenizer, model.generation_config)
        self.silence: window.Silence[Tensor] = window.Silence(self._states)
        self.decoder = TorchDecoder(self.model, self.tokens, config.task, run.seed)
        self.window_s = self.processor.feature_extractor.n_samples / SAMPLE_RATE
        self.positions = model.config.max_target_positions
        if config.language not in ("per_utterance", "detect"):
            self.tokens.require_language(config.language, f"{path}.language")

    def size(self) -> tuple[int, int]:
        held = list(self.model.parameters())
        return sum(p.numel() for p in held), sum(p.numel() * p.element_size() for p in held)

    def release(self) -> None:
        super().release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def decode(self, requests: Sequence[Request], temperature: float) -> list[Decoded]:
        states, beams = self._encode(requests), self.config.num_beams > 1 and temperature == 0

        def search(languages: list[str], prefixes: list[list[int]]) -> list[Said]:
            return self._beams(states, requests, languages, prefixes)

        return self.decoder.decode(states, requests, temperature, self.room, search if beams else None)

    @torch.inference_mode()
    def measure(self, requests: Sequence[Request], sequences: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """A teacher-forced pass over the given tokens: log-probability, entropy, no-speech, and the language heard."""
        states = self._encode(requests)
        prefixes = [self.tokens.prefix(r.language or "en", self.config.task, r.timestamps) for r in requests]
        forced, first = self._forced(states, prefixes, sequences)
        silence = first.softmax(-1)[:, self.tokens.no_speech].tolist()
        found = []
        for tokens, (_, logprob, entropy), quiet, ear in zip(
            sequences, forced, silence, self.decoder.heard_languages(first), strict=True
        ):
            made = Decoded(tuple(tokens), "", quiet, ear, tuple(logprob), tuple(entropy))
            found.append(self._measures(made))
        return found

    def _encode(self, requests: Sequence[Request]) -> Tensor:
        """(B, positions, D)."""
        features = self.log_mel(requests)
        states = self._states(features)
        if self.config.window == "silence" and features.shape[-1] < self.frames:
            silence = self.silence.after(features, states.shape[1], self.frames)
            states = torch.cat([states, torch.cat(silence)], 1)
        return states

    @torch.inference_mode()
    def _states(self, features: np.ndarray) -> Tensor:
        encoder, positions = self.model.get_encoder(), features.shape[-1] // window.FRAMES_PER_POSITION
        given = torch.from_numpy(features).to(self.device, self.dtype)
        return compute.encode(window.narrowed(encoder, positions), given)

    def _forced(
        self, states: Tensor, prefixes: list[list[int]], sequences: Sequence[Sequence[int]]
    ) -> tuple[list[Said], Tensor]:
        """Per row (tokens, log-probabilities, entropies) of given tokens, and the logits (B, V) after the start."""
        inputs = [[*prefix, *tokens[:-1]] for prefix, tokens in zip(prefixes, sequences, strict=True)]
        longest = min(max(map(len, inputs)), self.positions)
        padded = self.decoder.ids([(row + [self.tokens.end] * longest)[:longest] for row in inputs])
        logits = self.model(decoder_input_ids=padded, encoder_outputs=(states,)).logits
        found = []
        for row, prefix, tokens in zip(logits, prefixes, sequences, strict=True):
            at = row[len(prefix) - 1 : len(prefix) - 1 + len(tokens)].float().log_softmax(-1)
            logprob = at.gather(1, torch.tensor(list(tokens[: len(at)]), device=self.device)[:, None])[:, 0]
            found.append((list(tokens), logprob.tolist(), (-(at.exp() * at).sum(-1)).tolist()))
        return found, logits[:, 0].float()

    def _beams(
        self, states: Tensor, requests: Sequence[Request], languages: list[str], prefixes: list[list[int]]
    ) -> list[Said]:
        """transformers' beam search, measured by a teacher-forced pass. Prompts go in one at a time."""
        if requests[0].prompt and len(requests) > 1:
            parts = [self._beams(states[i : i + 1], [r], [languages[i]], [prefixes[i]]) for i, r in enumerate(requests)]
            return [part[0] for part in parts]
        options: dict[str, Any] = {"num_beams": self.config.num_beams, "do_sample": False}
        if self.tokens.languages:
            options |= {"language": languages, "task": self.config.task}
        if requests[0].prompt:
            options["prompt_ids"] = torch.tensor(requests[0].prompt, device=self.device)
        limit = self.room(len(requests[0].prompt) + len(prefixes[0]))
        out = self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            force_unique_generate_call=True,
            return_timestamps=requests[0].timestamps,
            max_new_tokens=limit,
            **options,
        )
        rows = out if torch.is_tensor(out) else out["sequences"]
        return self._forced(states, prefixes, [self._generated(row.tolist()) for row in rows])[0]

    def _generated(self, sequence: list[int]) -> list[int]:
        """The generated ids alone: without prompt and prefix, up to and with the first end of text."""
        if self.tokens.start in sequence:
            sequence = sequence[sequence.index(self.tokens.start) + 1 :]
        special = {*self.tokens.languages.values(), *self.tokens.tasks.values(), self.tokens.no_timestamps}
        while sequence and sequence[0] in special:
            sequence = sequence[1:]
        cut = sequence.index(self.tokens.end) if self.tokens.end in sequence else len(sequence)
        return [*sequence[:cut], self.tokens.end]
