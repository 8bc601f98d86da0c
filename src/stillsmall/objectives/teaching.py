"""Objectives that change what is heard of the teacher; an inner objective (`inner: {kind: kd, ...}`) then listens."""

from __future__ import annotations

from typing import Any, ClassVar

from stillsmall.config import ConfigError, Section
from stillsmall.objectives.base import Objective, ObjectiveError, Signals
from stillsmall.objectives.build import inline


class Teaching(Objective):
    """Base of them: holds `inner` and needs what it needs.

    `own` are the needs of the class itself; `gives` those of the inner objective that it makes itself.
    """

    class Config(Section):
        inner: dict[str, Any]

    own: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: Any, path: str = "objectives") -> None:
        """ConfigError where the inner objective does not listen to a teacher."""
        super().__init__(config, path)
        self.inner = inline(config.inner, f"{path}.inner")
        if "teacher" not in self.inner.needs:
            raise ConfigError(f"{path}.inner.kind: got '{config.inner['kind']}', which does not listen to any teacher")
        self.needs = self._with_own(self.inner.needs)
        self.self_kind, self.self_decay = self.inner.self_kind, self.inner.self_decay
        self.self_from = self.inner.self_from

    def needs_at(self, progress: float) -> frozenset[str]:
        return self._with_own(self.inner.needs_at(progress))

    def _with_own(self, needs: frozenset[str]) -> frozenset[str]:
        return (needs - self.gives) | self.own


def require_text_positions(model: Any, path: str, why: str) -> None:
    """ConfigError for a CTC model: its units are frames, which have no label and no prefix."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ConfigError(f"{path}: {why}; a CTC model has none. Use it with Whisper, or another objective here")


def refuse_frames(signals: Signals, path: str) -> None:
    """ObjectiveError for the signals of a CTC model."""
    if signals.frames is not None:
        raise ObjectiveError(f"{path}: works on positions of a text, and these signals are of a CTC model's frames")
