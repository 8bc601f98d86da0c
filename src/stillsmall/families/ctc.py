"""CTC models: waveforms in, a distribution over characters for each frame out. Units of loss are frames."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillsmall import ctc, student
from stillsmall.config import ConfigError, Params, Student
from stillsmall.ctc import Units
from stillsmall.data import LENGTH_SLACK_S, Batch, Example, padded
from stillsmall.families.base import Output
from stillsmall.objectives.base import IGNORED
from stillsmall.students.shrinking import Shrinker

NOT_HERE: dict[str, Any] = {
    "freeze": [],
    "language_embedding": None,
    "vocabulary": "full",
    "pruning": None,
}  # parts of `student`


class CtcFamily:
    """wav2vec2, HuBERT and Wav2Vec2-Conformer with a CTC head."""

    name = "ctc"

    def processor(self, source: str, revision: str | None) -> Any:
        return ctc.processor(source, revision)

    def load(self, source: str, revision: str | None, path: str) -> tuple[Any, Any]:
        model, processor = ctc.load(source, revision, torch.float32, path), ctc.processor(source, revision)
        Units.of(processor.tokenizer, model.config, path)
        return model, processor

    def build(self, base: Any, config: Student) -> Any:
        """The convolutions, some transformer layers, and the head.

        `freeze_encoder` is what fine-tuning calls the feature encoder: the convolutions. What transformers would draw
        while training is off (SpecAugment, dropped layers), and batch normalisation (Conformers) keeps its statistics:
        so the loss of a clip depends on the clip, and a run on its seed.
        """
        from transformers import AutoModelForCTC  # it looks for every library that it might use

        if config.decoder_layers is not None:
            raise ConfigError(
                f"student.decoder_layers: got {config.decoder_layers}; a {base.config.model_type} model has no "
                "decoder; give null"
            )
        for name, neutral in NOT_HERE.items():
            if (given := getattr(config, name)) != neutral:
                said = repr(given) if isinstance(given, str | list) and name != "language_embedding" else "a section"
                raise ConfigError(
                    f"student.{name}: got {said}; that is for Whisper, and {base.config.model_type} is a CTC model; "
                    f"give {'null' if neutral is None else neutral}"
                )
        layers = student.chosen_layers(config.encoder_layers, base.config.num_hidden_layers, "student.encoder_layers")
        shape = copy.deepcopy(base.config)
        shape.num_hidden_layers, shape.layerdrop, shape.apply_spec_augment = len(layers), 0.0, False
        with torch.random.fork_rng(devices=[]):  # the random start is overwritten; it must not move anyone's seed
            made: Any = AutoModelForCTC.from_config(shape)
        made.load_state_dict(_copied(base.state_dict(), f"{base.base_model_prefix}.encoder.layers.", layers))
        _still(made)
        made.to(next(base.parameters()).device)
        masked = getattr(getattr(made, made.base_model_prefix), "masked_spec_embed", None)
        if masked is not None:
            masked.requires_grad_(False)  # it stands for masked frames, and there are none
        if config.freeze_encoder:
            made.freeze_feature_encoder()
        return made

    def trim(
        self, student_: Any, processor: Any, config: Student, labels: Iterable[student.Label]
    ) -> tuple[Any, Any, student.Trimmed | None]:
        """As it is: a CTC model's few units are all kept."""
        return student_, processor, None

    def shrinker(self, student_: Any, config: Student) -> Shrinker | None:
        return None

    def save(
        self, student_: Any, processor: Any, folder: Path, dtype: torch.dtype, kept: student.Trimmed | None = None
    ) -> None:
        student.save(student_, processor, folder, dtype, kept)

    def targets(self, params: Params, model: Any, processor: Any) -> CtcTargets:
        for name in ("timestamp_probability", "previous_text_probability"):
            if given := getattr(params.distill, name):
                raise ConfigError(
                    f"distill.{name}: got {given}; a {model.config.model_type} student has neither timestamps nor "
                    "prompts to learn; give 0.0"
                )
        if params.pseudo_label.task == "translate":
            raise ConfigError(
                f"pseudo_label.task: got 'translate'; a {model.config.model_type} student writes down what it hears"
            )
        units = Units.of(processor.tokenizer, model.config, "student")
        return CtcTargets(units, lambda samples: ctc.frames(model.config, samples), params.distill.seed)

    def features(self, processor: Any, clips: Sequence[np.ndarray]) -> Tensor:
        return ctc.waveforms(processor.feature_extractor, clips)

    def encoder(self, model: Any) -> None:
        return None

    def blank(self, model: Any) -> int:
        return int(model.config.pad_token_id)

    def forward(
        self, model: Any, batch: Batch, heard: Tensor | None, states: Tensor | None, hidden: bool = False
    ) -> Output:
        """From waveforms (B, samples); how much of each is no padding follows from `batch.frames`."""
        assert heard is not None and batch.frames is not None
        lengths = [min(ctc.samples(model.config, n), heard.shape[1]) for n in batch.frames.tolist()]
        return Output(*ctc.forward(model, heard, lengths, hidden))

    @torch.no_grad()
    def transcribe(
        self, model: Any, processor: Any, heard: Tensor, languages: Sequence[str], params: Params
    ) -> list[str]:
        """Greedy text of waveforms (B, samples); the zeros at the end of a row are padding."""
        units = Units.of(processor.tokenizer, model.config, "student")
        last = (heard != 0).cumsum(1).argmax(1) + 1
        lengths = [max(ctc.samples(model.config, 1), n) for n in last.tolist()]
        best = ctc.forward(model, heard, lengths)[0].argmax(-1).tolist()
        paths = [row[: ctc.frames(model.config, n)] for row, n in zip(best, lengths, strict=True)]
        joined = ([token for token, _ in itertools.groupby(path) if token != units.blank] for path in paths)
        return [units.text(tokens) for tokens in joined]

    def vocabulary(self, processor: Any) -> dict[str, int]:
        found: dict[str, int] = processor.tokenizer.get_vocab()
        return found


@dataclass(frozen=True)
class CtcTargets:
    """Texts as units, and frames by the model's own formula of samples."""

    units: Units
    frames: Callable[[int], int]
    seed: int

    def usable(self, found: Sequence[Example]) -> tuple[list[Example], list[dict[str, str]]]:
        """(those that the model can learn, the others with the reason)."""
        reasons = [self.too_long(example) for example in found]
        skipped = [{"utt_id": e.utt_id, "reason": r} for e, r in zip(found, reasons, strict=True) if r]
        return [e for e, r in zip(found, reasons, strict=True) if not r], skipped

    def too_long(self, example: Example) -> str | None:
        """Why the model cannot learn the example; None where it can."""
        if example.duration_s > ctc.WINDOW_S + LENGTH_SLACK_S:
            return f"audio longer than {ctc.WINDOW_S:g} s"
        ids, lacking = self.units.spell(example.text)
        if lacking:
            return f"the student's vocabulary lacks {lacking} of the label"
        if not ids:
            return "label without a character of the student's vocabulary"
        if ctc.needed(ids) > self.length(example):
            return "label longer than its frames"
        return None

    def length(self, example: Example) -> int:
        """Frames, from the samples that are heard."""
        return self.frames(example.samples)

    def variants(self) -> tuple[int, ...]:
        """One: a label has neither timestamps nor a prompt."""
        return (0,)

    def variant(self, example: Example, epoch: int) -> int:
        return 0

    def collate(self, index: Sequence[int], found: Sequence[Example], variants: Sequence[int]) -> Batch:
        labels = padded([self.units.spell(example.text)[0] or [IGNORED] for example in found])
        frames = torch.tensor([self.length(example) for example in found])
        return Batch(tuple(index), tuple(e.utt_id for e in found), None, labels, frames, tuple(variants))


class StillBatchNorm(torch.nn.BatchNorm1d):
    """Batch normalisation by its running statistics, in training too: no clip's loss depends on its neighbours'."""

    def train(self, mode: bool = True) -> StillBatchNorm:
        super().train(False)
        return self


def _still(model: torch.nn.Module) -> None:
    for module in model.modules():
        if type(module) is torch.nn.BatchNorm1d:
            module.__class__ = StillBatchNorm
            module.train(False)


def _copied(state: dict[str, Tensor], prefix: str, layers: Sequence[int]) -> dict[str, Tensor]:
    """The state with only the chosen layers, numbered anew."""
    kept = {name: value for name, value in state.items() if not name.startswith(prefix)}
    for new, old in enumerate(layers):
        own = f"{prefix}{old}."
        kept |= {f"{prefix}{new}.{n[len(own) :]}": v for n, v in state.items() if n.startswith(own)}
    return kept
