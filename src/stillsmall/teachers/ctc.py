"""CTC models as teachers, validators and judged students: greedy decoding of frames, measured as labels are.

Greedy: the likeliest unit of each frame, repeats joined, blanks left out. What such a model lacks (beams, samples,
timestamps as tokens, prompts, translation, a language that it hears) is refused or null, never imitated.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillsmall import compute, ctc, manifest
from stillsmall.audio import SAMPLE_RATE
from stillsmall.config import ConfigError, Run, Transcribe
from stillsmall.ctc import Units
from stillsmall.metrics import compression_ratio
from stillsmall.teachers.base import Clip, Failed, Hypothesis, Segment
from stillsmall.teachers.batching import Batches, Trouble
from stillsmall.teachers.longform import cuts

PAUSE_S = 0.5  # a silence of this length ends a segment
NEUTRAL: dict[str, Any] = {
    "task": "transcribe",
    "num_beams": 1,
    "temperatures": [0.0],
    "condition_on_previous_text": False,
    "max_new_tokens": None,
    "window": "full",  # a clip is heard at its own length in any case
}


@dataclass(frozen=True)
class Decoded:
    """What was heard in one clip. Per unit: its frames (first, last), log-probability and entropy at its best frame."""

    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    logprob: tuple[float, ...]
    entropy: tuple[float, ...]
    mean_logprob: float | None = None


class CtcTeacher:
    """`Teacher` for CTC models in torch. A recording longer than the window is cut at quiet places, whole."""

    window_s = ctc.WINDOW_S

    def __init__(self, config: Transcribe, run: Run, models_root: str | Path, path: str) -> None:
        refuse(config, path)
        self.config, self.path = config, path
        compute.quiet()
        compute.set_threads(run.threads)
        source, self.revision = compute.locate(models_root, config.model, config.revision, path)
        self.device, self.dtype = compute.device(config.device), compute.dtype(config.dtype)
        self.processor = ctc.processor(source, config.revision)
        self.model = ctc.load(source, config.revision, self.dtype, path).to(self.device)
        self.units = Units.of(self.processor.tokenizer, self.model.config, path)
        self.batches = Batches(config.batch_size, path, self.release)

    def size(self) -> tuple[int, int]:
        """(parameters, bytes of the weights as they are computed with)."""
        held = list(self.model.parameters())
        return sum(p.numel() for p in held), sum(p.numel() * p.element_size() for p in held)

    def release(self) -> None:
        """Gives back what memory it can, after a batch was too large."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def transcribe(self, clips: Sequence[Clip]) -> list[list[Hypothesis] | Failed]:
        """Per clip, in order: one hypothesis, one per stretch where it is longer than the window, or why none."""
        parts = [(number, start, part) for number, clip in enumerate(clips) for start, part in self._parts(clip)]
        order = sorted(
            range(len(parts)), key=lambda i: len(parts[i][2].audio)
        )  # clips of a length pad each other least
        made = dict(zip(order, self.batches.run([parts[i][2].audio for i in order], self.decode), strict=True))
        found: list[list[Hypothesis] | Failed] = [[] for _ in clips]
        for i, (number, start, part) in enumerate(parts):
            said, rows = made[i], found[number]
            if isinstance(rows, Failed):
                continue
            if isinstance(said, Trouble):
                found[number] = Failed(clips[number].utt_id, said.reason, said.detail)
            else:
                end = start + part.duration_s
                rows.append(replace(self._row(part, said), parent=clips[number].utt_id, start_s=start, end_s=end))
        return found

    @torch.inference_mode()
    def decode(self, audio: Sequence[np.ndarray]) -> list[Decoded]:
        """Clips of at most a window, in one batch."""
        least = ctc.samples(self.model.config, 1)
        heard = [np.pad(clip, (0, max(0, least - len(clip)))) for clip in audio]
        values = ctc.waveforms(self.processor.feature_extractor, heard).to(self.device, self.dtype)
        logits, _ = ctc.forward(self.model, values, [len(clip) for clip in heard])
        logprobs = logits.float().log_softmax(-1)
        counts = [ctc.frames(self.model.config, len(clip)) for clip in heard]
        best, entropy = logprobs.max(-1), -(logprobs.exp() * logprobs).sum(-1)
        frames = zip(best.indices.tolist(), best.values.tolist(), entropy.tolist(), counts, strict=True)
        said = [_decoded(ids[:n], chances, spread, self.units.blank) for ids, chances, spread, n in frames]
        total = self._likelihood(logprobs, counts, [one.tokens for one in said])
        return [
            replace(one, mean_logprob=whole / len(one.tokens) if one.tokens else None)
            for one, whole in zip(said, total, strict=True)
        ]

    def _likelihood(self, logprobs: Tensor, counts: list[int], said: Sequence[Sequence[int]]) -> list[float]:
        """log P(units | audio) over all alignments, per clip: as comparable a figure as a decoder's sum over tokens."""
        lengths = torch.tensor([len(ids) for ids in said])
        targets = torch.tensor([i for ids in said for i in ids], dtype=torch.long, device=logprobs.device)
        frames = torch.tensor(counts)
        found = torch.nn.functional.ctc_loss(
            logprobs.transpose(0, 1), targets, frames, lengths, blank=self.units.blank, reduction="none"
        )
        return [-value for value in found.tolist()]

    def _parts(self, clip: Clip) -> list[tuple[float, Clip]]:
        """(seconds from the clip's start, a stretch of it), at most a window long; nothing is lost."""
        if clip.duration_s <= self.window_s:
            return [(0.0, clip)]
        return [
            (first / SAMPLE_RATE, Clip(f"{clip.utt_id}#{round(first * 1000 / SAMPLE_RATE):08d}", audio, clip.language))
            for first, audio in cuts(clip, round(self.window_s * SAMPLE_RATE))
        ]

    def _row(self, clip: Clip, made: Decoded) -> Hypothesis:
        text = self.units.text(made.tokens)
        language = self.config.language
        if language == "per_utterance":
            language = clip.language or manifest.UNDETERMINED
        return Hypothesis(
            clip.utt_id,
            clip.utt_id,
            0.0,
            clip.duration_s,
            language,
            text,
            self._segments(clip, made, text),
            made.tokens,
            token_logprob=made.logprob,
            token_entropy=made.entropy,
            mean_logprob=made.mean_logprob,
            mean_entropy=float(np.mean(made.entropy)) if made.entropy else None,
            compression_ratio=compression_ratio(text),
        )

    def _segments(self, clip: Clip, made: Decoded, text: str) -> tuple[Segment, ...]:
        """With `timestamps` what stands between pauses, timed by its frames; otherwise one segment, the clip."""
        if not text:
            return ()
        if not self.config.timestamps:
            return (Segment(0.0, round(clip.duration_s, 3), text),)
        step = int(np.prod(self.model.config.conv_stride)) / SAMPLE_RATE
        space, found = self.units.ids.get(" "), list[tuple[int, int, list[int]]]()
        for token, (first, last) in zip(made.tokens, made.spans, strict=True):
            if token == space:
                if found:
                    found[-1][2].append(token)
            elif not found or ((first - found[-1][1]) * step >= PAUSE_S and found[-1][2][-1] == space):
                found.append((first, last, [token]))
            else:
                found[-1] = (found[-1][0], last, [*found[-1][2], token])
        timed = ((first * step, min((last + 1) * step, clip.duration_s), ids) for first, last, ids in found)
        return tuple(Segment(round(a, 3), round(b, 3), said) for a, b, ids in timed if (said := self.units.text(ids)))


def refuse(config: Transcribe, path: str) -> None:
    """ConfigError for what a CTC model cannot be asked."""
    for name, only in NEUTRAL.items():
        if (given := getattr(config, name)) != only:
            raise ConfigError(
                f"{path}.{name}: got {given!r}; {config.model} is a CTC model, which is decoded greedily, frame by "
                f"frame; give {'null' if only is None else repr(only)}"
            )
    if config.language == "detect":
        raise ConfigError(
            f"{path}.language: got 'detect'; {config.model} is a CTC model, which hears no language; give "
            "per_utterance (the manifest's) or a code such as en"
        )


def _decoded(ids: Sequence[int], chances: Sequence[float], spread: Sequence[float], blank: int) -> Decoded:
    """The path of one clip, read: repeats joined, blanks left out."""
    runs: list[tuple[int, int, int]] = []  # first frame, last frame, likeliest frame
    for at, token in enumerate(ids):
        if token != blank and at and ids[at - 1] == token:
            first, _, best = runs[-1]
            runs[-1] = (first, at, at if chances[at] > chances[best] else best)
        elif token != blank:
            runs.append((at, at, at))
    tokens, spans = tuple(ids[best] for _, _, best in runs), tuple((first, last) for first, last, _ in runs)
    logprob, entropy = (tuple(row[best] for _, _, best in runs) for row in (chances, spread))
    return Decoded(tokens, spans, logprob, entropy)
