"""Keeps labels of which the teacher was sure: mean log-probability per token (label-free baseline of 2407.01257)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import Verdict


class Confidence:
    class Config(Section):
        min_mean_logprob: Annotated[float, Field(le=0)]  # nats per token

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        value = row["mean_logprob"]
        if value is None:
            return Verdict(False, None, "the teacher gave no log-probabilities")
        limit = self.config.min_mean_logprob
        return Verdict(value >= limit, value, f"mean log-probability per token is below {limit}")
