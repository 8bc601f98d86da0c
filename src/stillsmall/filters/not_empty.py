"""Keeps labels that say something once normalised; a label of punctuation alone teaches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillsmall.config import Section
from stillsmall.filters.base import Verdict


class NotEmpty:
    class Config(Section):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        return Verdict(row["words"] > 0, row["words"], "the label has no word")
