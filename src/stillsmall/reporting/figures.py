"""Numbers as people read them: 12.3 % [10.1, 14.8]. Absence is said in words by whoever asks; here it is a dash."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

ABSENT = "–"
MINUS = "−"
BYTES_PER_MB = 1_000_000
MONTHS = (  # not the locale's: the same bytes anywhere
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def _signed(text: str) -> str:
    return text.replace("-", MINUS)


def percent(rate: float | None) -> str:
    """0.1234 -> '12.3 %'."""
    return ABSENT if rate is None else _signed(f"{100 * rate:.1f} %")


def points(difference: float | None) -> str:
    """A difference of two rates, 0.021 -> '+2.1 points'; what rounds to nothing carries no sign."""
    if difference is None:
        return ABSENT
    value = round(100 * difference, 1)
    return _signed(f"{value:+.1f} points") if value else "0.0 points"


def bounds(interval: Mapping[str, Any]) -> str | None:
    """'[10.1, 14.8]', in percent; None where there are no bounds."""
    if interval.get("low") is None or interval.get("high") is None:
        return None
    return _signed(f"[{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]")


def rate_with_bounds(interval: Mapping[str, Any]) -> str:
    """'12.3 % [10.1, 14.8]', or the rate alone."""
    return " ".join(part for part in (percent(interval.get("value")), bounds(interval)) if part)


def points_with_bounds(interval: Mapping[str, Any]) -> str:
    """'+2.1 points [1.0, 3.2]', or the difference alone."""
    return " ".join(part for part in (points(interval.get("value")), bounds(interval)) if part)


def count(number: float | None) -> str:
    """1980 -> '1,980'."""
    return ABSENT if number is None else _signed(f"{number:,.0f}")


def plural(number: int, one: str, many: str | None = None) -> str:
    """'1 label', '1,980 labels'."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def hours(value: float | None) -> str:
    """Hours with two decimals; what is there but less than that is not 0.00."""
    if value is None:
        return ABSENT
    return "<0.01" if 0 < value < 0.005 else f"{value:,.2f}"


def seconds(value: float) -> str:
    """3.42 -> '3.4 s'; from two minutes on, '2:05 min'."""
    return f"{value:.1f} s" if value < 120 else f"{int(value) // 60}:{int(value) % 60:02d} min"


def times(value: float | None, decimals: int = 2) -> str:
    """3.4 -> '3.40 ×'."""
    return ABSENT if value is None else f"{value:.{decimals}f} ×"


def number(value: Any) -> str:
    """Any value of a table or a verdict, three significant digits if it is a fraction."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    return _signed(f"{value:.3g}") if isinstance(value, float) else str(value)


def megabytes(value: float | None) -> str:
    return ABSENT if value is None else f"{value / BYTES_PER_MB:,.1f} MB"


def millions(value: float | None) -> str:
    """Parameters: 1534000 -> '1.53 M'."""
    return ABSENT if value is None else f"{value / 1e6:,.2f} M"


def moment(stamp: Any) -> str:
    """'2026-11-21T03:21:00+00:00' -> '03:21 UTC on 21 November 2026'; what is no timestamp stays as it is."""
    try:
        at = datetime.datetime.fromisoformat(str(stamp))
    except ValueError:
        return str(stamp)
    zone = at.tzname() or ""
    return f"{at:%H:%M} {zone} on {at.day} {MONTHS[at.month - 1]} {at.year}".replace("  ", " ")
