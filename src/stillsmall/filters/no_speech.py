"""Whisper's own sign of silence (Radford et al. 2022, section 4.5): the probability of the no-speech token."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import KeepOrDrop, Limit, Limited


class NoSpeech(Limited):
    class Config(Section):
        max_probability: Annotated[float, Field(ge=0, le=1)]  # 0.6 in Whisper
        without_value: KeepOrDrop

    def __init__(self, config: Config) -> None:
        self.config = config
        reason = f"probability of no speech is above {config.max_probability}"
        absent = "the teacher gave no probability of no speech"
        self.limits = (Limit("no_speech_prob", reason, absent, config.without_value, most=config.max_probability),)
