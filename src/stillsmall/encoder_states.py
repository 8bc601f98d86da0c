"""Where encoder states come from: computed live, or once into a memory-mapped file where the encoder never changes.

A frozen encoder gives the same states in every epoch. They are kept as float16 under a name made of the audio, the
labels' cuts and the encoder's weights, so another encoder or other audio can never be served from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from stillsmall import cache, compute
from stillsmall.data import Audio

BYTES_PER_GB = 10**9
Hear = Callable[[tuple[int, ...]], Tensor]  # indices of examples to what an encoder hears of them


class EncoderStates:
    """States of examples by index: (B, positions, features). `cached` says whether they come from the file."""

    def __init__(self, encoder: Any, hear: Hear, audio: Audio, audio_digest: str, budget_gb: float) -> None:
        self.encoder, self.hear, self.audio = encoder, hear, audio
        parameter = next(encoder.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.shape = (len(audio.found), encoder.config.max_source_positions, encoder.config.d_model)
        self.bytes = int(np.prod(self.shape)) * np.dtype(np.float16).itemsize
        self.cached = self.bytes <= budget_gb * BYTES_PER_GB
        self._states: np.ndarray | None = None
        self._last: tuple[tuple[int, ...], Tensor] | None = None
        weights = hashlib.sha256(save(_plain(encoder))).hexdigest()
        cuts = [[(part.parent, part.start_s, part.end_s) for part in example.parts] for example in audio.found]
        code = cache.code_digest(__name__, "stillsmall.data", "stillsmall.audio")
        key = cache.digest([audio_digest, cuts, weights, str(self.dtype), torch.get_num_threads(), code])
        self.path = cache.ROOT / "encoder" / f"{key}.f16"

    @torch.inference_mode()
    def live(self, index: Sequence[int]) -> Tensor:
        """Computed from the audio, now."""
        return compute.encode(self.encoder, self.hear(tuple(index)).to(self.device, self.dtype))

    def __call__(self, index: Sequence[int]) -> Tensor:
        if self._last is None or self._last[0] != tuple(index):
            if self._states is None:
                found = self.live(index).clone()
            else:
                found = torch.from_numpy(self._states[list(index)]).to(self.device, self.dtype)
            self._last = (tuple(index), found)  # teacher and student ask one after the other
        return self._last[1]

    def fill(self, batch_size: int, advance: Callable[[int], None]) -> None:
        """Computes what the file lacks and maps it; goes on where a kill left off. Does nothing over the budget."""
        if not self.cached:
            gigabytes = self.bytes / BYTES_PER_GB
            print(f"encoder states would take {gigabytes:.1f} GB, over distill.encoder_cache_gb: live", file=sys.stderr)
            return
        if not self.path.is_file():
            self._compute(batch_size, advance)
        self._states = np.memmap(self.path, np.float16, "r", shape=self.shape)

    def _compute(self, batch_size: int, advance: Callable[[int], None]) -> None:
        partial, progress = self.path.with_suffix(".partial"), self.path.with_suffix(".json")
        partial.parent.mkdir(parents=True, exist_ok=True)
        done = json.loads(progress.read_text())["done"] if progress.is_file() and partial.is_file() else 0
        states = np.memmap(partial, np.float16, "r+" if done else "w+", shape=self.shape)
        advance(done)
        for begin in range(done, len(states), batch_size):
            index = range(begin, min(begin + batch_size, len(states)))
            states[begin : index.stop] = self.live(index).to("cpu", torch.float16).numpy()
            if (begin // batch_size) % 16 == 15:
                states.flush()
                cache.write_json(progress, {"done": index.stop})
            advance(len(index))
        states.flush()
        del states
        os.replace(partial, self.path)
        progress.unlink(missing_ok=True)


def _plain(module: Any) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in sorted(module.state_dict().items())}


def audio_digest(split: Path) -> str:
    """The identity of a prepared split's audio."""
    return cache.digest([(p.name, cache.file_digest(p)) for p in sorted((split / "shards").glob("*.parquet"))])
