"""Drops labels that would have to be spoken too fast or too slowly: more words than fit, or hardly any."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import KeepOrDrop, Limit, Limited

Bound = Annotated[float, Field(ge=0)]


class Rate(Limited):
    class Config(Section):
        min_words_per_s: Bound
        max_words_per_s: Bound
        min_chars_per_s: Bound  # characters without spaces
        max_chars_per_s: Bound
        without_value: KeepOrDrop

    def __init__(self, config: Config) -> None:
        self.config = config
        limits = []
        for unit, column, least, most in (
            ("words", "words_per_s", config.min_words_per_s, config.max_words_per_s),
            ("characters", "chars_per_s", config.min_chars_per_s, config.max_chars_per_s),
        ):
            absent = f"{unit} per second are not known"
            limits.append(Limit(column, f"{unit} per second below {least}", absent, config.without_value, least=least))
            limits.append(Limit(column, f"{unit} per second above {most}", absent, config.without_value, most=most))
        self.limits = tuple(limits)
