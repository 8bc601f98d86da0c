"""What a run will cost, before it starts: hours of audio, compute hours, disk and money, with the working shown.

Every line is a formula over measured rates. A rate is given, measured on a few clips here and now, or taken from
metrics/speed.json and metrics/distill_speed.json; where a rate stands in for another one, the line says so. (Other
metrics hold no seconds: they are the same bytes on every machine.)
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stillsmall import audio, labelling, manifest, sources
from stillsmall.config import Params
from stillsmall.plugins import nearest
from stillsmall.sources import shards
from stillsmall.sources.base import Place
from stillsmall.sources.shards import Settings
from stillsmall.teachers.base import Clip

STAGES = ("prepare", "pseudo_label", "validate", "distill", "evaluate")
SECONDS_PER_HOUR = 3600
PCM_BYTES_PER_S = 2 * audio.SAMPLE_RATE  # 16 bit, 16 kHz, mono
FLAC_SHARE = 0.6  # of PCM, for speech
LABEL_BYTES_PER_HOUR = 1_000_000  # text, tokens and measures of about 1,000 labels, compressed
HOW = {  # where a rate comes from that --measure does not measure
    "distill": "metrics/distill_speed.json of a run of some steps has it, or",
    "evaluate": "metrics/speed.json of a finished run has it, or",
}
CLIP_S = 4.0  # of a made-up clip to measure with, where there is no audio


class PlanError(ValueError):
    """What cannot be planned with what is known."""


@dataclass(frozen=True)
class Rate:
    """Seconds of audio (distill: optimiser steps) in a second of one machine's time, and where that is from."""

    value: float
    origin: str


@dataclass(frozen=True)
class Line:
    """One row of the plan: `hours` of one machine."""

    stage: str
    working: str
    hours: float | None


@dataclass(frozen=True)
class Plan:
    """All of it; `disk` is (what, working, bytes)."""

    audio_hours: float
    audio_origin: str
    lines: tuple[Line, ...]
    disk: tuple[tuple[str, str, float], ...]
    price_per_hour: float | None

    @property
    def hours(self) -> float:
        return sum(line.hours or 0.0 for line in self.lines)

    @property
    def bytes(self) -> float:
        return sum(size for _, _, size in self.disk)


def hours_of(params: Params, given: float | None, root: Path) -> tuple[float, str]:
    """(hours of training audio, where that is from): given, the prepared split, or the headers under data.root.

    Raises PlanError where nothing is known.
    """
    if given is not None:
        return given, "given"
    prepared = root / "data/prepared/train/manifest.parquet"
    if prepared.is_file():
        rows = manifest.read(prepared, manifest.UTTERANCE)["duration_s"]
        return float(np.sum(rows.to_numpy())) / SECONDS_PER_HOUR, "data/prepared/train"
    seconds = [
        _duration_s(path) for path in sorted((root / params.data.root).rglob("*")) if path.suffix in audio.SUFFIXES
    ]
    if not seconds:
        raise PlanError(
            f"no hours: there is no {prepared.relative_to(root)} yet and no audio under data.root={params.data.root}; "
            "run `dvc repro prepare`, or say how many with --hours"
        )
    return sum(seconds) / SECONDS_PER_HOUR, f"{len(seconds)} files under data.root, by their headers"


def _duration_s(path: Path) -> float:
    import av

    try:
        with av.open(str(path), metadata_errors="ignore") as box:
            return float(box.duration or 0) / av.time_base
    except av.error.FFmpegError:
        return 0.0


def rates(given: Mapping[str, float], measured: Mapping[str, Rate], speed: Path) -> dict[str, Rate]:
    """A rate per stage: given before measured before metrics/speed.json. PlanError for an unknown stage."""
    for name, value in given.items():
        if name not in STAGES:
            raise PlanError(f"--rate: unknown stage '{name}'; {nearest(name, STAGES)}")
        if value <= 0:
            raise PlanError(f"--rate: {name}={value}; a rate is above 0")
    found: dict[str, Rate] = {}
    if speed.is_file():
        seen = json.loads(speed.read_text())
        teacher = float(seen["teacher"]["times_real_time"])
        found["pseudo_label"] = Rate(
            teacher, f"{speed.parent.name}/{speed.name}, one clip at a time (batches are faster)"
        )
        pair = 1 / (1 / teacher + 1 / float(seen["student"]["times_real_time"]))
        found["evaluate"] = Rate(pair, f"{speed.parent.name}/{speed.name}, teacher and student")
    trained = speed.with_name("distill_speed.json")
    if trained.is_file():
        steps = float(json.loads(trained.read_text())["steps_per_s"])
        found["distill"] = Rate(steps, f"{speed.parent.name}/{trained.name}, with that run's models and batch")
    found |= measured
    found |= {name: Rate(value, "given") for name, value in given.items()}
    if "validate" not in found and "pseudo_label" in found:
        found["validate"] = Rate(found["pseudo_label"].value, "the teacher's: too low for a smaller validator")
    return found


def measure(params: Params, split: Path, clips: int) -> dict[str, Rate]:
    """Rates of teacher and validator as configured, on `clips` clips of a prepared split, or on noise without one."""
    found = {}
    some, origin = _some(split, clips)
    seconds = sum(clip.duration_s for clip in some)
    for name, section in (("pseudo_label", params.pseudo_label), ("validate", params.validate_)):
        teacher = labelling.Labelling(section, params.run, params.models.root, name).teacher()
        teacher.transcribe(some[:1])  # warm up
        start = time.perf_counter()
        teacher.transcribe(some)
        found[name] = Rate(seconds / (time.perf_counter() - start), f"measured on {len(some)} {origin}")
    return found


def measure_preparation(params: Params, root: Path, clips: int) -> dict[str, Rate]:
    """The rate of `prepare` on the first `clips` items of its first source of training audio, decoded afresh.

    One process does it, and counts for `prepare.workers` of them. Nothing where no item of it can be prepared.
    """
    section = params.prepare
    source = next((source for source in sources.load(section.sources) if source.split == "train"), None)
    if source is None:
        return {}
    limits = {name: getattr(section, name) for name in ("min_duration_s", "max_piece_s", "silence_dbfs")}
    plan = source.plan(Place(root / params.data.root, f"prepare.sources ('{source.name}')", clips))
    held: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(scratch, source.name, "train", clips, **limits)
        start = time.perf_counter()
        for batch in plan.batches:
            held += [row["duration_s"] for row in shards.make(batch, settings).utterances]
            if len(held) >= clips:
                break
        took = time.perf_counter() - start
    if not held:
        return {}
    origin = f"measured on {len(held)} clips of source '{source.name}', times {section.workers} processes"
    return {"prepare": Rate(section.workers * sum(held) / took, origin)}


def _some(split: Path, count: int) -> tuple[list[Clip], str]:
    if (split / "manifest.parquet").is_file():
        for job in labelling.utterances(split):
            held = [clip for clip in job.clips() if isinstance(clip, Clip)]
            return held[:: max(1, len(held) // count)][:count], "clips of data/prepared/train"
    dice = np.random.default_rng(0)
    made = [dice.normal(0, 0.05, round(CLIP_S * audio.SAMPLE_RATE)).astype(np.float32) for _ in range(count)]
    return [Clip(f"noise {i}", samples, "en") for i, samples in enumerate(made)], "clips of noise (no prepared audio)"


def make(
    params: Params,
    hours: tuple[float, str],
    known: Mapping[str, Rate],
    price_per_hour: float | None = None,
    test_hours: float | None = None,
) -> Plan:
    """The plan for so many hours of training audio. Stages without a rate are listed without hours, never left out."""
    amount, origin = hours
    lines = []
    for stage in STAGES:
        rate = known.get(stage)
        if stage == "distill":
            unit, size = "steps", float(params.distill.steps)
            formula, time_h = f"{params.distill.steps:,} steps", size / rate.value / SECONDS_PER_HOUR if rate else None
        else:
            unit, size = "x real time", amount if stage != "evaluate" else (test_hours or 0.0)
            formula, time_h = f"{size:,.1f} h of audio", size / rate.value if rate else None
        if rate is None:
            how = f"{HOW.get(stage, '--measure, or')} {_word(stage)}"
            lines.append(Line(stage, f"{formula} / ? (no rate is known: {how})", None))
            continue
        unit = "steps/s" if unit == "steps" else unit
        lines.append(Line(stage, f"{formula} / {rate.value:,.4g} {unit} ({rate.origin})", time_h))
    return Plan(amount, origin, tuple(lines), _disk(params, amount), price_per_hour)


def _word(stage: str) -> str:
    return "--rate distill=STEPS_A_SECOND" if stage == "distill" else f"--rate {stage}=TIMES_REAL_TIME"


def _disk(params: Params, hours: float) -> tuple[tuple[str, str, float], ...]:
    flac = hours * SECONDS_PER_HOUR * PCM_BYTES_PER_S * FLAC_SHARE
    labels = 2 * hours * LABEL_BYTES_PER_HOUR
    shards = f"{hours:,.1f} h x 3,600 s x {PCM_BYTES_PER_S:,} B/s x {FLAC_SHARE} (FLAC)"
    cache, said = params.distill.encoder_cache_gb, params.distill.teacher_cache_gb
    return (
        ("prepared shards", shards, flac),
        ("the same in DVC's cache", "the line above once more", flac),
        ("labels and validations", f"2 x {hours:,.1f} h x {LABEL_BYTES_PER_HOUR / 1e6:g} MB/h", labels),
        ("encoder states", f"at most distill.encoder_cache_gb = {cache:g}", cache * 1e9),
        ("teacher outputs", f"at most distill.teacher_cache_gb = {said:g}", said * 1e9),
    )


def show(plan: Plan) -> list[str]:
    """The plan as lines of text."""
    price = plan.price_per_hour

    def money(hours: float) -> str:
        return "" if price is None else f"{hours * price:>12,.2f}"

    found = [f"training audio: {plan.audio_hours:,.1f} h ({plan.audio_origin})", ""]
    found.append(f"{'stage':14}{'hours':>12}{'money' if price is not None else '':>12}  working")
    for line in plan.lines:
        hours = "unknown" if line.hours is None else f"{line.hours:,.2f}"
        found.append(f"{line.stage:14}{hours:>12}{money(line.hours or 0.0)}  {line.working}")
    found.append(f"{'sum':14}{plan.hours:>12,.2f}{money(plan.hours)}  of one machine; N machines share the labelling")
    if price is not None:
        found.append(f"{'':26}{'':12}  money = hours x {price:g} an hour")
    if any(line.hours is None for line in plan.lines):
        found.append("the sum leaves out the stages whose rate is unknown")
    found += ["", f"{'disk':26}{'GB':>12}  working"]
    found += [f"{what:26}{size / 1e9:>12,.2f}  {working}" for what, working, size in plan.disk]
    return [*found, f"{'sum':26}{plan.bytes / 1e9:>12,.2f}"]


def planned(
    params: Params,
    root: Path,
    hours: float | None,
    given: Mapping[str, float],
    clips: int | None,
    price_per_hour: float | None,
) -> Plan:
    """Puts it together: hours, rates (measuring on `clips` clips if a number is given), and the plan."""
    measured: dict[str, Rate] = {}
    if clips:
        measured = measure_preparation(params, root, clips) | measure(params, root / "data/prepared/train", clips)
    known = rates(given, measured, root / "metrics/speed.json")
    test = root / "data/prepared/test/manifest.parquet"
    test_hours = None
    if test.is_file():
        test_hours = float(np.sum(manifest.read(test, manifest.UTTERANCE)["duration_s"].to_numpy())) / SECONDS_PER_HOUR
    return make(params, hours_of(params, hours, root), known, price_per_hour, test_hours)
