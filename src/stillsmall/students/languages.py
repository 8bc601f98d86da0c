"""Embeddings of language tokens that begin as the mean of others: K2D's code-switching token (2407.10603).

0.5 zh + 0.5 en, put on the token zh, says "Mandarin with English in it" to a decoder that knows each of the two. A name
that is given twice counts twice: mean_of [zh, zh, en] is 2/3 zh + 1/3 en.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from stillsmall.config import ConfigError, LanguageMean
from stillsmall.plugins import nearest


def mix(student: Any, means: Sequence[LanguageMean], path: str = "student.language_embedding") -> None:
    """Sets the embedding of each `token` to the mean of `mean_of`'s, in place; all read before any is written.

    With tied embeddings, Whisper's own, that row is the token's output row too, and so its logit moves: K2D does it on
    the shared matrix. Untied, the output row stays. Raises ConfigError for a language that the model does not have.
    """
    table = {name.strip("<|>"): token for name, token in (_languages(student) or {}).items()}
    rows = student.model.decoder.embed_tokens.weight

    def row(name: str, where: str) -> int:
        if not table:
            raise ConfigError(f"{where}: got '{name}', but the teacher is of one language and has no language tokens")
        if name not in table:
            raise ConfigError(f"{where}: unknown language '{name}'; {nearest(name, table)}")
        return int(table[name])

    with torch.no_grad():
        made = {}
        for number, entry in enumerate(means):
            where = f"{path}[{number}]"
            parts = [row(name, f"{where}.mean_of[{i}]") for i, name in enumerate(entry.mean_of)]
            made[row(entry.token, f"{where}.token")] = rows[parts].mean(0)
        for token, value in made.items():
            rows[token] = value


def _languages(student: Any) -> dict[str, int] | None:
    return getattr(student.generation_config, "lang_to_id", None)
