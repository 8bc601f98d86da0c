"""How well scores and rules find wrong labels, judged by the transcripts where there are some. No model runs here.

A label is wrong at a limit t if its WER against the transcript is above t (2407.01257 has t = 0.8); words heard where
the transcript is empty are wrong at every t. A score finds wrong labels if it puts them above right ones: AUC. A rule
does if it rejects them: precision and recall.

    from metrics/filter_curves.csv:    domain,score,threshold,kept_share,kept_hours,label_wer
                                       child,agreement_mer,0.25,0.4832,0.31205,0.14286
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stillsmall import cache, manifest
from stillsmall.config import Judgement
from stillsmall.filters.base import Mask, numbers
from stillsmall.filters.combination import Rules
from stillsmall.stats import FEWEST_CLUSTERS, LEVEL

SCORES = {  # column to whether a higher value is the worse one; `confidence` ranks as mean_logprob does
    "agreement_mer": True,
    "agreement_per": True,
    "agreement_composite": True,
    "teacher_repeats": True,
    "validator_repeats": True,
    "mean_logprob": False,
    "mean_entropy": True,
    "compression_ratio": True,
    "no_speech_prob": True,
    "speech_share": False,
    "silence_share": True,
    "language_mismatch": True,
    "heard_language_prob": False,
    "text_language_prob": False,
    "lm_logprob": False,
    "words": False,
    "words_per_s": True,
    "chars_per_s": True,
    "duration_s": True,
}
UNHEARD = {  # a null of the column is the worst value, not a missing one, where this column counts errors
    "agreement_mer": "agreement_mer_errors",
    "agreement_per": "agreement_per_errors",
    "agreement_composite": "agreement_per_errors",
}
ALL, WHOLE = "all", "keep_if"  # the domain of all labels; the combination among the rules
MOST_CLUSTERS, MOST_BINS = 500, 250  # for the intervals alone: beyond, independent clusters and near scores merge
SECONDS_PER_HOUR = 3600
CURVES = ("domain", "score", "threshold", "kept_share", "kept_hours", "label_wer")
ROC = ("domain", "score", "wer_above", "false_positive_rate", "true_positive_rate")
DOMAINS = ("domain", "of", "name", "wer_above", "labels", "wrong", "auc", "low", "high", "precision", "recall", "f1")
DIGITS = 4  # behind the point, of what the curves hold
STRAIGHT = 0.001  # of a rate: what lies less off a line is on it
Numbers = NDArray[np.float64]
Json = dict[str, Any]


@dataclass(frozen=True)
class Paths:
    """Where the judgement is written."""

    summary: Path  # JSON: AUCs, precision and recall over all labels
    curves: Path  # CSV, columns CURVES
    roc: Path  # CSV, columns ROC
    domains: Path  # CSV, columns DOMAINS


@dataclass(frozen=True)
class Labels:
    """Labels with a transcript, as arrays of one length."""

    scores: Mapping[str, Numbers]  # the higher the worse, NaN where there is none
    flags: Mapping[str, Mask]  # per rule and for the combination: rejected
    wer: Numbers  # infinite where words were heard and none was said
    errors: Numbers
    words: Numbers
    hours: Numbers
    clusters: NDArray[np.int64]
    domain: NDArray[Any]

    def __len__(self) -> int:
        return len(self.wer)

    def where(self, mask: Mask) -> Labels:
        """Those of a mask; clusters are numbered anew."""
        parts = {name: getattr(self, name)[mask] for name in ("wer", "errors", "words", "hours", "domain")}
        clusters = np.unique(self.clusters[mask], return_inverse=True)[1]
        scores = {name: values[mask] for name, values in self.scores.items()}
        flags = {name: flagged[mask] for name, flagged in self.flags.items()}
        return Labels(scores=scores, flags=flags, clusters=clusters, **parts)


def write(scores: Path, rules: Rules, config: Judgement, paths: Paths) -> None:
    """Judges every score and every section of `filters` on the score table, and writes what `Paths` names.

    Without transcripts the summary gives the reason and the CSVs hold their headings alone.
    """
    table = manifest.read(scores, manifest.SCORE)
    rules.fit(table, everything=True)
    labels = take(table, rules)
    used = set(rules.root.leaves())
    parts = {ALL: labels} | {str(d): labels.where(labels.domain == d) for d in np.unique(labels.domain)}
    overall = judge(labels, used, config)
    cache.write_json(paths.summary, {"labels": table.num_rows, **overall})
    domains = {name: judge(part, used, config) for name, part in parts.items() if name != ALL}
    _csv(paths.domains, DOMAINS, (row for name, found in domains.items() for row in flat(name, found)))
    size = {name: config.curve_points if name == ALL else config.domain_points for name in parts}
    _csv(paths.curves, CURVES, (row for n, part in parts.items() for row in curves(n, part, size[n])))
    _csv(paths.roc, ROC, rocs(ALL, labels, config.wer_above, config.curve_points))  # of a domain, its AUC is enough


def take(table: pa.Table, rules: Rules) -> Labels:
    """The rows with a transcript, with every score turned so that more is worse."""
    rejected = {name: ~rule.keeps(table) for name, rule in rules.sections.items()} | {WHOLE: ~rules.keeps(table)}
    known = table["reference"].is_valid().to_numpy(zero_copy_only=False)
    table = table.filter(pa.array(known))
    wer, errors = numbers(table, "ref_wer"), np.nan_to_num(numbers(table, "ref_wer_errors"))
    clusters = pc.coalesce(table["speaker"], table["recording"], table["parent"])
    return Labels(
        scores={name: suspicion(table, name) for name in SCORES},
        flags={name: flags[known] for name, flags in rejected.items()},
        wer=np.where(np.isnan(wer), np.where(errors > 0, np.inf, 0.0), wer),
        errors=errors,
        words=np.nan_to_num(numbers(table, "ref_words")),
        hours=numbers(table, "duration_s") / SECONDS_PER_HOUR,
        clusters=np.asarray(pc.index_in(clusters, pc.unique(clusters)).to_numpy(), dtype=np.int64),
        domain=table["domain"].to_numpy(zero_copy_only=False),
    )


def suspicion(table: pa.Table, score: str) -> Numbers:
    """A score column, the higher the worse; infinite where the validator heard nothing at all."""
    values = numbers(table, score) * (1 if SCORES[score] else -1)
    if score in UNHEARD:
        values = np.where(np.isnan(values) & (numbers(table, UNHEARD[score]) > 0), np.inf, values)
    return values


def limit_name(limit: float) -> str:
    """0.4 -> 'above_40': a limit as a key."""
    return f"above_{100 * limit:g}"


def judge(labels: Labels, used: set[str], config: Judgement) -> Json:
    """AUCs with intervals, precision and recall: null with a reason where they cannot be had."""
    said = None if len(labels) else "no label has a transcript to be judged by"
    wrong = {limit_name(limit): labels.wer > limit for limit in config.wer_above}
    clusters = int(labels.clusters.max()) + 1 if len(labels) else 0
    draws = _draws(labels, config)
    counted = {key: {"labels": int(mask.sum())} for key, mask in wrong.items()}
    return {
        "with_transcript": len(labels),
        "clusters": clusters,
        "reason": said,
        "wrong": counted if len(labels) else {},
        "auc": {name: _aucs(name, labels, wrong, draws) for name in labels.scores} if len(labels) else {},
        "rules": {n: _rule(n, labels, wrong, n in used) for n in labels.flags} if len(labels) else {},
    }


def _aucs(name: str, labels: Labels, wrong: Mapping[str, Mask], draws: Numbers) -> Json:
    have = ~np.isnan(labels.scores[name])
    found: Json = {"higher_is_worse": SCORES[name], "labels": int(have.sum())}
    if not have.any():
        return found | {"reason": "no label has this score"}
    codes = np.unique(labels.scores[name][have], return_inverse=True)[1]
    for key, mask in wrong.items():
        found[key] = auc(codes, mask[have], labels.clusters[have], draws)
    return found


def auc(codes: NDArray[np.int64], wrong: Mask, clusters: NDArray[np.int64], draws: Numbers) -> Json:
    """Area under the ROC curve of ordinal codes (the higher the worse), with its bootstrap interval over clusters.

    `draws` [resamples, clusters] says how often each cluster is drawn. Bounds are None from fewer than five clusters.
    """
    from sklearn.metrics import roc_auc_score

    if wrong.all() or not wrong.any():
        return {"value": None, "reason": f"{'every' if wrong.any() else 'no'} label is wrong"}
    value = float(roc_auc_score(wrong, codes))
    if len(np.unique(clusters)) < FEWEST_CLUSTERS:
        return {"value": round(value, 6), "low": None, "high": None, "reason": "too few clusters for an interval"}
    bins = (np.cumsum(np.bincount(codes)) - 1) * MOST_BINS // len(codes) if codes.max() >= MOST_BINS else None
    codes = np.unique(bins[codes], return_inverse=True)[1] if bins is not None else codes
    groups, size = draws.shape[1], int(codes.max()) + 1
    place = (clusters % groups) * size + codes
    bad, good = (draws @ np.bincount(place, mask, groups * size).reshape(groups, size) for mask in (wrong, ~wrong))
    pairs = bad.sum(1) * good.sum(1)
    won = (bad * (np.cumsum(good, axis=1) - good / 2)).sum(1)  # right labels below, and half of those level
    sampled = won[pairs > 0] / pairs[pairs > 0]
    if not len(sampled):
        return {"value": round(value, 6), "low": None, "high": None, "reason": "no resample has right and wrong labels"}
    low, high = (round(float(v), 6) for v in np.quantile(sampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return {"value": round(value, 6), "low": low, "high": high}


def _draws(labels: Labels, config: Judgement) -> Numbers:
    """[resamples, clusters]: how often each cluster is drawn; with very many, clusters share a place."""
    count = min(int(labels.clusters.max()) + 1, MOST_CLUSTERS) if len(labels) else 1
    drawn = np.random.default_rng(config.seed).multinomial(count, np.full(count, 1 / count), config.resamples)
    return drawn.astype(np.float64)


def _rule(name: str, labels: Labels, wrong: Mapping[str, Mask], used: bool) -> Json:
    flagged = labels.flags[name]
    found: Json = {"used": used or name == WHOLE, "rejected": int(flagged.sum())}
    return found | {key: precision_recall(flagged, mask) for key, mask in wrong.items()}


def precision_recall(flagged: Mask, wrong: Mask) -> Json:
    """Of the rejected the share that is wrong, of the wrong the share that is rejected, and their harmonic mean."""
    hits, rejected, bad = int((flagged & wrong).sum()), int(flagged.sum()), int(wrong.sum())
    lacking = [said for count, said in ((rejected, "it rejects no label"), (bad, "no label is wrong")) if not count]
    return ({"reason": "; ".join(lacking)} if lacking else {}) | {
        "precision": round(hits / rejected, 6) if rejected else None,
        "recall": round(hits / bad, 6) if bad else None,
        "f1": round(2 * hits / (rejected + bad), 6) if rejected and bad else None,
    }


def flat(domain: str, found: Json) -> Iterator[tuple[Any, ...]]:
    """The judgement of a domain as rows of DOMAINS."""
    for key, part in found["wrong"].items():
        for name, by in found["auc"].items():
            if key in by:
                bounds = tuple(by[key].get(k) for k in ("value", "low", "high"))
                yield (domain, "score", name, key, by["labels"], part["labels"], *bounds, None, None, None)
        for name, by in found["rules"].items():
            rates = tuple(by[key][k] for k in ("precision", "recall", "f1"))
            yield (domain, "rule", name, key, found["with_transcript"], part["labels"], None, None, None, *rates)


def curves(domain: str, labels: Labels, points: int) -> Iterator[tuple[Any, ...]]:
    """Rows of CURVES: what each score's threshold would keep, from strict to lax; the combination is one point."""
    for name, values in labels.scores.items():
        order = np.argsort(values, kind="stable")[: int((~np.isnan(values)).sum())]
        ends = _thinned(np.flatnonzero(np.diff(values[order], append=np.nan) != 0), points)
        sums = [np.cumsum(part[order])[ends] for part in (labels.hours, labels.errors, labels.words)]
        limits = values[order][ends] * (1 if SCORES[name] else -1)
        for end, limit, hours, errors, words in zip(ends, limits, *sums, strict=True):
            rate = short(errors / words) if words else None
            yield domain, name, f"{limit:.4g}", short((int(end) + 1) / len(labels)), short(hours), rate
    kept = ~labels.flags[WHOLE]
    if kept.any() and labels.words[kept].sum():
        hours, wer = float(labels.hours[kept].sum()), labels.errors[kept].sum() / labels.words[kept].sum()
        yield domain, WHOLE, None, short(kept.mean()), short(hours), short(wer)


def rocs(domain: str, labels: Labels, limits: Iterable[float], points: int) -> Iterator[tuple[Any, ...]]:
    """Rows of ROC, wherever there are both wrong and right labels: the corners of the curve."""
    from sklearn.metrics import roc_curve

    for limit in limits:
        for name, values in labels.scores.items():
            have = ~np.isnan(values)
            wrong = labels.wer[have] > limit
            if wrong.any() and not wrong.all():
                falsely, truly, _ = roc_curve(wrong, np.unique(values[have], return_inverse=True)[1])
                places = _thinned(np.arange(len(falsely)), points)
                for x, y in corners(falsely[places], truly[places]):
                    yield domain, name, f"{limit:g}", short(x), short(y)


def corners(x: Numbers, y: Numbers) -> list[tuple[float, float]]:
    """A line without the points that lie within STRAIGHT of the straight way between their neighbours."""
    found: list[tuple[float, float]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(found) > 1 and _beside(found[-2], found[-1], point) < STRAIGHT:
            found.pop()
        found.append(point)
    return found


def _beside(start: tuple[float, float], middle: tuple[float, float], end: tuple[float, float]) -> float:
    """How far the middle lies from the straight line between the others."""
    across, up = end[0] - start[0], end[1] - start[1]
    length = math.hypot(across, up)
    return abs(across * (middle[1] - start[1]) - up * (middle[0] - start[0])) / length if length else 0.0


def short(value: float) -> str:
    """A number as a table holds it, to DIGITS behind the point, without the zeros that say nothing."""
    return f"{float(value):.{DIGITS}f}".rstrip("0").rstrip(".")


def _thinned(places: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of the places, evenly, the first and the last among them."""
    if len(places) <= most:
        return places
    return places[np.unique(np.linspace(0, len(places) - 1, most).round().astype(int))]


def _csv(path: Path, columns: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    cache.write_bytes(path, text.getvalue().encode())
