"""Small prepared splits and parameters, made on the fly: tones instead of speech; no model or corpus is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stillsmall import audio, config, manifest

ROOT = Path(__file__).resolve().parents[1]


def tone(seconds: float, pitch: float = 220.0, seed: int = 0) -> np.ndarray:
    """A tone in a little noise, float32 at 16 kHz."""
    t = np.arange(round(seconds * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE
    noise = np.random.default_rng(seed).normal(0, 0.02, len(t))
    return (0.2 * np.sin(2 * np.pi * pitch * t) + noise).astype(np.float32)


def split(folder: Path, rows: list[dict[str, Any]], per_shard: int = 4) -> Path:
    """A prepared split of tones; a row may give any column of the manifest."""
    made, shards = [], {}
    for number, row in enumerate(rows):
        shard = f"shard-{number // per_shard:05d}.parquet"
        utt_id = row.get("utt_id", f"small/{number:03d}")
        seconds = row.get("duration_s", 0.6 + 0.1 * (number % 7))
        flac = audio.encode_flac(tone(seconds, 150 + 30 * number, number))
        shards.setdefault(shard, []).append({"utt_id": utt_id, "audio": flac})
        base = {"source": "small", "split": folder.name, "domain": "tone", "language": "en", "offset_s": 0.0}
        base |= {"speaker": f"s{number % 3}", "text": f"tone number {number}", "recording": utt_id}
        made.append({**base, **row, "utt_id": utt_id, "duration_s": seconds, "shard": shard})
    for name, found in shards.items():
        manifest.write(folder / "shards" / name, found, manifest.AUDIO)
    manifest.write(folder / "manifest.parquet", made, manifest.UTTERANCE)
    return folder


def params(**changes: Any) -> config.Params:
    """The repository's params.yaml with dotted changes: params(**{"distill.steps": 3})."""
    return config.parse(config.Params, tree(**changes), "")


def tree(**changes: Any) -> dict[str, Any]:
    import copy

    made: dict[str, Any] = copy.deepcopy(config.read_yaml(ROOT / "params.yaml"))
    for path, value in changes.items():
        *sections, last = path.split(".")
        at = made
        for section in sections:
            at = at[section]
        at[last] = value
    return made


def write_params(path: Path, **changes: Any) -> Path:
    """The same as a file, for stages that run as programs."""
    from ruamel.yaml import YAML

    with path.open("w") as file:
        YAML(typ="safe", pure=True).dump(tree(**changes), file)
    return path


def score_row(**values: Any) -> dict[str, Any]:
    """A row of the score table of a good label; `values` change it."""
    row = {
        "utt_id": "u", "parent": "u", "source": "s", "domain": "d", "language": "en", "duration_s": 2.0, "start_s": 0.0,
        "end_s": 2.0, "teacher_text": "a good label", "segments": [{"start": 0.0, "end": 2.0, "text": "a good label"}],
        "recording": "r", "offset_s": 0.0, "speaker": "p", "validator_text": "a good label",
        "reference": "a good label",
        "ref_wer": 0.0, "ref_wer_errors": 0, "ref_words": 3, "ref_cer": 0.0, "ref_cer_errors": 0, "ref_chars": 12,
        "agreement_mer": 0.0, "agreement_mer_errors": 0, "agreement_units": 3, "teacher_repeats": False,
        "validator_repeats": False, "mean_logprob": -0.1, "confidence": 0.9, "mean_entropy": 0.2,
        "compression_ratio": 0.8, "no_speech_prob": 0.01, "words": 3, "words_per_s": 1.5, "chars_per_s": 5.0,
    }  # fmt: skip
    return {**dict.fromkeys(manifest.SCORE.names), **row, **values}
