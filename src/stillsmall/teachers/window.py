"""How much of its window a model encodes for a clip: all of it, as it was trained, or the clip and a margin.

Whisper pads every clip with silence to its window (30 s), and most of the time of labelling short clips goes into
encoding that. `window: clip` leaves the padding out, as whisper.cpp's `audio_ctx` does: the log-mel and the positional
embeddings are the first ones of the whole window. `window: silence` encodes as little, and gives the decoder a whole
window again: the padding's states are those that silence alone has, encoded once. No model was trained on either;
docs/labelling.md has what they cost and save.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from stillsmall.audio import SAMPLE_RATE

A = TypeVar("A", bound=Any)  # an array of numpy or torch
FRAMES_PER_POSITION = 2  # the encoder's second convolution has a stride of two
FLOOR_STEP = 0.1  # of the log-mel of silence: windows of silence are kept for as many values
FAINTEST = -1.5  # Whisper's log-mel where there is no energy at all: (log10(1e-10) + 4) / 4
DYNAMIC_RANGE = 2.0  # 80 dB below a window's loudest value is silence: 8 / 4 in its scale
STEP_S = 1.0  # lengths are rounded up to it: clips of about a length share a batch, whatever else is in the shard


def samples_for(audio: int, margin_s: float | None, whole: int) -> int:
    """Samples to encode for `audio` samples: the `whole` window (`margin_s` None), or with the margin, in steps."""
    if margin_s is None:
        return whole
    step = round(STEP_S * SAMPLE_RATE)
    wanted = audio + round(margin_s * SAMPLE_RATE)
    return min(whole, max(1, -(-wanted // step)) * step)


def log_mel(extractor: Any, audio: Sequence[np.ndarray], samples: int) -> np.ndarray:
    """(B, mels, frames) float32 of the first `samples`: what the extractor gives for its whole window, cut there.

    Whisper scales by the loudest value of a window, which is never in the padding: so the clips alone are transformed,
    and padded with the value that silence has. A frame reaches `n_fft` / 2 to both sides, so that one after the longest
    clip's end by `n_fft` is silent.
    """
    hop, whole = extractor.hop_length, extractor.n_samples
    heard = min(whole, -(-(max(map(len, audio)) + extractor.n_fft) // hop) * hop)
    made = extractor(list(audio), sampling_rate=SAMPLE_RATE, max_length=heard, return_tensors="np").input_features
    frames = samples // hop
    padding = max(0, frames - made.shape[-1])
    padded = np.pad(made, ((0, 0), (0, 0), (0, padding)), mode="edge")[..., :frames]
    return np.ascontiguousarray(padded, np.float32)


class Silence(Generic[A]):
    """The states that an encoder has for the padding of a window, encoded once per loudness of the clip before it."""

    def __init__(self, encode: Callable[[np.ndarray], A]) -> None:
        self.encode = encode  # (1, mels, frames) to states (1, positions, D)
        self.states: dict[int, A] = {}

    def after(self, features: np.ndarray, positions: int, frames: int) -> list[A]:
        """Per row of `features` (B, mels, frames), the states (1, positions, D) of a silent window from there on.

        Whisper's log-mel of silence lies a fixed range below the loudest value of the window, the clip's. `frames` are
        those of the whole window.
        """
        found = []
        for row in features:
            floor = round(max(FAINTEST, float(row.max()) - DYNAMIC_RANGE) / FLOOR_STEP)
            if floor not in self.states:
                silent = np.full((1, features.shape[1], frames), floor * FLOOR_STEP, np.float32)
                self.states[floor] = self.encode(silent)
            found.append(self.states[floor][:, positions:])
        return found


def narrowed(encoder: Any, positions: int) -> Any:
    """A Whisper encoder with a window of so many positions, on the same weights; the given one stays as it is.

    transformers' encoder refuses any other length than its configuration's, so this is a view of it with another
    configuration and the first of the positional embeddings. Raises ValueError for more positions than there are.
    """
    if positions > encoder.config.max_source_positions:
        raise ValueError(f"{positions} positions are asked of an encoder with {encoder.config.max_source_positions}")
    if positions == encoder.config.max_source_positions:
        return encoder
    view = copy.copy(encoder)
    view.__dict__["_modules"] = dict(encoder._modules)  # copied, so that setting one leaves the encoder's alone
    view.config = copy.copy(encoder.config)
    view.config.max_source_positions = view.max_source_positions = positions
    embedding = encoder.embed_positions.weight[:positions]
    view.embed_positions = torch.nn.Embedding.from_pretrained(embedding, freeze=True)
    return view
