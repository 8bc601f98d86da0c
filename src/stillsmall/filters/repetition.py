"""K2D's flag h (2407.10603): drops labels in which some n-gram of characters occurs too often.

n and the count are `score.repetition_ngram` and `score.repetition_max`: the flag is computed once, with the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillsmall.config import Section
from stillsmall.filters.base import Verdict


class Repetition:
    class Config(Section):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        return Verdict(not row["teacher_repeats"], row["teacher_repeats"], "the teacher loops: an n-gram repeats")
