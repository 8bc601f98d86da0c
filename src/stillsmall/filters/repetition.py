"""K2D's flag h (2407.10603): drops labels in which some n-gram of characters occurs too often.

n and the count are `score.repetition_ngram` and `score.repetition_max`: the flag is computed once, with the scores.
"""

from __future__ import annotations

from stillsmall.config import Section
from stillsmall.filters.base import KeepOrDrop, Limit, Limited


class Repetition(Limited):
    class Config(Section):
        without_value: KeepOrDrop

    def __init__(self, config: Config) -> None:
        self.config = config
        reason, absent = "the teacher loops: an n-gram repeats", "nobody looked for loops"
        self.limits = (Limit("teacher_repeats", reason, absent, config.without_value, most=0),)
