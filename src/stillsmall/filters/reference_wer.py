"""Keeps labels close to the transcript: WER <= lambda (2406.04512), or < lambda as Distil-Whisper has it (strict)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import Verdict


class ReferenceWer:
    class Config(Section):
        max_wer: Annotated[float, Field(ge=0)]  # lambda: 0.8 is the Arabic paper's best, 0.1 Distil-Whisper's
        strict: bool
        without_reference: Literal["keep", "drop"]

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        if row["reference"] is None:
            return Verdict(self.config.without_reference == "keep", None, "there is no transcript to compare with")
        wer, limit = row["ref_wer"], self.config.max_wer
        if wer is None:
            return Verdict(False, None, "words were heard where the transcript is empty")
        keep = wer < limit if self.config.strict else wer <= limit
        return Verdict(
            keep, wer, f"WER against the transcript is {'not below' if self.config.strict else 'above'} {limit}"
        )
