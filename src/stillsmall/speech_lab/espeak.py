"""Text to speech through espeak-ng from the wheel `espeakng_loader`: no system package, always the same samples."""

from __future__ import annotations

import atexit
import difflib
import functools
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import espeakng_loader
import numpy as np
import soxr

SAMPLE_RATE = 16_000  # Hz, of everything the lab returns
RATES = range(80, 451)  # words per minute
ALIASES = {"en-gb": "en"}  # espeak's British voice lives in a file called "en", which its own lookup calls nothing else
_server: subprocess.Popen[bytes] | None = None
_server_owner = 0


def languages() -> frozenset[str]:
    """Names of the base voices, e.g. "en-us", "cmn"."""
    return frozenset(_language_files()) | frozenset(ALIASES)


@functools.cache
def _language_files() -> frozenset[str]:
    root = Path(espeakng_loader.get_data_path()) / "lang"
    return frozenset(path.name.lower() for path in root.rglob("*") if path.is_file())


@functools.cache
def variants() -> frozenset[str]:
    """Names of the voice variants, e.g. "f2" in "en-us+f2"."""
    root = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    return frozenset(path.name for path in root.iterdir())


def espeak_name(voice: str) -> str:
    """The name that espeak knows `voice` by; espeak itself silently ignores an unknown variant, so both are checked."""
    language, _, variant = voice.partition("+")
    _require(language, languages(), f"voice {voice!r}: unknown language")
    if variant:
        _require(variant, variants(), f"voice {voice!r}: unknown variant")
    return ALIASES.get(language, language) + (f"+{variant}" if variant else "")


def _require(name: str, have: frozenset[str], what: str) -> None:
    if name not in have:
        nearest = difflib.get_close_matches(name, have, n=1, cutoff=0.0)
        raise ValueError(f"{what} {name!r}; did you mean {nearest[0]!r}? Have: {', '.join(sorted(have))}")


def speak(
    text: str, voice: str, rate: int = 170, pitch: int = 50, pitch_range: int = 50, ssml: bool = False
) -> np.ndarray:
    """Samples of `text`: float32 in [-1, 1], 16 kHz, (samples,). The same arguments always give the same samples."""
    if rate not in RATES:
        raise ValueError(f"rate: {rate} words per minute is outside {RATES.start}..{RATES.stop - 1}")
    prosody = {"rate": rate, "pitch": pitch, "range": pitch_range}
    request = {"text": text, "voice": espeak_name(voice), "ssml": ssml} | prosody
    source_rate, spoken = _ask(request)
    samples = np.frombuffer(spoken, dtype=np.int16)
    if samples.size == 0:
        return np.zeros(0, dtype=np.float32)
    return soxr.resample(samples.astype(np.float32) / 32768.0, source_rate, SAMPLE_RATE, quality="HQ")


def phonemes(text: str, voice: str) -> str:
    """How espeak pronounces `text`, in its ASCII mnemonics, e.g. "l'amp"; without the marks of a change of language."""
    _, spelled = _ask({"text": text, "voice": espeak_name(voice), "phonemes": True})
    return re.sub(r"\([a-z-]+\)", "", spelled.decode("ascii", errors="ignore"))


def _ask(request: dict[str, object]) -> tuple[int, bytes]:
    server = _serving()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write((json.dumps(request) + "\n").encode())
    server.stdin.flush()
    header = server.stdout.read(8)
    if len(header) < 8:
        raise RuntimeError(f"espeak-ng died on {request!r}")
    sample_rate, count = struct.unpack("<ii", header)
    if count < 0:
        raise ValueError(f"espeak-ng refused the voice {request['voice']!r}")
    return sample_rate, server.stdout.read(count)


def _serving() -> subprocess.Popen[bytes]:
    """This process's server; a forked worker must not share its parent's pipes."""
    global _server, _server_owner
    if _server is None or _server_owner != os.getpid() or _server.poll() is not None:
        script = Path(__file__).with_name("espeak_server.py")
        # -S -E: the server needs the standard library alone, and starts in 20 ms without the site packages.
        library = [espeakng_loader.get_library_path(), espeakng_loader.get_data_path()]
        command = [sys.executable, "-S", "-E", str(script), *library]
        _server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        _server_owner = os.getpid()
        atexit.register(_stop, _server, _server_owner)
    return _server


def _stop(server: subprocess.Popen[bytes], owner: int) -> None:
    if owner == os.getpid():
        if server.stdin is not None:
            server.stdin.close()
        server.wait(timeout=5)
