"""Which filters find which trouble: faults put into the audio, labels by the models themselves, and what is rejected.

    python benchmarks/trouble_in_audio.py --split data/prepared/train --scores data/scores.parquet

Reads a prepared split with transcripts, its score table, and params.yaml for models and thresholds; changes nothing.
From so many clips of the split, each time, a small split is made of
    silence    nothing but faint noise, 60 dB under full scale, as long as the clip; the transcript is empty
    noise      pink noise as loud and as long as the clip; the transcript is empty
    0 dB       the clip in pink noise of the same power
    two speak  the clip, and another one as loud at the same time; the transcript is the first one's
and then labelled, validated and scored as the stages do it, so that every column of the score table is known. Prints a
Markdown table: of the wrong labels of each kind (WER above 40 % against the transcript, or any word where nothing was
said) the share that a filter rejects; the same of the labels of the split as it is; the share of its other labels that
is kept; and the WER of all these labels before and after. Loops are rare in what models write: see
filters_on_real_speech.py for those.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filters_on_real_speech import AGREEMENTS, GOOD_WER, Row, read, read_by, wer

from stillsmall import audio, config, filtering, labelling, manifest, scoring

KINDS = ("silence", "noise", "0 dB", "two speak")
SILENCE_RMS = 10 ** (-60 / 20)  # of full scale
FULL = 0.99  # no sample above it


def pink(count: int, rng: np.random.Generator) -> audio.Samples:
    """Noise whose power falls by 3 dB an octave, RMS 1."""
    spectrum = np.fft.rfft(rng.normal(size=count))
    made = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), count)
    return (made / rms(made)).astype(np.float32)


def rms(samples: Any) -> float:
    return float(np.sqrt(np.mean(np.square(samples)))) or 1.0


def faulty(kind: str, clip: audio.Samples, other: audio.Samples, rng: np.random.Generator) -> audio.Samples:
    """The clip with one kind of trouble in it; `other` is who speaks at the same time."""
    loud = rms(clip)
    made = {
        "silence": lambda: rng.normal(0, SILENCE_RMS, len(clip)),
        "noise": lambda: loud * pink(len(clip), rng),
        "0 dB": lambda: clip + loud * pink(len(clip), rng),
        "two speak": lambda: clip + np.resize(other, len(clip)) * loud / rms(other),
    }[kind]()
    return np.asarray(made * min(1.0, FULL / float(np.abs(made).max())), dtype=np.float32)


def make(split: Path, out: Path, count: int, seed: int) -> None:
    """A prepared split of `count` clips of each kind, the kind as their domain, a shard a kind."""
    rows = {row["utt_id"]: row for row in manifest.rows(split / "manifest.parquet", manifest.UTTERANCE) if row["text"]}
    rng = np.random.default_rng(seed)
    chosen = rng.choice(sorted(rows), (len(KINDS), count + 1), replace=False)
    wanted = set(chosen.ravel().tolist())
    held = dict(pair for found in manifest.audio(split) for pair in found[1] if pair[0] in wanted)
    made: list[Row] = []
    for kind, ids in zip(KINDS, chosen, strict=True):
        shard, clips = f"{kind.replace(' ', '-')}.parquet", []
        for utt_id, other in itertools.pairwise(ids.tolist()):
            samples = faulty(kind, *(audio.decode_flac(held[name]) for name in (utt_id, other)), rng)
            own = {"utt_id": f"{kind}/{utt_id}", "domain": kind, "shard": shard, "recording": f"{kind}/{utt_id}"}
            made.append({**rows[utt_id], **own, **({"text": ""} if kind in ("silence", "noise") else {})})
            clips.append({"utt_id": own["utt_id"], "audio": audio.encode_flac(samples)})
        manifest.write(out / "shards" / shard, clips, manifest.AUDIO)
    manifest.write(out / "manifest.parquet", made, manifest.UTTERANCE)


def scored(split: Path, work: Path, params: config.Params) -> list[Row]:
    """The score table of a split: labelled, validated and scored as the stages do it."""
    for section, name in ((params.pseudo_label, "pseudo_label"), (params.validate_, "validate")):
        who = labelling.Labelling(section, params.run, params.models.root, name)
        jobs = labelling.utterances(split) if name == "pseudo_label" else labelling.chunks(split, work / "pseudo_label")
        labelling.transcribe(jobs, who, work / name, work / f"{name}_failed.parquet")
    out = work / "scores.parquet"
    scoring.score(split, work / "pseudo_label", work / "validate", out, params)
    return read(out)


def is_wrong(row: Row) -> bool:
    """Whether a label has a WER above GOOD_WER, or words where nothing was said."""
    return bool(row["ref_wer_errors"]) if row["ref_wer"] is None else row["ref_wer"] > GOOD_WER


def table(rows: list[Row], params: config.Params) -> str:
    """The Markdown table; rows of the split as it is have another domain than KINDS."""
    sections = {**params.filters, **AGREEMENTS, "random": {"labels": {"match": params.filter.keep_if}, "seed": 1}}
    rules = filtering.rules(params.filter, sections)
    found = pa.Table.from_pylist(rows, schema=manifest.SCORE)
    rules.fit(found, everything=True)
    kinds = np.array([row["domain"] if row["domain"] in KINDS else "as it is" for row in rows])
    wrong = np.array([is_wrong(row) for row in rows])
    groups = {kind: wrong & (kinds == kind) for kind in (*KINDS, "as it is")}
    heads = [f"{kind} ({mask.sum()} of {(kinds == kind).sum()} wrong)" for kind, mask in groups.items()]
    lines = [f"| filter | {' | '.join(heads)} | good labels kept | labels kept | label WER after |"]
    lines.append("|" + "---|" * (len(heads) + 4))
    absent = [name for name in rules.sections if unknown(rows, read_by(rules, name))]
    for name, rule in {**rules.sections, "keep_if": rules}.items():
        keeps = rule.keeps(found)
        if name not in absent:
            shares = [share(~keeps, mask) for mask in groups.values()]
            after = wer([row for row, keep in zip(rows, keeps, strict=True) if keep])
            cells = [*shares, share(keeps, ~wrong & (kinds == "as it is")), share(keeps, keeps | ~keeps)]
            lines.append(f"| `{name}` | {' | '.join(cells)} | {100 * after:.1f} % |")
    plain = [row for row, kind in zip(rows, kinds, strict=True) if kind == "as it is"]
    lines.append(f"\nLabel WER before: {100 * wer(rows):.1f} % ({100 * wer(plain):.1f} % of the labels as they are).")
    return "\n".join([*lines, f"No values in this table for: {', '.join(absent) or 'none'}."])


def unknown(rows: list[Row], columns: list[str]) -> bool:
    """Whether no row has a value in any of the columns."""
    return bool(columns) and all(row[column] is None for row in rows for column in columns)


def share(mask: Any, of: Any) -> str:
    return f"{100 * float(mask[of].mean()):.0f} %" if of.any() else "–"


def main(at: Mapping[str, Any]) -> None:
    params = config.load(at["params"])
    plain = [row for row in read(at["scores"]) if row["reference"] is not None and row["validator_text"] is not None]
    with tempfile.TemporaryDirectory() as scratch:
        make(at["split"], Path(scratch) / "split", at["clips"], at["seed"])
        made = scored(Path(scratch) / "split", Path(scratch), params)
    print(f"{len(plain)} labels as they are, and those of {at['clips']} clips with each kind of trouble\n")
    print(table([*plain, *made], params))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=config.PARAMS)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    main(vars(parser.parse_args()))
