"""Keeps labels of which the teacher was sure: mean log-probability per token (label-free baseline of 2407.01257)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import KeepOrDrop, Limit, Limited


class Confidence(Limited):
    class Config(Section):
        min_mean_logprob: Annotated[float, Field(le=0)]  # nats per token
        without_value: KeepOrDrop

    def __init__(self, config: Config) -> None:
        self.config = config
        reason = f"mean log-probability per token is below {config.min_mean_logprob}"
        absent = "the teacher gave no log-probabilities"
        self.limits = (Limit("mean_logprob", reason, absent, config.without_value, least=config.min_mean_logprob),)
