"""What happens to speech between mouth and file: noise, reverberation, a telephone line, a second speaker.

All functions take and return float32 (samples,) at 16 kHz and draw from the generator they are given.
"""

from __future__ import annotations

import numpy as np
import soxr
from scipy.signal import butter, fftconvolve, sosfilt

from stillsmall.speech_lab.espeak import SAMPLE_RATE

PHONE_RATE = 8_000  # Hz
PHONE_BAND = (300.0, 3_400.0)  # Hz
HISS = 1e-4  # rms of the noise floor, -80 dB: digital zeros exist in no recording


def rms(audio: np.ndarray) -> float:
    """Root mean square; 0 for no samples."""
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if audio.size else 0.0


def white(samples: int, generator: np.random.Generator) -> np.ndarray:
    """White noise of rms 1."""
    return generator.standard_normal(samples, dtype=np.float32)


def pink(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Noise whose power falls by 3 dB an octave, rms 1."""
    spectrum = np.fft.rfft(white(samples, generator))
    spectrum /= np.sqrt(np.maximum(np.arange(spectrum.size), 1))
    noise = np.fft.irfft(spectrum, samples)
    return (noise / max(rms(noise), 1e-12)).astype(np.float32)


def babble(voices: list[np.ndarray], samples: int, generator: np.random.Generator) -> np.ndarray:
    """Several people speaking at once, each equally loud, repeated from a random point to fill `samples`; rms 1."""
    mixture = np.zeros(samples, dtype=np.float32)
    for voice in voices:
        turned = np.roll(voice, int(generator.integers(voice.size)))
        mixture += np.resize(turned, samples) / max(rms(voice), 1e-12)
    return mixture / max(rms(mixture), 1e-12)


def add_noise(speech: np.ndarray, noise: np.ndarray, snr: float, level: float | None = None) -> np.ndarray:
    """`speech` plus `noise`, `snr` dB below `level`: the rms of the speech where someone speaks (default: of all)."""
    loudness = rms(speech) if level is None else level
    return (speech + noise * (loudness / max(rms(noise), 1e-12) * 10 ** (-snr / 20))).astype(np.float32)


def reverberate(speech: np.ndarray, decay: float, wet: float, generator: np.random.Generator) -> np.ndarray:
    """A room whose sound falls by 60 dB in `decay` seconds; `wet`: energy of the tail relative to the direct sound."""
    times = np.arange(int(decay * SAMPLE_RATE)) / SAMPLE_RATE
    tail = white(times.size, generator) * 10 ** (-3 * times / decay)
    tail[: int(0.002 * SAMPLE_RATE)] = 0  # the first reflection arrives later than the voice
    response = tail * np.sqrt(wet / max(float(np.sum(tail**2)), 1e-12))
    response[0] = 1.0
    return fftconvolve(speech, response)[: speech.size].astype(np.float32)


def telephone(speech: np.ndarray) -> np.ndarray:
    """The narrow band of a telephone: 300-3,400 Hz, sampled at 8 kHz."""
    narrow = soxr.resample(speech, SAMPLE_RATE, PHONE_RATE)
    band = sosfilt(butter(4, PHONE_BAND, "bandpass", fs=PHONE_RATE, output="sos"), narrow)
    wide = soxr.resample(band.astype(np.float32), PHONE_RATE, SAMPLE_RATE)
    return np.resize(np.pad(wide, (0, max(0, speech.size - wide.size))), speech.size).astype(np.float32)


def finish(audio: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The recording's noise floor, and no sample above 0.99."""
    audio = audio + HISS * white(audio.size, generator)
    peak = float(np.abs(audio).max(initial=0.0))
    return (audio * (0.99 / peak) if peak > 0.99 else audio).astype(np.float32)
