"""Where somebody speaks: per 32 ms of prepared audio, a voice-activity model's probability and the level.

The model is Silero's (v6, ONNX), which comes with faster-whisper. What it says is kept per audio shard, by digest,
and is independent of labels and thresholds: a label of a stretch of a long recording takes its part of the frames.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stillsmall import audio, cache, manifest

FRAME = 512  # samples that the model looks at: 32 ms
FRAME_S = FRAME / audio.SAMPLE_RATE
SCALE = 255  # probabilities are kept as bytes
FAINTEST = 255  # dB below full scale that a byte holds; digital silence
NOTHING = 70  # dB below full scale: no microphone's own noise is that faint
ACTIVITY = pa.schema(
    [
        pa.field("utt_id", pa.string(), nullable=False),
        pa.field("level", pa.binary(), nullable=False),  # a byte a frame: RMS in dB below full scale, rounded
        pa.field("speech", pa.binary()),  # a byte a frame: probability times 255; null where no model was asked
    ]
)
Activity = tuple[bytes, bytes | None]


def measured(shard: Path, kind: str) -> dict[str, Activity]:
    """(level, speech) of every utterance of an audio shard, computed once: from the cache where it is there.

    `kind` is "silero", or "energy" for the level alone. The cache's file is written whole or not at all.
    """
    key = cache.digest(
        [cache.file_digest(shard), kind, cache.code_digest(__name__, "stillsmall.audio"), _weights(kind)]
    )
    path = cache.ROOT / "activity" / f"{shard.stem}-{key}.parquet"
    if not path.is_file():
        ((_, clips),) = manifest.audio(shard.parents[1], [shard.name])
        rows = [{"utt_id": name, **_activity(audio.decode_flac(flac), kind)} for name, flac in clips]
        manifest.write(path, rows, ACTIVITY)
    table = manifest.read(path, ACTIVITY)
    columns = (table[name].to_pylist() for name in ACTIVITY.names)
    return {name: (level, speech) for name, level, speech in zip(*columns, strict=True)}


def _activity(samples: audio.Samples, kind: str) -> dict[str, bytes | None]:
    speech = None
    if kind == "silero":
        speech = np.rint(probabilities(samples) * SCALE).astype(np.uint8).tobytes()
    return {"level": levels(samples).tobytes(), "speech": speech}


def levels(samples: audio.Samples) -> NDArray[np.uint8]:
    """RMS of each frame in dB below full scale, (frames,); the last frame may be a part of one."""
    count = -(-len(samples) // FRAME)
    sums = np.square(np.pad(samples, (0, count * FRAME - len(samples))), dtype=np.float64).reshape(count, FRAME).sum(1)
    sizes = np.minimum(FRAME, len(samples) - FRAME * np.arange(count))
    rms = np.sqrt(sums / sizes)
    return np.rint(np.clip(-20 * np.log10(np.maximum(rms, 1e-30)), 0, FAINTEST)).astype(np.uint8)


def probabilities(samples: audio.Samples) -> NDArray[np.float32]:
    """Of speech in each frame, (frames,) in 0..1; the model's memory starts anew with each clip."""
    count = -(-len(samples) // FRAME)
    padded = np.pad(samples, (0, (count + 1) * FRAME - len(samples)))  # the model zeroes the end of its last frame
    return np.asarray(_model()(padded), np.float32).reshape(-1)[:count]


@functools.cache
def _model() -> Callable[[Any], Any]:
    from faster_whisper.vad import get_vad_model

    model: Callable[[Any], Any] = get_vad_model()
    return model


@functools.cache
def _weights(kind: str) -> str | None:
    """The identity of the model that is asked."""
    if kind != "silero":
        return None
    from faster_whisper.utils import get_assets_path

    return cache.folder_digest(Path(get_assets_path()), ["*.onnx"])


def shares(
    activity: Activity, start_s: float, end_s: float, threshold: float, below_peak_db: float
) -> tuple[float | None, float | None]:
    """(speech share, silence share) of the frames of a stretch; None where there is no frame, or no model was asked.

    A frame is speech if the model's probability is `threshold` at least. It is silence if it lies more than
    `below_peak_db` under the utterance's loudest frame, or more than 70 dB under full scale.
    """
    level, speech = activity
    frames = np.frombuffer(level, np.uint8)
    part = slice(int(start_s / FRAME_S + 1e-6), max(int(np.ceil(end_s / FRAME_S - 1e-6)), 0))
    if not len(frames[part]):
        return None, None
    silent = frames[part] > min(int(frames.min()) + below_peak_db, NOTHING)
    spoken = None
    if speech is not None:
        spoken = float(np.mean(np.frombuffer(speech, np.uint8)[part] >= threshold * SCALE))
    return spoken, float(np.mean(silent))
