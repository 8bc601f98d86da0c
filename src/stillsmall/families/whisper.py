"""Whisper: log-mel windows in, text by a decoder that sees the text so far. Units of loss are text positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.modeling_outputs import BaseModelOutput

from stillsmall import compute, student
from stillsmall.audio import SAMPLE_RATE
from stillsmall.config import Params, Student
from stillsmall.data import Batch, Targets, features
from stillsmall.families.base import Output
from stillsmall.students.shrinking import Shrinker
from stillsmall.teachers.greedy import Rules, Steps, decode
from stillsmall.whisper_tokens import WhisperTokens


class WhisperFamily:
    name = "whisper"

    def processor(self, source: str, revision: str | None) -> Any:
        return WhisperProcessor.from_pretrained(source, **({"revision": revision} if revision else {}))

    def load(self, source: str, revision: str | None, path: str) -> tuple[Any, Any]:
        where = {"revision": revision} if revision else {}
        model: Any = WhisperForConditionalGeneration.from_pretrained(source, dtype=torch.float32, **where)
        model.requires_grad_(False).eval()
        processor: Any = WhisperProcessor.from_pretrained(source, **where)
        compute.check_vocabulary(processor.tokenizer, model, path)
        return model, processor

    def build(self, base: Any, config: Student) -> Any:
        return student.build(base, config)

    def trim(
        self, student_: Any, processor: Any, config: Student, labels: Iterable[student.Label]
    ) -> tuple[Any, Any, student.Trimmed | None]:
        return student.trim(student_, processor, config, labels)

    def shrinker(self, student_: Any, config: Student) -> Shrinker | None:
        return student.shrinker(student_, config)

    def save(
        self, student_: Any, processor: Any, folder: Path, dtype: torch.dtype, kept: student.Trimmed | None = None
    ) -> None:
        student.save(student_, processor, folder, dtype, kept)

    def targets(self, params: Params, model: Any, processor: Any) -> Targets:
        return Targets(
            tokens=WhisperTokens.of(processor.tokenizer, model.generation_config),
            positions=model.config.max_target_positions,
            window_s=processor.feature_extractor.n_samples / SAMPLE_RATE,
            task=params.pseudo_label.task,
            seed=params.distill.seed,
            timestamp_probability=params.distill.timestamp_probability,
            previous_text_probability=params.distill.previous_text_probability,
        )

    def features(self, processor: Any, clips: Sequence[np.ndarray]) -> Tensor:
        return features(processor.feature_extractor, clips, torch.float32)

    def encoder(self, model: Any) -> Any:
        return model.model.encoder

    def blank(self, model: Any) -> int:
        return 0

    def forward(
        self, model: Any, batch: Batch, heard: Tensor | None, states: Tensor | None, hidden: bool = False
    ) -> Output:
        given = {"input_features": heard} if states is None else {"encoder_outputs": BaseModelOutput(states)}
        out = model(decoder_input_ids=batch.inputs, output_hidden_states=hidden, **given)
        return Output(out.logits, tuple(out.decoder_hidden_states) if hidden else None)

    @torch.no_grad()
    def transcribe(
        self, model: Any, processor: Any, heard: Tensor, languages: Sequence[str], params: Params
    ) -> list[str]:
        tokens = WhisperTokens.of(processor.tokenizer, model.generation_config)
        rules = Rules(tokens, model.generation_config, model.config.vocab_size, heard.device)
        task = params.pseudo_label.task
        prefix = [tokens.prefix(language, task, timestamps=False) for language in languages]
        steps = Steps(model, compute.encode(model.model.encoder, heard))
        logits = steps(torch.tensor(prefix, device=heard.device))
        room = max(1, model.config.max_target_positions - len(prefix[0]))
        made = decode(steps, logits, rules, False, room, 0.0, [0] * len(prefix))
        return [tokens.text(said) for said, _, _ in made]

    def vocabulary(self, processor: Any) -> dict[str, int]:
        found: dict[str, int] = processor.tokenizer.get_vocab()
        return found
