"""What training has to say: a bar on the terminal, skipped steps with their clips, and what a resumed run remembers."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

CLIPS_NAMED = 5


class TrainingError(RuntimeError):
    """Training that cannot go on; says at which step and why."""


@dataclass
class Memory:
    """All that a run knows besides tensors; JSON in each checkpoint, so that a resumed run has forgotten nothing."""

    step: int = 0  # steps that are done
    rows: list[dict[str, Any]] = field(default_factory=list)  # of the curve
    bad_steps: list[dict[str, Any]] = field(default_factory=list)  # skipped: step, why, clips
    bad_in_a_row: int = 0
    empty_steps: int = 0  # without a single unit of loss
    overflows: int = 0  # float16 alone: skipped, and the scale halved
    best_step: int | None = None  # of the lowest error rate on the dev set
    best_wer: float | None = None
    waited: int = 0  # evaluations since then
    stopped: bool = False  # by `distill.patience`
    scaler: dict[str, Any] | None = None
    seconds: float = 0.0  # of training, over all runs; evaluations included
    waiting_s: float = 0.0  # of these, for audio
    tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def judge(self, step: int, wer: float, patience: int | None) -> bool:
        """Takes the error rate after `step` steps; whether it is the best so far. Sets `stopped` out of patience."""
        better = self.best_wer is None or wer < self.best_wer
        if better:
            self.best_step, self.best_wer, self.waited = step, wer, 0
        else:
            self.waited += 1
            self.stopped = patience is not None and self.waited >= patience
        return better

    def bad(self, step: int, loss: float, norm: float, clips: tuple[str, ...], most: int) -> str:
        """Takes a step (from 1) that is skipped; what to say of it. TrainingError where it is one too many in a row."""
        self.bad_in_a_row += 1
        self.bad_steps.append({"step": step, "loss": str(loss), "gradient_norm": str(norm), "clips": list(clips)})
        more = f" and {len(clips) - CLIPS_NAMED} more" if len(clips) > CLIPS_NAMED else ""
        said = f"step {step}: loss {loss}, gradient norm {norm}: not finite"
        named = f"the clips of this step: {', '.join(clips[:CLIPS_NAMED])}{more}"
        if self.bad_in_a_row > most:
            raise TrainingError(
                f"{said}, {self.bad_in_a_row} in a row (distill.max_bad_steps: {most}). "
                f"Lower distill.learning_rate, or look at {named}"
            )
        return f"{said}: skipped ({self.bad_in_a_row} of at most {most} in a row); {named}"

    def speed(self, processes: int) -> dict[str, Any]:
        """Figures of the clock, which differ from run to run."""
        seconds = max(1e-9, self.seconds)
        return {
            "seconds": round(self.seconds, 3),
            "steps_per_s": round(self.step / seconds, 3),
            "tokens_per_s": round(self.tokens / seconds, 1),
            "waiting_share": round(self.waiting_s / seconds, 4),
            "processes": processes,
        }


class bar:
    """Progress on the terminal: loss, tokens a second, time left. Silent where it isn't `shown`."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        words = TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.0f} tokens/s")
        columns = (TextColumn("distill"), BarColumn(), MofNCompleteColumn(), words, TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), disable=not shown)
        self.task = self.progress.add_task("distill", total=total, completed=done, loss=math.nan, rate=0.0)
        self.since, self.tokens, self.total, self.done, self.shown = time.monotonic(), 0, total, done, shown

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        self.progress.start()
        if self.done and self.shown:
            print(f"distill: going on at step {self.done} of {self.total}", file=sys.stderr)
        return self.show

    def show(self, row: dict[str, Any]) -> None:
        self.tokens += row["tokens"]
        rate = self.tokens / max(1e-9, time.monotonic() - self.since)
        self.progress.update(self.task, completed=row["step"], loss=row.get("loss", math.nan), rate=rate)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
