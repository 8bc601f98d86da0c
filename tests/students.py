"""The section `student` of params.yaml, with what a test is about changed."""

from __future__ import annotations

from typing import Any

from stillsmall.config import Student, parse

WHOLE = {
    "model": None, "revision": None, "encoder_layers": None, "decoder_layers": None, "freeze_encoder": True,
    "freeze": [], "language_embedding": None,
    "vocabulary": "full", "vocabulary_min_count": 1, "pruning": None, "save_dtype": "float32",
}  # fmt: skip


def section(**changes: Any) -> Student:
    """A student that is its teacher but for `changes`; ConfigError where they cannot be."""
    return parse(Student, {**WHOLE, **changes}, "student")
