"""The measures of a shard's labels, column by column: what is in the score table, from text, sound and model.

docs/scores.md says of each column what it means and when it is null. What needs no Python stays in Arrow; words and
phonemes are remembered, and distances come from rapidfuzz for all pairs of a column at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from stillsmall import language_identity, manifest, metrics, phonemes, voice_activity
from stillsmall import text as texts
from stillsmall.config import Score

Columns = dict[str, Any]  # name -> one value a row: an Arrow array or a list
Units = dict[str, list[str]]  # text -> its mixed units
FROM_LABEL = (
    *("utt_id", "parent", "start_s", "end_s", "segments", "mean_logprob", "mean_entropy", "compression_ratio"),
    *("no_speech_prob", "heard_language", "heard_language_prob"),
)
LABEL = (*FROM_LABEL, "language", "text")  # of manifest.HYPOTHESIS: all that is read
FROM_UTTERANCE = ("source", "domain", "speaker", "recording", "offset_s")
UTTERANCE = ("utt_id", *FROM_UTTERANCE, "language", "text", "shard")  # of manifest.UTTERANCE


def table(
    utterances: pa.Table,
    labels: pa.Table,
    heard: Sequence[str],
    config: Score,
    activity: Mapping[str, voice_activity.Activity] | None,
    lm_logprob: Sequence[float | None] | None,
) -> pa.Table:
    """`manifest.SCORE` rows of labels. Row i of `utterances` is its parent, `heard[i]` the validator's text.

    `activity` is per parent (None: not measured), `lm_logprob` per label (None: no language model).
    """
    declared, teacher = utterances["language"].to_pylist(), labels["text"].to_pylist()
    by_teacher = labels["language"].to_pylist()
    pairs = zip(declared, by_teacher, strict=True)
    languages = [b if a == manifest.UNDETERMINED else a for a, b in pairs]  # und: what the teacher heard
    durations = [end - start for start, end in _pairs(labels, "start_s", "end_s")]
    found: Columns = {name: labels[name] for name in FROM_LABEL} | {name: utterances[name] for name in FROM_UTTERANCE}
    found |= {"language": languages, "duration_s": durations, "teacher_text": teacher, "validator_text": heard}
    found |= {"confidence": [_exp(value) for value in labels["mean_logprob"].to_pylist()]}
    units = {text: texts.mixed_units(text) for text in {*teacher, *heard}}
    found |= agreement(teacher, heard, languages, units, config)
    found |= _spoken(utterances, labels, teacher, languages, durations, units)
    found |= _identity(labels, teacher, declared, config)
    found |= _sound(labels, activity, config)
    found |= {"lm_logprob": [None] * len(teacher) if lm_logprob is None else lm_logprob}
    return pa.table({field.name: _column(found[field.name], field) for field in manifest.SCORE}, schema=manifest.SCORE)


def _column(values: Any, field: pa.Field) -> Any:
    return pa.array(values, field.type) if isinstance(values, list) else values.cast(field.type)


def _pairs(rows: pa.Table, first: str, second: str) -> list[tuple[Any, Any]]:
    return list(zip(rows[first].to_pylist(), rows[second].to_pylist(), strict=True))


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)


def _rates(errors: Sequence[int], units: Sequence[int]) -> list[float | None]:
    return [metrics.rate(e, n) for e, n in zip(errors, units, strict=True)]


def agreement(
    teacher: Sequence[str], validator: Sequence[str], languages: Sequence[str], units: Units, config: Score
) -> Columns:
    """Distances to the validator, which is the reference (K2D 2407.10603, section 3), and the loops of both."""
    flagged = metrics.loops(list(units.values()), config.repetition_ngram, config.repetition_max)
    loops = dict(zip(units, flagged, strict=True))
    keys = {*zip(teacher, languages, strict=True), *zip(validator, languages, strict=True)}
    said = {(text, language): phonemes.of_units(units[text], language) for text, language in keys}
    found: Columns = {"teacher_repeats": [loops[text] for text in teacher]}
    found |= {"validator_repeats": [loops[text] for text in validator]}
    for name, unit, pairs in (
        ("mer", "units", [(units[v], units[t]) for t, v in zip(teacher, validator, strict=True)]),
        ("per", "phonemes", [(said[v, x], said[t, x]) for t, v, x in zip(teacher, validator, languages, strict=True)]),
    ):
        errors, sizes = metrics.distances(*zip(*pairs, strict=True)), [len(reference) for reference, _ in pairs]
        found |= {f"agreement_{name}": _rates(errors, sizes), f"agreement_{name}_errors": errors}
        found |= {f"agreement_{unit}": sizes}
    flags = zip(found["teacher_repeats"], found["validator_repeats"], found["agreement_per"], strict=True)
    return found | {"agreement_composite": [metrics.composite(*row) for row in flags]}


def _spoken(
    utterances: pa.Table,
    labels: pa.Table,
    teacher: list[str],
    languages: list[str],
    durations: list[float],
    units: Units,
) -> Columns:
    """Words, their rate, and the errors against the transcript, under the normaliser of each language."""
    spoken = [texts.normalise(text, language) for text, language in zip(teacher, languages, strict=True)]
    words = [texts.words(text, language) for text, language in zip(spoken, languages, strict=True)]
    letters = [len(text.replace(" ", "")) for text in spoken]
    whole = [name == parent for name, parent in _pairs(labels, "utt_id", "parent")]  # a stretch has no transcript
    known = [text if all_of_it else None for text, all_of_it in zip(utterances["text"].to_pylist(), whole, strict=True)]
    return {
        "words": [len(found) for found in words],
        "words_per_s": [len(n) / s if s else None for n, s in zip(words, durations, strict=True)],
        "chars_per_s": [n / s if s else None for n, s in zip(letters, durations, strict=True)],
        "reference": known,
        **against(known, [units[text] for text in teacher], spoken, words, languages),
    }


def against(
    references: Sequence[str | None],
    mixed: Sequence[list[str]],
    spoken: Sequence[str],
    words: Sequence[list[str]],
    languages: Sequence[str],
) -> Columns:
    """WER, CER and MER of labels (their mixed units, normalised text and words) against transcripts; null without one.

    A transcript may be empty: nothing was said.
    """
    rows = [(n, text, languages[n]) for n, text in enumerate(references) if text is not None]
    plain = [texts.normalise(text, language) for _, text, language in rows]
    said = [texts.words(text, language) for text, (_, _, language) in zip(plain, rows, strict=True)]
    letters = [texts.composed(text) for text in plain]
    measures: dict[str, tuple[str, list[Any], list[Any]]] = {
        "wer": ("words", said, [words[n] for n, *_ in rows]),
        "cer": ("chars", letters, [texts.composed(spoken[n]) for n, *_ in rows]),
        "mer": ("units", [texts.mixed_units(text) for _, text, _ in rows], [mixed[n] for n, *_ in rows]),
    }
    found: Columns = {}
    for name, (unit, reference, hypothesis) in measures.items():
        errors, sizes = metrics.distances(reference, hypothesis), [len(units) for units in reference]
        for column, values in (("", _rates(errors, sizes)), ("_errors", errors)):
            found[f"ref_{name}{column}"] = _spread(values, rows, len(mixed))
        found[f"ref_{unit}"] = _spread(sizes, rows, len(mixed))
    return found


def _spread(values: Sequence[Any], rows: Sequence[tuple[int, str, str]], length: int) -> list[Any]:
    column: list[Any] = [None] * length
    for value, (number, *_) in zip(values, rows, strict=True):
        column[number] = value
    return column


def _identity(labels: pa.Table, teacher: list[str], declared: list[str], config: Score) -> Columns:
    written = [language_identity.of_text(text) for text in teacher]
    heard = _pairs(labels, "heard_language", "heard_language_prob")
    limits = (config.language_probability, config.language_letters)
    rows = zip(declared, teacher, written, heard, strict=True)
    return {
        "text_language": [name for name, _ in written],
        "text_language_prob": [probability for _, probability in written],
        "language_mismatch": [language_identity.mismatch(*row, *limits) for row in rows],
    }


def _sound(labels: pa.Table, activity: Mapping[str, voice_activity.Activity] | None, config: Score) -> Columns:
    if activity is None:
        return {name: [None] * len(labels) for name in ("speech_share", "silence_share")}
    places = zip(labels["parent"].to_pylist(), *zip(*_pairs(labels, "start_s", "end_s"), strict=True), strict=True)
    limits = (config.speech_threshold, config.silence_below_peak_db)
    shares = [voice_activity.shares(activity[name], start, end, *limits) for name, start, end in places]
    return {"speech_share": [speech for speech, _ in shares], "silence_share": [silence for _, silence in shares]}
