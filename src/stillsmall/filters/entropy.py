"""Keeps labels of which the teacher was sure: mean entropy of its token distributions (2407.01257)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import KeepOrDrop, Limit, Limited


class Entropy(Limited):
    class Config(Section):
        max_mean_entropy: Annotated[float, Field(ge=0)]  # nats per token
        without_value: KeepOrDrop

    def __init__(self, config: Config) -> None:
        self.config = config
        reason = f"mean entropy per token is above {config.max_mean_entropy}"
        absent = "the teacher gave no entropies"
        self.limits = (Limit("mean_entropy", reason, absent, config.without_value, most=config.max_mean_entropy),)
