"""Drops labels that a text language model finds unlikely (label-free baseline of 2407.01257)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import KeepOrDrop, Limit, Limited


class Likelihood(Limited):
    class Config(Section):
        min_lm_logprob: Annotated[float, Field(le=0)]  # nats per token of the language model
        without_value: KeepOrDrop

    def __init__(self, config: Config) -> None:
        self.config = config
        reason = f"log-probability by the language model is below {config.min_lm_logprob}"
        absent = "no language model has read the label"
        self.limits = (Limit("lm_logprob", reason, absent, config.without_value, least=config.min_lm_logprob),)
