"""How much of its window a model encodes for a clip: all of it, as it was trained, or the clip and a margin.

Whisper pads every clip with silence to its window (30 s), and most of the time of labelling short clips goes into
encoding that. `window: clip` leaves the padding out, as whisper.cpp's `audio_ctx` does: the log-mel and the positional
embeddings are the first ones of the whole window. No model was trained so; docs/labelling.md has what it costs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stillsmall.audio import SAMPLE_RATE

FRAMES_PER_POSITION = 2  # the encoder's second convolution has a stride of two
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
