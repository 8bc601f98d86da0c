"""The report: one page with what went in, what came out, and the rejected labels to listen to. No model runs here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stillsmall import cache, manifest
from stillsmall.config import Params
from stillsmall.reporting import curves, examples, intake, judgement, page, results
from stillsmall.reporting.clips import Room
from stillsmall.reporting.examples import Example
from stillsmall.reporting.parts import Section

MEASURED = ["duration_s", "agreement_mer", "reference", "ref_wer_errors", "ref_words"]  # of the scores: all it needs


class ReportError(ValueError):
    """Something that the report cannot do without is missing; the message names it."""


@dataclass(frozen=True)
class Inputs:
    """Where the report reads: splits with their audio, tables, and the folder of metrics."""

    split: Path
    test: Path
    scores: Path
    rejected: Path
    evaluation: Path
    metrics: Path


def build(params: Params, inputs: Inputs) -> str:
    """The page as text; its bytes follow the inputs alone.

    Raises ReportError where the evaluation's or the filter's figures are missing; anything else may be absent.
    """
    evaluation, filtered = (_needed(inputs.metrics / f"{name}.json") for name in ("evaluate", "filter"))
    prepared, distilled, speed = (_json(inputs.metrics / f"{name}.json") for name in ("prepare", "distill", "speed"))
    room = Room(params.report.audio_mb)
    dropped = manifest.read(inputs.rejected, manifest.REJECTED)
    heard = examples.rejected(dropped, inputs.split, params.report.examples, room)
    tested = examples.tested(_evaluated(inputs.evaluation / "utterances.parquet"), inputs.test, room)
    scores = manifest.read(inputs.scores, manifest.SCORE).select(MEASURED).to_pylist()
    return page.render(
        title=params.report.title,
        headline=results.headline(evaluation, speed),
        verdict=results.verdict(evaluation, speed),
        sections=[
            results.slices(evaluation),
            results.speed(speed),
            intake.data(prepared),
            intake.labels(filtered, scores),
            _judged(inputs.metrics),
            intake.training(distilled, curves.read(inputs.metrics / "training.csv")),
            results.measures(evaluation),
        ],
        rejected=heard,
        rejected_in_all=dropped.num_rows,
        tested=tested,
        rules=sorted({reason.rule for one in heard for reason in one.reasons}),
        domains=sorted({one.domain for one in heard}),
        silent=_silent(heard, tested),
    )


def write(params: Params, inputs: Inputs, out: Path) -> None:
    """Builds the page and writes it, whole or not at all."""
    cache.write_bytes(out, build(params, inputs).encode())


def _judged(metrics: Path) -> Section:
    """How well scores and rules find wrong labels, where the filter stage could tell."""
    tables = [judgement.read(metrics / f"filter_{name}.csv") for name in ("curves", "domains")]
    return judgement.section(_json(metrics / "filter_judgement.json"), *tables)


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _needed(path: Path) -> dict[str, Any]:
    found = _json(path)
    if found is None:
        raise ReportError(f"{path}: no such file; has the stage that writes it run? (dvc repro)")
    return found


def _evaluated(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ReportError(f"{path}: no such table; has evaluate run? (dvc repro)")
    return pq.read_table(path).to_pylist()


def _silent(*groups: list[Example]) -> bool:
    """Is there an example without its audio?"""
    return any(one.audio is None for group in groups for one in group)
