"""Speech as people have it, to float32 mono 16 kHz: decode, resample, cut, and FLAC in and out.

soundfile reads what is uncompressed or lossless; PyAV the rest (mp3, ogg, m4a, mp4, webm, ...). Everything is read in
blocks, so that a recording of hours never sits in memory whole.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float32]

SAMPLE_RATE = 16_000  # Hz; what Whisper's features are made of
BLOCK_S = 30  # seconds decoded at a time
FULL_SCALE = 1 << 15  # of 16-bit PCM: a 16-bit, 16 kHz recording comes back bit by bit
OVERSCALED_PEAK = 4.0  # float audio lies in -1..1; 12 dB above that it is integers stored as floats
FRAME = SAMPLE_RATE // 100  # samples in 10 ms: the step of the search for a quiet place
QUIET_FRAMES = 20  # 200 ms have to be quiet, not one zero crossing
SEARCH = 30 * SAMPLE_RATE  # samples before the limit in which a cut is looked for, at most
# First bytes of what soundfile reads. Ogg and MP3 aren't among them: soundfile seeks after each block that it has read,
# and libsndfile 1.2.2 lands elsewhere in these, so that blocks don't meet.
EXACT = (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"FORM", b".snd", b"caff", b"NIST")
INDEXED = ("mov", "matroska")  # containers that are sought in; the others are read up to the place
SEEK_MARGIN_S = 1.0  # a lossy decoder needs some packets before the first right sample
LOST_S = 0.5  # that a container's index has and its packets have not: a file cut off
_SUFFIXES = (
    ".wav .flac .mp3 .ogg .oga .opus .m4a .m4b .mp4 .aac .webm .mkv .mka .mov .wma .amr .3gp .aif .aiff .au .caf"
    " .w64 .rf64 .sph .ac3 .mp2 .avi .ts"
)
SUFFIXES = frozenset(_SUFFIXES.split())


class AudioError(ValueError):
    """Audio that cannot be used: `reason` is one word for counting, `detail` is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def decode(source: Path | str | bytes, offset_s: float = 0.0, duration_s: float | None = None) -> Samples:
    """The audio of a file, or of a file's bytes, as [samples] in -1..1; optionally only a stretch of it.

    Raises AudioError: missing_file, empty, unreadable, non_finite, overscaled.
    """
    blocks = list(stream(source, offset_s, duration_s))
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def stream(source: Path | str | bytes, offset_s: float = 0.0, duration_s: float | None = None) -> Iterator[Samples]:
    """What `decode` gives, block by block; the blocks joined are the whole."""
    name = "bytes" if isinstance(source, bytes) else Path(source).name
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise AudioError("missing_file", f"{name}: no such file")
    try:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if size == 0:
            raise AudioError("empty", f"{name}: zero bytes")
        yield from _to_16k(_frames(source, name, offset_s, duration_s), name)
    except (sf.LibsndfileError, av.error.FFmpegError, OSError) as error:
        raise AudioError("unreadable", f"{name}: {error}") from error


def _frames(
    source: Path | str | bytes, name: str, offset_s: float, duration_s: float | None
) -> Iterator[tuple[int, Samples]]:
    """(sample rate, mono samples) as they are in the file, from whichever library can open it."""
    if _head(source) in EXACT:
        try:
            file = sf.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source))
        except sf.LibsndfileError:
            pass  # an AVI is RIFF, too
        else:
            with file:
                if not file.subtype.startswith("MPEG"):  # a WAV can hold MP3
                    yield from _with_soundfile(file, name, offset_s, duration_s)
                    return
    yield from _with_av(source, name, offset_s, duration_s)


def _head(source: Path | str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:4]
    with Path(source).open("rb") as file:
        return file.read(4)


def _with_soundfile(
    file: sf.SoundFile, name: str, offset_s: float, duration_s: float | None
) -> Iterator[tuple[int, Samples]]:
    rate = file.samplerate
    start = min(round(offset_s * rate), file.frames)
    if start:
        file.seek(start)
    left = file.frames - start
    if duration_s is not None:
        left = min(left, round(duration_s * rate))
    while left > 0:
        block = file.read(min(left, BLOCK_S * rate), dtype="float32", always_2d=True)
        if not len(block):
            raise AudioError("unreadable", f"{name}: ends {left / rate:.2f} s before its header says; cut off?")
        left -= len(block)
        yield rate, _mono(block.T)


def _with_av(
    source: Path | str | bytes, name: str, offset_s: float, duration_s: float | None
) -> Iterator[tuple[int, Samples]]:
    with av.open(
        io.BytesIO(source) if isinstance(source, bytes) else str(source), "r", metadata_errors="ignore"
    ) as box:
        if not box.streams.audio:
            raise AudioError("unreadable", f"{name}: no audio track in it")
        track = box.streams.audio[0]
        rate, base = track.codec_context.sample_rate, float(track.time_base or 1)
        zero_s, indexed = (track.start_time or 0) * base, box.format.name.split(",")[0] in INDEXED
        if offset_s > SEEK_MARGIN_S and indexed:
            box.seek(int((zero_s + offset_s - SEEK_MARGIN_S) / base), stream=track)
        planar = av.AudioResampler(format="fltp")
        first = round(offset_s * rate)
        last = None if duration_s is None else first + round(duration_s * rate)
        position: int | None = None
        for packet in box.decode(track):
            for frame in planar.resample(packet):
                samples = _mono(np.asarray(frame.to_ndarray(), np.float32))
                if position is None:
                    position = round((frame.time - zero_s) * rate) if indexed and frame.time is not None else 0
                begin, end = max(first - position, 0), None if last is None else max(last - position, 0)
                position += len(samples)
                if len(samples[begin:end]):
                    yield rate, samples[begin:end]
            if last is not None and position is not None and position >= last:
                return
        lost_s = (track.duration or 0) * base - (position or 0) / rate
        if indexed and position is not None and lost_s > LOST_S:
            raise AudioError("unreadable", f"{name}: ends {lost_s:.2f} s before its index says; cut off?")


def _mono(channels: Samples) -> Samples:
    if len(channels) == 1:
        return channels[0]
    with np.errstate(invalid="ignore"):  # of +inf and -inf; `_check` says so in words
        return channels.mean(axis=0, dtype=np.float32)


def _to_16k(frames: Iterable[tuple[int, Samples]], name: str) -> Iterator[Samples]:
    """Mono blocks at SAMPLE_RATE; faults of the samples are found before the resampler smears them."""
    resampler: soxr.ResampleStream | None = None
    seconds = 0.0
    for rate, block in frames:
        _check(block, name, seconds)
        seconds += len(block) / rate
        if rate == SAMPLE_RATE:
            yield np.ascontiguousarray(block)
            continue
        resampler = resampler or soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        out = resampler.resample_chunk(np.ascontiguousarray(block))
        if len(out):
            yield out
    if resampler is not None:
        tail = resampler.resample_chunk(np.empty(0, np.float32), last=True)
        if len(tail):
            yield tail


def _check(block: Samples, name: str, seconds: float) -> None:
    if not np.isfinite(block).all():
        raise AudioError("non_finite", f"{name}: NaN or infinite samples after {seconds:.1f} s")
    peak = float(np.abs(block).max(initial=0.0))
    if peak > OVERSCALED_PEAK:
        raise AudioError("overscaled", f"{name}: peak {peak:.0f}; float audio must lie in -1..1")


def encode_flac(samples: Samples) -> bytes:
    """[samples] in -1..1 as FLAC, 16 kHz, mono, 16 bit; what lies outside is clipped."""
    whole = np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    buffer = io.BytesIO()
    sf.write(buffer, whole, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(content: bytes) -> Samples:
    """FLAC bytes of a prepared shard as [samples]. Raises AudioError for anything else."""
    try:
        samples, rate = sf.read(io.BytesIO(content), dtype="float32")
    except sf.LibsndfileError as error:
        raise AudioError("unreadable", str(error)) from error
    if rate != SAMPLE_RATE or samples.ndim != 1:
        raise AudioError("unreadable", f"prepared audio is {SAMPLE_RATE} Hz mono, this is {rate} Hz {samples.shape}")
    return samples


def dbfs(peak: float) -> float:
    """A peak in 0..1 as decibels below full scale."""
    return 20 * float(np.log10(peak)) if peak > 0 else float("-inf")


def pieces(blocks: Iterable[Samples], max_piece_s: float) -> Iterator[tuple[int, Samples]]:
    """(first sample, [samples]) of pieces no longer than `max_piece_s`, cut where it is quietest; nothing is lost.

    The last piece is never a splinter: it is as long as the search window, or the recording is one piece.
    """
    limit = int(max_piece_s * SAMPLE_RATE)
    window = min(SEARCH, limit // 4)
    start, held = 0, np.empty(0, np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > limit + window:
            cut = quietest(held, limit - window, limit)
            yield start, held[:cut]
            start, held = start + cut, held[cut:]
    while len(held) > limit:
        latest = min(limit, len(held) - window)
        cut = quietest(held, latest - window, latest)
        yield start, held[:cut]
        start, held = start + cut, held[cut:]
    if len(held):
        yield start, held


def quietest(samples: Samples, first: int, last: int) -> int:
    """The middle of the 200 ms of least energy between two samples; the latest of equals."""
    span = samples[first:last]
    count = len(span) // FRAME
    if count < QUIET_FRAMES:
        return last
    energy = np.square(span[: count * FRAME], dtype=np.float64).reshape(count, FRAME).sum(axis=1)
    smooth = np.convolve(energy, np.ones(QUIET_FRAMES), mode="valid")
    best = len(smooth) - 1 - int(np.argmin(smooth[::-1]))
    return first + (best + QUIET_FRAMES // 2) * FRAME
