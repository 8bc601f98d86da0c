"""Keeps labels that say something once normalised; a label of punctuation alone teaches nothing."""

from __future__ import annotations

from stillsmall.config import Section
from stillsmall.filters.base import KeepOrDrop, Limit, Limited


class NotEmpty(Limited):
    class Config(Section):
        without_value: KeepOrDrop

    def __init__(self, config: Config) -> None:
        self.config = config
        absent = "the words of the label were not counted"
        self.limits = (Limit("words", "the label has no word", absent, config.without_value, least=1),)
