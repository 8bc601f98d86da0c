"""Shapes and schedules of the two demo models, and the paths of their making."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE.parents[1] / ".stillsmall" / "demo"  # caches and checkpoints; ignored by git
SAMPLE_RATE = 16_000  # Hz
WINDOW = 5  # s; Whisper's is 30
WINDOW_SAMPLES = WINDOW * SAMPLE_RATE
FRAMES = WINDOW * 100  # log-mel frames of 10 ms
POSITIONS = FRAMES // 2  # encoder states of 20 ms, the step of the timestamps
MELS = 80
MERGES = 800
MAX_TARGET = 128  # tokens
SEED = 7
WINDOWS = 36_000  # training windows
HELD_OUT = 256  # of those, never trained on: the curve


@dataclass(frozen=True)
class Shape:
    """Size of a model and how long it is trained."""

    name: str
    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    steps: int
    peak_rate: float
    batch: int = 16
    warm_up: int = 100
    easy_steps: int = 500
    ears: str | None = (
        None  # whose frozen encoder it hears with, and whose first and last decoder layers it starts from
    )
    ctc_weight: float = 1.0  # without a CTC loss the cross-attention does not lock in within this budget


SHAPES = {
    "teacher": Shape("teacher", width=144, heads=3, encoder_layers=4, decoder_layers=4, steps=8_000, peak_rate=2.0e-3),
    "validator": Shape(
        "validator",
        width=144,
        heads=3,
        encoder_layers=4,
        decoder_layers=2,
        steps=1_000,
        peak_rate=1.0e-3,
        ears="teacher",
        easy_steps=0,
        ctc_weight=0.0,
    ),
}
