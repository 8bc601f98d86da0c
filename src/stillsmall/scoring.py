"""Every measure of every label, computed once: the score table. Filters are views of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillsmall import manifest, metrics
from stillsmall import text as texts
from stillsmall.config import Score


class ScoreError(ValueError):
    """Labels and validations that do not belong together."""


def score(split: Path, labels: Path, validations: Path, out: Path, config: Score) -> None:
    """Joins manifest, labels and validations by utterance and writes one `manifest.SCORE` row per label.

    Raises ScoreError, naming the first ids, where a label has no validation or no utterance.
    """
    known = {row["utt_id"]: row for row in manifest.rows(split / "manifest.parquet", manifest.UTTERANCE)}
    validated = {row["utt_id"]: row for row in manifest.rows(validations, manifest.HYPOTHESIS)}
    labelled = manifest.rows(labels, manifest.HYPOTHESIS)
    lost = [row["utt_id"] for row in labelled if row["utt_id"] not in validated or row["parent"] not in known]
    if lost:
        raise ScoreError(f"{len(lost)} labels have no validation or no utterance, first {lost[:3]}; run validate again")
    rows = [score_row(known[row["parent"]], row, validated[row["utt_id"]], config) for row in labelled]
    manifest.write(out, sorted(rows, key=lambda row: str(row["utt_id"])), manifest.SCORE)


def score_row(
    utterance: dict[str, Any], label: dict[str, Any], validation: dict[str, Any], config: Score
) -> dict[str, Any]:
    """One row of the score table. The validator is the reference of the agreement (K2D 2407.10603)."""
    teacher, validator, language = label["text"], validation["text"], utterance["language"]
    if language == manifest.UNDETERMINED:
        language = label["language"]  # what the teacher heard
    whole = label["utt_id"] == label["parent"]
    duration = label["end_s"] - label["start_s"]
    spoken = texts.normalise(teacher, language)
    units = texts.words(spoken, language)
    keep = ("utt_id", "parent", "start_s", "end_s", "segments", "mean_logprob", "mean_entropy", "compression_ratio")
    carried = {"source", "domain", "speaker", "recording", "offset_s"}
    return {
        **{name: label[name] for name in (*keep, "no_speech_prob")},
        **{name: utterance[name] for name in carried},
        **_agreement(teacher, validator),
        **(_against_reference(utterance["text"], teacher, language) if whole else {"reference": None}),
        "language": language,
        "duration_s": duration,
        "teacher_text": teacher,
        "validator_text": validator,
        "teacher_repeats": metrics.repeats(teacher, config.repetition_ngram, config.repetition_max),
        "validator_repeats": metrics.repeats(validator, config.repetition_ngram, config.repetition_max),
        "confidence": None if label["mean_logprob"] is None else _exp(label["mean_logprob"]),
        "words": len(units),
        "words_per_s": len(units) / duration if duration else None,
        "chars_per_s": len(spoken.replace(" ", "")) / duration if duration else None,
    }


def _exp(value: float) -> float:
    import math

    return math.exp(value)


def _agreement(teacher: str, validator: str) -> dict[str, Any]:
    """MER against the validator; where the validator heard nothing there is no rate, only the errors."""
    counts = metrics.mer(validator, teacher)
    return {
        "agreement_mer": counts.rate if counts.reference_units else (0.0 if not counts.errors else None),
        "agreement_mer_errors": counts.errors,
        "agreement_units": counts.reference_units,
    }


def _against_reference(reference: str | None, teacher: str, language: str) -> dict[str, Any]:
    """WER and CER against the transcript, where there is one. A transcript may be empty: nothing was said."""
    if reference is None:
        return {"reference": None}
    words = metrics.wer(reference, teacher, language, "normalised")
    letters = metrics.cer(reference, teacher, language, "normalised")
    return {
        "reference": reference,
        "ref_wer": words.rate if words.reference_units else (0.0 if not words.errors else None),
        "ref_wer_errors": words.errors,
        "ref_words": words.reference_units,
        "ref_cer": letters.rate if letters.reference_units else (0.0 if not letters.errors else None),
        "ref_cer_errors": letters.errors,
        "ref_chars": letters.reference_units,
    }
