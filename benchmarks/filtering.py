"""How long the filter stage takes on a table of many labels, and how much memory: made numbers, no model, no audio.

    python benchmarks/filtering.py --rows 1000000

Prints seconds and peak memory of filtering (all kinds of rules, a combination, a ranking, a matched random subset) and
of the judgement by transcripts. The table is written to a temporary folder first; making it is not timed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from stillsmall import config, filtering, judgement, manifest

COMBINED = [
    "not_empty",
    "repetition",
    {"any": ["agreement", {"all": ["confidence", "entropy"]}]},
    {"not": {"any": [{"not": "compression"}, {"not": "rate"}]}},
    "duration",
    "keep_best",
]


def table(rows: int, seed: int = 1) -> pa.Table:
    """A score table of `rows` labels whose agreement and confidence follow their WER, with noise."""
    rng = np.random.default_rng(seed)
    errors = rng.binomial(10, rng.beta(1, 3, rows))
    wer, noise = errors / 10, lambda: rng.normal(0, 0.15, rows)
    ids = pa.array([f"made/{n:08d}" for n in range(rows)])
    made = {
        "utt_id": ids, "parent": ids, "recording": ids, "source": pa.repeat("made", rows),
        "domain": pa.array([f"d{n}" for n in rng.integers(0, 8, rows)]), "language": pa.repeat("en", rows),
        "speaker": pa.array([f"s{n}" for n in rng.integers(0, max(rows // 50, 1), rows)]),
        "teacher_text": pa.repeat("a label of ten words that says what was said", rows),
        "validator_text": pa.repeat("a label of ten words that says what was heard", rows),
        "reference": pa.repeat("a label of ten words that says what was said", rows),
        "segments": pa.array([[]] * rows, manifest.SCORE.field("segments").type),
        "duration_s": rng.uniform(0.2, 31, rows), "start_s": np.zeros(rows), "end_s": np.ones(rows),
        "offset_s": np.zeros(rows), "ref_wer": wer, "ref_wer_errors": errors, "ref_words": np.full(rows, 10),
        "agreement_mer": np.clip(wer + noise(), 0, None), "teacher_repeats": rng.random(rows) < 0.01,
        "mean_logprob": -np.abs(wer + noise()), "mean_entropy": np.abs(2 * wer + noise()),
        "compression_ratio": rng.uniform(0.6, 2.6, rows), "words": np.full(rows, 10),
        "words_per_s": rng.uniform(0, 9, rows), "chars_per_s": rng.uniform(0, 42, rows),
    }  # fmt: skip
    columns = [pa.array(made[f.name], f.type) if f.name in made else pa.nulls(rows, f.type) for f in manifest.SCORE]
    return pa.Table.from_arrays(columns, schema=manifest.SCORE)


def peak_mb() -> int:
    """The most memory that this process has held so far, in MB."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale // 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--params", type=Path, default=config.PARAMS)
    at = parser.parse_args()
    params = config.load(at.params)
    chosen = params.filter.model_copy(update={"keep_if": COMBINED})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest.write(folder / "scores.parquet", table(at.rows), manifest.SCORE)
        print(f"{at.rows:,} rows, {(folder / 'scores.parquet').stat().st_size / 1e6:.0f} MB; at rest {peak_mb():,} MB")
        start = time.perf_counter(), time.process_time()
        rules = filtering.rules(chosen, params.filters)
        outs = [folder / part for part in ("kept.parquet", "rejected.parquet", "filter.json")]
        filtering.split(folder / "scores.parquet", *outs, rules)
        middle = time.perf_counter(), time.process_time()
        print(
            f"filtering  {middle[0] - start[0]:6.1f} s, {middle[1] - start[1]:6.1f} s of CPU, {peak_mb():,} MB at most"
        )
        paths = judgement.Paths(*(folder / part for part in ("j.json", "c.csv", "r.csv", "d.csv")))
        judgement.write(folder / "scores.parquet", rules, chosen.judgement, paths)
        end = time.perf_counter(), time.process_time()
        print(f"judgement  {end[0] - middle[0]:6.1f} s, {end[1] - middle[1]:6.1f} s of CPU, {peak_mb():,} MB at most")
        rejected = manifest.read(outs[1], manifest.REJECTED).num_rows
        print(f"rejected   {rejected:,}, each with its reasons")


if __name__ == "__main__":
    main()
