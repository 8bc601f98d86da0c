"""Keeps labels close to the transcript: WER <= lambda (2406.04512), or < lambda as Distil-Whisper has it (strict)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import Field

from stillsmall.config import Section
from stillsmall.filters.base import Filter, KeepOrDrop, Mask, Row, Verdict, missing, numbers


class ReferenceWer(Filter):
    columns = ("reference", "ref_wer")

    class Config(Section):
        max_wer: Annotated[float, Field(ge=0)]  # lambda: 0.8 is the Arabic paper's best, 0.1 Distil-Whisper's
        strict: bool
        without_reference: KeepOrDrop

    def __init__(self, config: Config) -> None:
        self.config = config
        self.reason = f"WER against the transcript is {'not below' if config.strict else 'above'} {config.max_wer}"

    def judge(self, row: Row) -> Verdict:
        if row["reference"] is None:
            return Verdict(self.config.without_reference == "keep", None, "there is no transcript to compare with")
        wer, limit = row["ref_wer"], self.config.max_wer
        if missing(wer):
            return Verdict(False, None, "words were heard where the transcript is empty")
        return Verdict(wer < limit if self.config.strict else wer <= limit, wer, self.reason)

    def keeps(self, table: pa.Table) -> Mask:
        wer = numbers(table, "ref_wer")  # no rate (NaN) is within no limit
        close = wer < self.config.max_wer if self.config.strict else wer <= self.config.max_wer
        transcribed = table["reference"].is_valid().to_numpy(zero_copy_only=False)
        return np.where(transcribed, close, self.config.without_reference == "keep")
