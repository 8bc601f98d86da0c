"""K2D's cross-model validation (2407.10603): keep iff delta(teacher, validator) <= a; the validator is reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import Verdict


class Agreement:
    class Config(Section):
        max_mer: Annotated[float, Field(ge=0)]  # the paper's a; 0.4 there

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        mer = row["agreement_mer"]
        if mer is None:
            return Verdict(False, None, "the validator heard nothing where the teacher heard words")
        return Verdict(mer <= self.config.max_mer, mer, f"MER against the validator is above {self.config.max_mer}")
