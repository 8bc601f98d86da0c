"""Values that move with training: a schedule is data (kind, start, end, power) and a function of progress alone."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillsmall.config import ConfigError, Section

Kind = Literal["constant", "linear", "cosine", "exponential", "geometric", "sigmoid"]


class Schedule(Section):
    """From `start` at progress `begin` to `end` at `until`, both held outside; monotone, and exact at both ends.

    With v from 0 at `begin` to 1 at `until`, the share s of the way back to `start` is
    constant: 1; linear: (1 - v)^power; cosine: ((1 + cos(pi v)) / 2)^power;
    exponential: (e^(-power v) - e^-power) / (1 - e^-power);
    sigmoid: the logistic of power * (1/2 - v), scaled to reach 1 and 0; the value is end + (start - end) s.
    geometric: start * (end / start)^v, for values of one sign (ImitKD's 200^-v is from 1 to 0.005).
    """

    kind: Kind
    start: float
    end: float
    power: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    begin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    until: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _can_be(self) -> Schedule:
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError("start and end must be finite numbers")
        if self.begin >= self.until:
            raise ValueError(f"begin {self.begin} must lie before until {self.until}")
        if self.kind == "constant" and self.start != self.end:
            raise ValueError(f"a constant has one value, but start is {self.start} and end {self.end}")
        if self.kind == "geometric" and (0.0 in (self.start, self.end) or (self.start > 0) != (self.end > 0)):
            raise ValueError("a geometric schedule needs start and end of one sign, neither of them 0")
        return self

    def __call__(self, progress: float) -> float:
        """The value at `progress` in [0, 1]."""
        v = min(1.0, max(0.0, (progress - self.begin) / (self.until - self.begin)))
        if v in (0.0, 1.0):
            return self.start if v == 0.0 or self.kind == "constant" else self.end
        if self.kind == "geometric":
            return float(self.start * (self.end / self.start) ** v)
        return self.end + (self.start - self.end) * self._share(v)

    def _share(self, v: float) -> float:
        if self.kind == "constant":
            return 1.0
        if self.kind == "linear":
            return float((1.0 - v) ** self.power)
        if self.kind == "cosine":
            return float((0.5 * (1.0 + math.cos(math.pi * v))) ** self.power)
        if self.kind == "exponential":
            return math.exp(-self.power * v) * math.expm1(-self.power * (1.0 - v)) / math.expm1(-self.power)
        return 0.5 + 0.5 * math.tanh(self.power * (0.5 - v) / 2) / math.tanh(self.power / 4)  # overflows at no power


def within(schedule: Schedule, lowest: float, highest: float, path: str) -> Schedule:
    """The schedule; ConfigError where it leaves [lowest, highest] (being monotone, its ends tell)."""
    for end in ("start", "end"):
        value = getattr(schedule, end)
        if not lowest <= value <= highest:
            raise ConfigError(f"{path}.{end}: got {value}; expected a number from {lowest:g} to {highest:g}")
    return schedule
