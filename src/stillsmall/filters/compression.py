"""Whisper's own sign of a loop (Radford et al. 2022, section 4.5): text that zlib shortens too well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import Verdict


class Compression:
    class Config(Section):
        max_ratio: Annotated[float, Field(gt=0)]  # 2.4 in Whisper

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        value = row["compression_ratio"]
        if value is None:
            return Verdict(False, None, "the label has no compression ratio")
        return Verdict(value <= self.config.max_ratio, value, f"compression ratio is above {self.config.max_ratio}")
