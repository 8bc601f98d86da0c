"""A training set of given proportions: so many labels of each domain, source or language, exactly, by a seeded draw.

The Arabic students (2406.04512) learn from a mixture of corpora, each with its share of 100,000 or 500,000 segments.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from fractions import Fraction

import pyarrow as pa

from stillsmall.config import ConfigError, Mixture
from stillsmall.plugins import nearest

PATH = "filter.mixture"


def draw(table: pa.Table, config: Mixture) -> dict[str, dict[str, str]]:
    """What the mixture leaves out of a score table: utt_id to what is said of it (rule, value in JSON, reason).

    The draw is by each label's own id and the seed, so the table's order and other labels do not matter to it.

    Raises ConfigError for a group that no row has, and, unless `shortage` is "less", for one that has too few.
    """
    groups: dict[str, list[str]] = {}
    for name, utt_id in zip(table[config.by].to_pylist(), table["utt_id"].to_pylist(), strict=True):
        groups.setdefault(name, []).append(utt_id)
    wanted = sizes({name: len(ids) for name, ids in groups.items()}, config)
    left_out: dict[str, dict[str, str]] = {}
    for name, ids in groups.items():
        number = wanted.get(name, 0)
        reason = f"beyond the mixture's {number} labels of {config.by} '{name}'"
        said = {"rule": "mixture", "value": json.dumps(name), "reason": reason}
        left_out |= dict.fromkeys(sorted(ids, key=lambda utt_id: _draw(config.seed, utt_id))[number:], said)
    return left_out


def _draw(seed: int, utt_id: str) -> str:
    return hashlib.sha256(f"mixture {seed} {utt_id}".encode()).hexdigest()


def sizes(available: Mapping[str, int], config: Mixture) -> dict[str, int]:
    """Labels wanted of each group. With shares and no total: as many as the scarcest group allows."""
    if isinstance(config.counts, dict):
        _known(config.counts, available, "counts")
        return _covered(config.counts, available, config)
    shares = dict.fromkeys(sorted(available), 1.0) if config.shares == "equal" else dict(config.shares or {})
    _known(shares, available, "shares")
    parts = {name: Fraction(str(share)) for name, share in shares.items()}
    whole = sum(parts.values())
    exact = {name: part / whole for name, part in parts.items() if part}
    total = config.total
    if total is None:
        total = math.floor(min(available[name] / part for name, part in exact.items()))
    return _covered(apportion(total, exact), available, config)


def apportion(total: int, shares: Mapping[str, Fraction]) -> dict[str, int]:
    """Whole numbers that add up to `total` and lie within one of `total * share` (largest remainders, ties by name)."""
    counts = {name: math.floor(total * share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: (counts[name] - total * shares[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _known(named: Mapping[str, object], available: Mapping[str, int], field: str) -> None:
    for name in named:
        if name not in available:
            raise ConfigError(f"{PATH}.{field}: no kept label is of '{name}'; {nearest(name, available)}")


def _covered(wanted: Mapping[str, int], available: Mapping[str, int], config: Mixture) -> dict[str, int]:
    short = {name: (available[name], number) for name, number in wanted.items() if available[name] < number}
    if short and config.shortage == "error":
        lacks = ", ".join(f"'{name}' has {has} of {number}" for name, (has, number) in sorted(short.items()))
        raise ConfigError(
            f"{PATH}: too few kept labels: {lacks}. Ask for fewer, filter less, or set {PATH}.shortage: less"
        )
    return {name: min(number, available[name]) for name, number in wanted.items()}
