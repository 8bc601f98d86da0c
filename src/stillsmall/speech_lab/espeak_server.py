"""The process that owns the espeak-ng library: `python espeak_server.py LIBRARY DATA_FOLDER`.

espeak-ng keeps state between utterances (phase of the wave, flutter, its random numbers) that neither
`espeak_Terminate` nor a random seed resets: the same sentence spoken twice gives different samples. So this process
initialises the library once, speaks nothing itself, and forks a child per utterance: each child starts from the same
memory. It imports only the standard library, so a fork takes about a millisecond.

Request: one JSON line {"text", "voice", "rate", "pitch", "range", "ssml"}, or {"text", "voice", "phonemes": true}.
Answer: int32 sample rate, int32 byte count (-1: the voice was refused), then that many bytes: int16 samples, or the
phonemes in espeak's ASCII mnemonics.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys

AUDIO_OUTPUT_SYNCHRONOUS = 2
RATE, PITCH, PITCH_RANGE = 1, 3, 4  # espeak_PARAMETER
CHARS_UTF8, SSML = 0x01, 0x10
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def load(library: str, data_folder: str) -> tuple[ctypes.CDLL, int]:
    """The initialised library and its sample rate."""
    espeak = ctypes.CDLL(library)
    sample_rate = espeak.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data_folder.encode(), 0)
    if sample_rate <= 0:
        raise RuntimeError(f"espeak-ng could not start with data in {data_folder}")
    # Initialisation seeds from the clock.
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(1))
    ctypes.CDLL(None).srand(1)
    return espeak, sample_rate


def speak(espeak: ctypes.CDLL, request: dict[str, object]) -> bytes | None:
    """int16 samples of one utterance; None when espeak refuses the voice."""
    pieces: list[bytes] = []

    def collect(wave: object, count: int, _events: object) -> int:
        if wave and count > 0:
            pieces.append(ctypes.string_at(wave, count * 2))  # type: ignore[arg-type]
        return 0

    callback = CALLBACK(collect)
    espeak.espeak_SetSynthCallback(callback)
    if espeak.espeak_SetVoiceByName(str(request["voice"]).encode()) != 0:
        return None
    for parameter, name in ((RATE, "rate"), (PITCH, "pitch"), (PITCH_RANGE, "range")):
        espeak.espeak_SetParameter(parameter, int(request[name]), 0)  # type: ignore[call-overload]
    text = str(request["text"]).encode()
    flags = CHARS_UTF8 | (SSML if request["ssml"] else 0)
    espeak.espeak_Synth(text, len(text) + 1, 0, 1, 0, flags, None, None)
    return b"".join(pieces)


def phonemes(espeak: ctypes.CDLL, request: dict[str, object]) -> bytes | None:
    """Phonemes of a text, its clauses separated by spaces; None when espeak refuses the voice."""
    if espeak.espeak_SetVoiceByName(str(request["voice"]).encode()) != 0:
        return None
    espeak.espeak_TextToPhonemes.restype = ctypes.c_char_p
    rest = ctypes.c_char_p(str(request["text"]).encode())
    clauses = []
    while rest.value:  # each call takes one clause off the text
        clauses.append(espeak.espeak_TextToPhonemes(ctypes.byref(rest), CHARS_UTF8, 0) or b"")
    return b" ".join(clauses)


def answer(espeak: ctypes.CDLL, sample_rate: int, line: str, out: int) -> None:
    """Speak one request and write the answer."""
    request = json.loads(line)
    samples = (phonemes if request.get("phonemes") else speak)(espeak, request)
    reply = struct.pack("<ii", sample_rate, -1) if samples is None else struct.pack("<ii", sample_rate, len(samples))
    view = memoryview(reply + (samples or b""))
    while view:
        view = view[os.write(out, view) :]


def main() -> None:
    """Serve until standard input closes."""
    espeak, sample_rate = load(sys.argv[1], sys.argv[2])
    out = sys.stdout.fileno()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            answer(espeak, sample_rate, line, out)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
