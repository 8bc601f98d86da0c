"""Confidence intervals for corpus error rates: the bootstrap over speakers or recordings, never over words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

LEVEL = 0.95
FEWEST_CLUSTERS = 5  # below this an interval would mislead


@dataclass(frozen=True)
class Interval:
    """A rate or a difference of rates with its percentile interval; bounds are None where clusters are too few."""

    value: float
    low: float | None
    high: float | None
    clusters: int

    def as_dict(self) -> dict[str, float | int | None]:
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}


def bootstrap(
    clusters: Sequence[str], errors: Sequence[Sequence[int]], units: Sequence[int], resamples: int, seed: int
) -> tuple[Interval, ...]:
    """Corpus rates of one or two systems on the same utterances, and with two the difference second - first.

    `errors` holds one row of error counts per system. Whole clusters are drawn with replacement (Bisani & Ney 2004),
    paired: both systems are judged on the same draw.
    """
    names, inverse = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    per = np.stack([np.bincount(inverse, weights=row, minlength=len(names)) for row in (*errors, units)])
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    sums = draws @ per.T
    sums = sums[sums[:, -1] > 0]
    rates = list((sums[:, :-1] / sums[:, -1:]).T)
    values = list(per[:-1].sum(1) / per[-1].sum())
    if len(errors) == 2:
        rates.append(rates[1] - rates[0])
        values.append(values[1] - values[0])
    tail = (1 - LEVEL) / 2
    enough = len(names) >= FEWEST_CLUSTERS
    return tuple(
        Interval(
            float(value),
            float(np.quantile(rate, tail)) if enough else None,
            float(np.quantile(rate, 1 - tail)) if enough else None,
            len(names),
        )
        for value, rate in zip(values, rates, strict=True)
    )
