"""Drops labels in another language than was asked for, by the ear of the recogniser or by the text itself.

`language_mismatch` of the scores says that one of the two identifications differs from the utterance's language;
it counts if the surest identification that differs is at least `min_probability` sure.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stillsmall.config import Section, Share
from stillsmall.filters.base import Filter, KeepOrDrop, Mask, Row, Verdict, missing, numbers

PAIRS = (("heard_language", "heard_language_prob"), ("text_language", "text_language_prob"))


class Language(Filter):
    columns = ("language", "language_mismatch", *(name for pair in PAIRS for name in pair))

    class Config(Section):
        min_probability: Share  # of the identification that differs; below it nobody was sure
        without_value: KeepOrDrop  # no language was identified, or with no probability

    def __init__(self, config: Config) -> None:
        self.config = config
        self.reason = f"another language, with a probability of at least {config.min_probability}"

    def judge(self, row: Row) -> Verdict:
        if row["language_mismatch"] is None:
            return Verdict(self.config.without_value == "keep", None, "no language was identified")
        if not row["language_mismatch"]:
            return Verdict(True, None, self.reason)
        others = [(row[p], row[name]) for name, p in PAIRS if row[name] not in (None, row["language"])]
        known = [(p, name) for p, name in others if not missing(p)]
        if not known:
            return Verdict(self.config.without_value == "keep", None, "another language, with no probability")
        probability, name = max(known)
        return Verdict(probability < self.config.min_probability, f"{name} {probability:.3f}", self.reason)

    def keeps(self, table: pa.Table) -> Mask:
        mismatch = numbers(table, "language_mismatch")
        surest = np.full(table.num_rows, -np.inf)
        for name, probability in PAIRS:
            differs = pc.fill_null(pc.not_equal(table[name], table["language"]), False).to_numpy(zero_copy_only=False)
            sure = numbers(table, probability)
            surest = np.where(differs & (sure > surest), sure, surest)  # a NaN is above nothing
        keep = np.where(np.isneginf(surest), self.config.without_value == "keep", surest < self.config.min_probability)
        return np.where(np.isnan(mismatch), self.config.without_value == "keep", (mismatch == 0) | keep)
