"""Whisper's own sign of a loop (Radford et al. 2022, section 4.5): text that zlib shortens too well."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import KeepOrDrop, Limit, Limited


class Compression(Limited):
    class Config(Section):
        max_ratio: Annotated[float, Field(gt=0)]  # 2.4 in Whisper
        without_value: KeepOrDrop

    def __init__(self, config: Config) -> None:
        self.config = config
        reason = f"compression ratio is above {config.max_ratio}"
        absent = "the label has no compression ratio"
        self.limits = (Limit("compression_ratio", reason, absent, config.without_value, most=config.max_ratio),)
