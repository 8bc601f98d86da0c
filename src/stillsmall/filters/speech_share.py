"""Drops labels of audio that is mostly no speech, by a voice-activity model: what is said there is made up."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import KeepOrDrop, Limit, Limited


class SpeechShare(Limited):
    class Config(Section):
        min_share: Annotated[float, Field(ge=0, le=1)]  # of the label's seconds
        without_value: KeepOrDrop

    def __init__(self, config: Config) -> None:
        self.config = config
        reason = f"share of speech in the audio is below {config.min_share}"
        absent = "nobody looked for speech in the audio"
        self.limits = (Limit("speech_share", reason, absent, config.without_value, least=config.min_share),)
