"""Drops labels of outlying length in seconds: clips too short to hold a word, or longer than the student's window."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import Limit, Limited


class Duration(Limited):
    class Config(Section):
        min_s: Annotated[float, Field(ge=0)]
        max_s: Annotated[float, Field(gt=0)]

    def __init__(self, config: Config) -> None:
        self.config = config
        absent = "the label has no length"  # the schema forbids it; the rule must hold all the same
        short, long = f"shorter than {config.min_s} s", f"longer than {config.max_s} s"
        self.limits = (
            Limit("duration_s", short, absent, "drop", least=config.min_s),
            Limit("duration_s", long, absent, "drop", most=config.max_s),
        )
