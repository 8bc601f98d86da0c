"""K2D's cross-model validation (2407.10603): keep iff delta(teacher, validator) <= a; the validator is reference.

delta is the mixed error rate (mer), the phoneme error rate (per), or the composite
max(h(teacher), min(1 - h(validator), PER)) of the paper's section 3.3, where h flags loops.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import Filter, KeepOrDrop, Limit, Mask, Row, Verdict, missing, numbers

NAMES = {"mer": "MER", "per": "PER", "composite": "composite distance"}
ERRORS = {"mer": "agreement_mer_errors", "per": "agreement_per_errors", "composite": "agreement_per_errors"}


class Agreement(Filter):
    class Config(Section):
        measure: Literal["mer", "per", "composite"]
        max_distance: Annotated[float, Field(ge=0)]  # the paper's a; 0.4 there
        without_value: KeepOrDrop  # the measure was not taken; where the validator heard nothing, the label drops

    def __init__(self, config: Config) -> None:
        self.config = config
        name = NAMES[config.measure]
        self.limit = Limit(
            f"agreement_{config.measure}",
            f"{name} against the validator is above {config.max_distance}",
            f"there is no {name} against the validator",
            config.without_value,
            most=config.max_distance,
        )
        self.errors = ERRORS[config.measure]
        self.columns = (self.limit.column, self.errors)

    def judge(self, row: Row) -> Verdict:
        if missing(row[self.limit.column]) and (row[self.errors] or 0) > 0:  # errors over no unit: there is no rate
            return Verdict(False, None, "the validator heard nothing where the teacher heard words")
        return self.limit.judge(row)

    def keeps(self, table: pa.Table) -> Mask:
        nothing = np.isnan(numbers(table, self.limit.column)) & (numbers(table, self.errors) > 0)
        return self.limit.keeps(table) & ~nothing
