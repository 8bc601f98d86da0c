"""Which filters find which trouble: known faults put into the labels of real speech, and what each filter rejects.

    python benchmarks/filters_on_real_speech.py --scores data/scores.parquet

Reads the score table of a finished run on transcribed speech (and params.yaml for the thresholds); changes nothing.
Prints a Markdown table, means over draws: the share of each kind of injected label that a filter rejects, the share of
good labels (WER of at most 40 % against the transcript) that it keeps, and the labels' WER (summed errors over summed
words, insertions over silence among them) before and after.

The trouble is put into the *table*, not into the audio, each kind into its share of the labels:
    silence    the transcript becomes empty and the validator's text too; the teacher's text is a stock hallucination
    word loop  the label's last word stands 20 times more
    label loop the label stands 6 times in all
    swapped    the label is that of another utterance
    cut        only the first third of the label's words is left
Text scores are counted anew (agreement by MER, PER and the composite, loops, compression, words, rates, WER, the
language of the text). What the teacher alone could say (probabilities, entropies, likelihood), and what is heard in
audio that isn't there (the speech of silence), cannot be known: those values become null and are kept
(`without_value: keep`), and a filter that reads only such values shows dashes. Real faults would also show in the
teacher's probabilities, and a validator may make a fault of its own: this is a test of what the texts alone give away.
trouble_in_audio.py puts faults into the audio instead.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stillsmall import config, filtering, language_identity, manifest, measures, metrics
from stillsmall import text as texts
from stillsmall.filters.combination import Rules

GOOD_WER = 0.4
STOCK = ("thank you for watching", "thanks for watching please subscribe", "subtitles by the community", "you")
KINDS = ("silence", "word loop", "label loop", "swapped", "cut")
BY_MODEL = {"mean_logprob", "confidence", "mean_entropy", "no_speech_prob", "lm_logprob"}
BY_AUDIO = {"speech_share", "silence_share", "heard_language", "heard_language_prob"}
CARRIED = {"utt_id", "domain", "language"}  # what a filter may read that is no score
AGREEMENTS: dict[str, Any] = {  # sections for every run, beside those of params.yaml
    "agreement_0.2": {"kind": "agreement", "measure": "mer", "max_distance": 0.2, "without_value": "drop"},
    "agreement_per": {"kind": "agreement", "measure": "per", "max_distance": 0.4, "without_value": "drop"},
    "agreement_composite": {"kind": "agreement", "measure": "composite", "max_distance": 0.4, "without_value": "drop"},
}
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a score table; optional columns that an older table lacks are null."""
    table = pq.read_table(path)
    columns = [
        table[f.name].combine_chunks() if f.name in table.schema.names else pa.nulls(table.num_rows, f.type)
        for f in manifest.SCORE
    ]
    return pa.Table.from_arrays(columns, schema=manifest.SCORE).to_pylist()


def scored(row: Row, teacher: str, score: config.Score) -> Row:
    """The row with another label, its text scores counted anew and its model scores null."""
    language, duration = row["language"], row["duration_s"]
    spoken = texts.normalise(teacher, language)
    units = texts.words(spoken, language)
    against = metrics.wer(row["reference"], teacher, language, "normalised")
    written = language_identity.of_text(teacher)
    heard = (row["heard_language"], row["heard_language_prob"])
    limits = (score.language_probability, score.language_letters)
    return {
        **row,
        **dict.fromkeys(BY_MODEL),
        **agreement(row["validator_text"], teacher, language, score),
        "teacher_text": teacher,
        "words": len(units),
        "words_per_s": len(units) / duration,
        "chars_per_s": len(spoken.replace(" ", "")) / duration,
        "compression_ratio": metrics.compression_ratio(teacher),
        "text_language": written[0],
        "text_language_prob": written[1],
        "language_mismatch": language_identity.mismatch(language, teacher, written, heard, *limits),
        "ref_wer": metrics.rate(against.errors, against.reference_units),
        "ref_wer_errors": against.errors,
        "ref_words": against.reference_units,
    }


def agreement(validator: str, teacher: str, language: str, score: config.Score) -> Row:
    """The columns of the validator's agreement, as the stage counts them."""
    units = {text: texts.mixed_units(text) for text in (teacher, validator)}
    found = measures.agreement([teacher], [validator], [language], units, score)
    return {name: values[0] for name, values in found.items()}


def trouble(kind: str, row: Row, other: Row, rng: np.random.Generator, score: config.Score) -> Row:
    """The row with one kind of trouble in it; `other` is the row whose label a swapped one takes."""
    words = row["teacher_text"].split()
    if kind == "silence":
        empty = {**row, **dict.fromkeys(BY_AUDIO), "reference": "", "validator_text": ""}
        return scored(empty, str(rng.choice(STOCK)), score)
    made = {
        "word loop": " ".join([*words, *words[-1:] * 20]),
        "label loop": " ".join(words * 6),
        "swapped": other["teacher_text"],
        "cut": " ".join(words[: max(len(words) // 3, 1)]),
    }
    return scored(row, made[kind], score)


def inject(rows: list[Row], share: float, seed: int, score: config.Score) -> tuple[list[Row], list[str]]:
    """The rows with `share` of each kind, and the kind of every row ('' is as it was)."""
    rng = np.random.default_rng(seed)
    fit = [n for n, row in enumerate(rows) if len(row["teacher_text"].split()) >= 3]  # a cut has to cut
    count = round(share * len(rows))
    chosen = rng.permutation(fit)[: count * len(KINDS)].reshape(len(KINDS), count)
    made, kinds = list(rows), [""] * len(rows)
    for kind, places in zip(KINDS, chosen, strict=True):
        for place, other in zip(places, np.roll(places, 1), strict=True):
            made[place] = trouble(kind, rows[place], rows[other], rng, score)
            kinds[place] = kind
    return made, kinds


def wer(rows: list[Row]) -> float:
    return float(sum(row["ref_wer_errors"] for row in rows) / max(sum(row["ref_words"] for row in rows), 1))


def measure(rows: list[Row], kinds: list[str], rules: Rules, found: dict[str, dict[str, list[float]]]) -> None:
    """Adds one draw's figures for every rule and the combination."""
    table = pa.Table.from_pylist(rows, schema=manifest.SCORE)
    rules.fit(table, everything=True)
    kind = np.array(kinds)
    good = np.array([row["ref_wer"] is not None and row["ref_wer"] <= GOOD_WER for row in rows]) & (kind == "")
    masks = {name: rule.keeps(table) for name, rule in rules.sections.items()} | {"keep_if": rules.keeps(table)}
    for name, keeps in masks.items():
        reads = read_by(rules, name)
        for word in KINDS:
            has = not reads or any(row[column] is not None for row in compress(rows, kind == word) for column in reads)
            found[name][word].append(float((~keeps[kind == word]).mean()) if has else float("nan"))
        found[name]["kept"].append(float(keeps.mean()))
        found[name]["good"].append(float(keeps[good].mean()))
        found[name]["before"].append(wer(rows))
        found[name]["after"].append(wer([row for row, keep in zip(rows, keeps, strict=True) if keep]))


def read_by(rules: Rules, name: str) -> list[str]:
    """The scores that a rule reads; of the combination, those of every label."""
    columns = rules.sections[name].columns if name in rules.sections else ["words"]
    return [column for column in columns if column not in CARRIED]


def markdown(rules: Rules, rows: list[Row], found: dict[str, dict[str, list[float]]]) -> str:
    """The table; filters whose values no row has are left out and named below it."""
    lines = [f"| filter | {' | '.join(KINDS)} | good labels kept | labels kept | label WER after |"]
    lines.append("|" + "---|" * (len(KINDS) + 4))
    absent = []
    for name, by in found.items():
        reads = read_by(rules, name)
        if reads and all(row[column] is None for row in rows for column in reads):
            absent.append(name)
            continue
        rates = [np.mean(by[kind]) for kind in KINDS]
        cells = ["–" if np.isnan(rate) else f"{100 * rate:.0f} %" for rate in rates]
        cells.append(f"{100 * np.mean(by['good']):.1f} %")
        cells += ["–" if np.isnan(sum(rates)) else f"{100 * np.mean(by[part]):.1f} %" for part in ("kept", "after")]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    before = np.mean(found["keep_if"]["before"])
    lines.append(f"\nLabel WER before: {100 * before:.1f} % ({100 * wer(rows):.1f} % without the injected trouble).")
    return "\n".join([*lines, f"No values in this table for: {', '.join(absent) or 'none'}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=config.PARAMS)
    parser.add_argument("--share", type=float, default=0.05, help="of the labels, for each kind of trouble")
    parser.add_argument("--draws", type=int, default=10)
    at = parser.parse_args()
    params = config.load(at.params)
    sections: dict[str, Any] = {
        name: section
        | ({"without_value": "keep"} if "without_value" in section else {})  # a null is of our making here
        for name, section in params.filters.items()
    }
    sections |= {**AGREEMENTS, "random": {"labels": {"match": params.filter.keep_if}, "seed": 1}}
    rules = filtering.rules(params.filter, sections)
    rows = [row for row in read(at.scores) if row["reference"] is not None and row["validator_text"] is not None]
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(at.draws):
        made, kinds = inject(rows, at.share, seed, params.score)
        measure(made, kinds, rules, found)
    print(f"{len(rows)} labels, {at.share:.0%} of them with each kind of trouble, means of {at.draws} draws\n")
    print(markdown(rules, rows, found))


if __name__ == "__main__":
    main()
