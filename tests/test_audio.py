"""What people have as audio becomes float32 mono 16 kHz; what cannot says why; cuts lose nothing."""

import io
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf

from stillsmall.audio import (
    SAMPLE_RATE,
    AudioError,
    decode,
    decode_flac,
    encode_flac,
    pieces,
    stream,
)


def tone(seconds: float, rate: int = SAMPLE_RATE, hz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def pitch(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / len(samples)


def encoded(path: Path, codec: str, samples: np.ndarray, rate: int) -> Path:
    """Samples in a file that PyAV writes."""
    with av.open(str(path), "w") as box:
        track = box.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = rate
        for packet in [*track.encode(frame), *track.encode(None)]:
            box.mux(packet)
    return path


def reason(source: Path | bytes, *place: float) -> str:
    with pytest.raises(AudioError) as caught:
        decode(source, *place)
    return caught.value.reason


def test_16_bit_at_16_khz_comes_back_bit_by_bit(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    whole[:2] = (-32768, 32767)
    sf.write(tmp_path / "a.wav", whole, SAMPLE_RATE, subtype="PCM_16")
    samples = decode(tmp_path / "a.wav")
    assert samples.dtype == np.float32
    assert np.array_equal(samples * 32768, whole)
    assert np.array_equal(decode_flac(encode_flac(samples)), samples)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_any_rate_gives_the_same_seconds_and_pitch(tmp_path: Path, rate: int, subtype: str) -> None:
    sf.write(tmp_path / "a.wav", tone(1.5, rate), rate, subtype=subtype)
    samples = decode(tmp_path / "a.wav")
    assert abs(len(samples) - 1.5 * SAMPLE_RATE) <= 1
    assert pitch(samples) == pytest.approx(440, abs=1)
    assert np.abs(samples[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "DOUBLE", "ULAW", "ALAW"])
def test_other_sample_formats_are_read(tmp_path: Path, subtype: str) -> None:
    sf.write(tmp_path / "a.wav", tone(0.5), SAMPLE_RATE, subtype=subtype)
    assert decode(tmp_path / "a.wav") == pytest.approx(tone(0.5), abs=0.03)


def test_mono_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.flac", np.stack([tone(0.5), np.zeros(8000, np.float32)], axis=1), SAMPLE_RATE)
    assert decode(tmp_path / "a.flac") == pytest.approx(tone(0.5) / 2, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("a.m4a", "aac", 44_100), ("a.mp4", "aac", 16_000), ("a.webm", "libopus", 48_000), ("a.mp3", "libmp3lame", 22_050),
     ("a.ogg", "libopus", 48_000), ("a.amr", "amr_nb", 8_000)],
)  # fmt: skip
def test_compressed_files_are_read_whole_and_in_part(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    sweep = np.sin(2 * np.pi * np.cumsum(np.linspace(200, 2000, 6 * rate)) / rate).astype(np.float32) * 0.5
    try:
        path = encoded(tmp_path / name, codec, sweep, rate)
    except (av.codec.codec.UnknownCodecError, av.error.FFmpegError) as error:
        pytest.skip(f"this PyAV cannot write {codec}: {error}")
    whole = decode(path)
    assert len(whole) == pytest.approx(6 * SAMPLE_RATE, abs=0.15 * SAMPLE_RATE)
    assert np.array_equal(decode(path.read_bytes()), whole)
    assert len(decode(path, 99.0)) == 0
    for offset_s in (0.2, 1.4, 3.0, 4.6):
        part = decode(path, offset_s, 1.0)
        assert len(part) == pytest.approx(SAMPLE_RATE, abs=2)
        middle = slice(2000, 14_000)  # a sweep: a shift by two samples would show
        assert np.corrcoef(part[middle], whole[int(offset_s * SAMPLE_RATE) :][middle])[0, 1] > 0.98


@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_an_offset_in_a_file_whose_library_seeks_badly_is_exact(tmp_path: Path, form: str, subtype: str) -> None:
    noise = np.random.default_rng(5).normal(0, 0.1, 40 * SAMPLE_RATE).astype(np.float32)
    sf.write(tmp_path / "a", noise, SAMPLE_RATE, format=form, subtype=subtype)
    whole = decode(tmp_path / "a")
    for second in (1, 5, 33):
        part, first = decode(tmp_path / "a", second, 2.0), second * SAMPLE_RATE
        assert len(part) == 2 * SAMPLE_RATE
        middle = slice(200, -200)  # the resampler's edges
        assert part[middle] == pytest.approx(whole[first : first + len(part)][middle], abs=1e-5)


@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_16")])
def test_no_seam_where_blocks_meet(tmp_path: Path, form: str, subtype: str) -> None:
    sf.write(tmp_path / "a", tone(70.0), SAMPLE_RATE, format=form, subtype=subtype)
    samples = decode(tmp_path / "a")[SAMPLE_RATE : 69 * SAMPLE_RATE]
    assert np.abs(np.diff(samples)).max() < 0.1  # a sine at 440 Hz and level 0.5 moves by 0.086 a sample


def test_an_offset_cuts_and_a_duration_ends(tmp_path: Path) -> None:
    ramp = (np.arange(3 * SAMPLE_RATE) % 1000 / 2000).astype(np.float32)
    sf.write(tmp_path / "a.wav", ramp, SAMPLE_RATE, subtype="FLOAT")
    assert np.array_equal(decode(tmp_path / "a.wav", 0.5, 1.25), ramp[8000:28000])
    assert np.array_equal(decode(tmp_path / "a.wav", 2.5), ramp[40000:])
    assert len(decode(tmp_path / "a.wav", 99.0)) == 0


def test_a_stream_joined_is_the_whole_and_its_blocks_are_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 95 * 44_100).astype(np.float32)
    sf.write(tmp_path / "a.wav", noise, 44_100)
    blocks = list(stream(tmp_path / "a.wav"))
    assert len(blocks) > 3
    assert np.array_equal(np.concatenate(blocks), decode(tmp_path / "a.wav"))
    assert abs(sum(map(len, blocks)) - 95 * SAMPLE_RATE) <= 1


def test_faults_say_their_reason(tmp_path: Path) -> None:
    (tmp_path / "zero.wav").touch()
    (tmp_path / "text.wav").write_text("this is not audio")
    sf.write(tmp_path / "good.flac", tone(2.0), SAMPLE_RATE)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "good.flac").read_bytes()[:9000])
    for name, value in (("nan", np.nan), ("inf", np.inf), ("integers", 20_000.0)):
        samples = tone(1.0)
        samples[7000] = value
        sf.write(tmp_path / f"{name}.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    assert reason(tmp_path / "none.wav") == "missing_file"
    assert reason(tmp_path) == "missing_file"
    assert reason(tmp_path / "zero.wav") == "empty"
    assert reason(b"") == "empty"
    assert reason(tmp_path / "text.wav") == "unreadable"
    assert reason(b"RIFF....WAVE") == "unreadable"
    assert reason(tmp_path / "cut.flac") == "unreadable"
    assert reason(tmp_path / "nan.wav") == "non_finite"
    assert reason(tmp_path / "inf.wav") == "non_finite"
    assert reason(tmp_path / "integers.wav") == "overscaled"


def test_a_nan_in_one_channel_is_found(tmp_path: Path) -> None:
    stereo = np.stack([tone(0.5), tone(0.5)], axis=1)
    stereo[100] = (np.inf, -np.inf)
    sf.write(tmp_path / "a.wav", stereo, SAMPLE_RATE, subtype="FLOAT")
    assert reason(tmp_path / "a.wav") == "non_finite"


def test_a_picture_has_no_audio_track(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as box:
        track = box.add_stream("mpeg4", rate=5)
        track.width, track.height, track.pix_fmt = 64, 64, "yuv420p"
        for packet in [*track.encode(av.VideoFrame(64, 64, "yuv420p")), *track.encode(None)]:
            box.mux(packet)
    assert reason(tmp_path / "a.mp4") == "unreadable"


def test_what_lies_outside_full_scale_is_clipped() -> None:
    assert decode_flac(encode_flac(np.array([1.5, -1.5, 0.5], np.float32))).tolist() == [32767 / 32768, -1.0, 0.5]


def test_flac_is_the_same_bytes_each_time() -> None:
    assert encode_flac(tone(1.0)) == encode_flac(tone(1.0))


def test_decode_flac_takes_only_prepared_audio() -> None:
    buffer = io.BytesIO()
    sf.write(buffer, tone(0.1, 8000), 8000, format="FLAC")
    with pytest.raises(AudioError, match="16000 Hz mono, this is 8000 Hz"):
        decode_flac(buffer.getvalue())
    with pytest.raises(AudioError):
        decode_flac(b"no flac")


def test_pieces_are_cut_in_the_pause_and_lose_nothing() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 100 * SAMPLE_RATE).astype(np.float32)
    pause = slice(int(36.0 * SAMPLE_RATE), int(36.6 * SAMPLE_RATE))
    noise[pause] = 0
    cut = list(pieces([noise[: 33 * SAMPLE_RATE], noise[33 * SAMPLE_RATE :]], 40.0))
    assert np.array_equal(np.concatenate([samples for _, samples in cut]), noise)
    assert [start for start, _ in cut] == np.cumsum([0, *(len(samples) for _, samples in cut)])[:-1].tolist()
    assert max(len(samples) for _, samples in cut) <= 40 * SAMPLE_RATE
    assert pause.start < cut[1][0] < pause.stop


@pytest.mark.parametrize("seconds", [39.9, 40.0, 40.01, 49.0, 50.01, 80.0, 90.0])
def test_the_last_piece_is_no_splinter(seconds: float) -> None:
    noise = np.random.default_rng(2).normal(0, 0.1, int(seconds * SAMPLE_RATE)).astype(np.float32)
    lengths = [len(samples) / SAMPLE_RATE for _, samples in pieces(np.array_split(noise, 7), 40.0)]
    assert sum(lengths) == pytest.approx(seconds, abs=1e-3)
    assert len(lengths) == 1 if seconds <= 40 else min(lengths) >= 9.9
    assert max(lengths) <= 40


def test_pieces_do_not_depend_on_the_blocks() -> None:
    noise = np.random.default_rng(3).normal(0, 0.1, 150 * SAMPLE_RATE).astype(np.float32)
    starts = [[start for start, _ in pieces(np.array_split(noise, parts), 40.0)] for parts in (1, 3, 50)]
    assert starts[0] == starts[1] == starts[2]


LONG = """
import resource, sys
from stillsmall.audio import pieces, stream
list(pieces(stream(sys.argv[1], 0.0, 60.0), 30.0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(len(samples) for _, samples in pieces(stream(sys.argv[1]), 60.0))
print(total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_stays_flat_over_a_long_recording(tmp_path: Path) -> None:
    minutes, rate = 20, 22_050
    with sf.SoundFile(str(tmp_path / "long.wav"), "w", rate, 2) as file:
        block = np.random.default_rng(4).normal(0, 0.1, (60 * rate, 2)).astype(np.float32)
        for _ in range(minutes):
            file.write(block)
    done = subprocess.run(
        [sys.executable, "-c", LONG, tmp_path / "long.wav"], capture_output=True, text=True, check=True
    )
    total, grown_mb = done.stdout.split()
    assert abs(int(total) - minutes * 60 * SAMPLE_RATE) <= 1
    assert float(grown_mb) < 60  # the whole would be 73 MB as float32 at 16 kHz, 202 MB as it is in the file
