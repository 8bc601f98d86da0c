"""Teacher and student on the test set: errors per utterance, rates with intervals per slice, speed in turns."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stillsmall import cache, labelling, manifest, metrics, stats
from stillsmall.config import Params, Transcribe
from stillsmall.labelling import Labelling
from stillsmall.metrics import ErrorCounts
from stillsmall.teachers.base import Clip, Teacher
from stillsmall.text import join

SYSTEMS = ("teacher", "student")
RESAMPLES = 10_000
FORMS: tuple[Any, ...] = ("normalised", "orthographic")


class EvaluationError(ValueError):
    """Nothing to judge by."""


def who(params: Params, student: Path) -> dict[str, Labelling]:
    """How each system transcribes the test set: the same decoding for both."""
    decode = params.evaluate.model_dump(exclude={"speed_clips", "speed_rounds"})
    here = {"executor": "local", "ray_address": None, "ray_actors": 1, "gpus_per_actor": 0.0}
    common = {
        "task": params.pseudo_label.task,
        "max_failed_share": 1.0,
        **here,
        **decode,
    }  # the failed count as unheard
    models = {"teacher": (params.pseudo_label.model, params.pseudo_label.revision), "student": (str(student), None)}
    found = {}
    for name, (model, revision) in models.items():
        how = {**common, **_without_decoder(params, model, revision)}
        config = Transcribe(model=model, revision=revision, **how)
        found[name] = Labelling(config, params.run, params.models.root, "evaluate")
    return found


def _without_decoder(params: Params, model: str, revision: str | None) -> dict[str, Any]:
    """What differs for a CTC model, so that a Whisper model beside it decodes as it is asked to; else nothing."""
    from stillsmall import compute, ctc

    if compute.model_type(params.models.root, model, revision) not in ctc.KINDS:
        return {}
    spoken = params.evaluate.language
    return {
        "backend": "transformers",
        "num_beams": 1,
        "temperatures": [0.0],
        "condition_on_previous_text": False,
        "max_new_tokens": None,
        "window": "full",
        "language": "per_utterance" if spoken == "detect" else spoken,
    }


def transcribe(params: Params, split: Path, student: Path, out: Path) -> None:
    """Hypotheses of both systems under `out/teacher` and `out/student`, in resumable shards."""
    for name, how in who(params, student).items():
        labelling.transcribe(labelling.utterances(split), how, out / name, out / f"{name}_failed.parquet")


def joined(folder: Path) -> dict[str, str]:
    """utt_id -> what was heard: the chunks of a long recording in order of time."""
    parts: dict[str, list[tuple[float, str, str]]] = {}
    for row in manifest.rows(folder, manifest.HYPOTHESIS):
        parts.setdefault(row["parent"], []).append((row["start_s"], row["text"], row["language"]))
    return {utt_id: join((text for _, text, _ in sorted(found)), found[0][2]) for utt_id, found in parts.items()}


def judge(split: Path, hypotheses: Path) -> list[dict[str, Any]]:
    """One row per test utterance with a transcript: texts and raw counts of both systems.

    Raises EvaluationError where no test utterance has a transcript.
    """
    heard = {name: joined(hypotheses / name) for name in SYSTEMS}
    rows = []
    for utterance in manifest.rows(split / "manifest.parquet", manifest.UTTERANCE):
        if utterance["text"] is None:
            continue
        row = {
            k: utterance[k] for k in ("utt_id", "source", "domain", "language", "speaker", "recording", "duration_s")
        }
        row |= {"reference": utterance["text"]}
        for name in SYSTEMS:
            text = heard[name].get(utterance["utt_id"], "")
            row |= {name: text, f"{name}_counts": counts(utterance["text"], text, utterance["language"])}
        rows.append(row)
    if not rows:
        raise EvaluationError("no test utterance has a transcript; give prepare.sources a test split with text")
    return rows


def counts(reference: str, hypothesis: str, language: str) -> dict[str, ErrorCounts]:
    """Every count of one hypothesis, by measure and form."""
    found = {f"wer.{form}": metrics.wer(reference, hypothesis, language, form) for form in FORMS}
    found |= {f"cer.{form}": metrics.cer(reference, hypothesis, language, form) for form in FORMS}
    return found | {"mer.normalised": metrics.mer(reference, hypothesis)}


def summarise(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The small table of metrics/evaluate.json: rates per system, per data set and domain, with intervals."""
    speech = [row for row in rows if row["teacher_counts"]["wer.normalised"].reference_units]
    quiet = [row for row in rows if not row["teacher_counts"]["wer.normalised"].reference_units]
    if not speech:
        raise EvaluationError("every test transcript is empty once normalised: there are no words to judge by")
    found: dict[str, Any] = {name: rates(speech, name) for name in SYSTEMS}
    for name in SYSTEMS:
        found[name]["domains"] = slices(speech, name, "domain")
        found[name]["sources"] = slices(speech, name, "source")
        found[name]["without_speech"] = hallucinated(quiet, name)
    teacher, student, difference = intervals(speech, seed)
    found["teacher"]["interval"], found["student"]["interval"] = teacher.as_dict(), student.as_dict()
    found["difference"] = {"wer": difference.as_dict()["value"], "interval": difference.as_dict()}
    found["utterances"] = {"with_speech": len(speech), "without_speech": len(quiet)}
    return found


def rates(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """{"wer": {"normalised": r, ...}, "cer": ..., "mer": ..., "counts": word counts}: summed, then divided."""
    sums = {key: metrics.total(row[f"{name}_counts"][key] for row in rows) for key in rows[0][f"{name}_counts"]}
    found: dict[str, Any] = {"counts": sums["wer.normalised"].as_dict()}
    for key, summed in sums.items():
        measure, form = key.split(".")
        found.setdefault(measure, {})[form] = None if summed.rate is None else round(summed.rate, 6)
    return found


def slices(rows: list[dict[str, Any]], name: str, by: str) -> dict[str, Any]:
    values = sorted({row[by] for row in rows})
    found = {}
    for value in values:
        part = [row for row in rows if row[by] == value]
        made = rates(part, name)
        found[value] = {"wer": made["wer"]["normalised"], "mer": made["mer"]["normalised"], "utterances": len(part)}
        found[value] |= {"words": metrics.total(r[f"{name}_counts"]["wer.normalised"] for r in part).reference_units}
    return found


def hallucinated(rows: list[dict[str, Any]], name: str) -> dict[str, int]:
    """Output where nothing was said: hallucination, counted apart, never part of a WER."""
    words = [row[f"{name}_counts"]["wer.normalised"].insertions for row in rows]
    return {"utterances": len(words), "with_output": sum(n > 0 for n in words), "words": sum(words)}


def intervals(rows: list[dict[str, Any]], seed: int) -> tuple[stats.Interval, ...]:
    """WER of teacher and student, and student - teacher, resampled by speaker (else by recording)."""
    clusters = [row["speaker"] or row["recording"] for row in rows]
    errors = [[row[f"{name}_counts"]["wer.normalised"].errors for row in rows] for name in SYSTEMS]
    units = [row["teacher_counts"]["wer.normalised"].reference_units for row in rows]
    return stats.bootstrap(clusters, errors, units, RESAMPLES, seed)


def speed(params: Params, split: Path, student: Path) -> dict[str, Any]:
    """Real-time factors of both, measured in turns on the same clips, one clip at a time; medians over the rounds."""
    made: dict[str, Teacher] = {}
    for name, how in who(params, student).items():
        one = Labelling(how.config.model_copy(update={"batch_size": 1}), how.run, how.models_root, how.path)
        made[name] = one.teacher()
    clips = _some_clips(split, params.evaluate.speed_clips, min(system.window_s for system in made.values()))
    seconds = sum(clip.duration_s for clip in clips)
    took: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for name in SYSTEMS:
        made[name].transcribe(clips[:2])  # warm up
    for turn in range(params.evaluate.speed_rounds):
        for name in SYSTEMS if turn % 2 == 0 else reversed(SYSTEMS):
            took[name].append(_timed(lambda name=name: made[name].transcribe(clips)))  # type: ignore[misc]
    ratios = [a / b for a, b in zip(took["teacher"], took["student"], strict=True)]
    found: dict[str, Any] = {name: _figures(made[name], took[name], seconds) for name in SYSTEMS}
    return found | {
        "speed_up": round(statistics.median(ratios), 4),
        "speed_up_range": [round(min(ratios), 4), round(max(ratios), 4)],
        "clips": len(clips),
        "audio_s": round(seconds, 3),
        "rounds": params.evaluate.speed_rounds,
        "batch_size": 1,
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": host(params),
    }


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _some_clips(split: Path, most: int, window_s: float) -> list[Clip]:
    """The clips that are timed: those that fit a window, spread evenly over the test set."""
    rows = [r for r in manifest.rows(split / "manifest.parquet", manifest.UTTERANCE) if r["duration_s"] <= window_s]
    if not rows:
        raise EvaluationError(f"no test utterance fits the model's window of {window_s} s; there is nothing to time")
    wanted = {row["utt_id"] for row in rows[:: max(1, len(rows) // most)][:most]}
    clips = [clip for job in labelling.utterances(split) for clip in job.clips() if clip.utt_id in wanted]
    return [clip for clip in clips if isinstance(clip, Clip)]


def _figures(system: Any, took: list[float], seconds: float) -> dict[str, Any]:
    parameters, size = system.size()
    return {
        "real_time_factor": round(statistics.median(took) / seconds, 6),
        "times_real_time": round(seconds / statistics.median(took), 3),
        "seconds": [round(t, 4) for t in took],
        "parameters": parameters,
        "bytes": size,
    }


def host(params: Params) -> dict[str, Any]:
    """The machine beside the figure."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    cores = os.cpu_count()
    return {"machine": platform.machine(), "cores": cores, "threads": params.run.threads, "gpu": gpu, "peak_mb": peak}


def write_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Per-utterance Parquet: texts and the raw word counts of both systems, flat."""
    import pyarrow as pa

    flat = []
    for row in rows:
        plain = {k: v for k, v in row.items() if not k.endswith("_counts")}
        for name in SYSTEMS:
            for key, value in row[f"{name}_counts"].items():
                label = key.replace(".", "_")
                plain |= {f"{name}_{label}_{unit}": n for unit, n in value.as_dict().items()}
        flat.append(plain)
    table = pa.Table.from_pylist(flat)
    manifest.write(path, table, table.schema)


def evaluate(params: Params, split: Path, student: Path, out: Path, scores: Path) -> list[dict[str, Any]]:
    """Transcribes, judges and writes `out/utterances.parquet` and the metrics."""
    transcribe(params, split, student, out / "hypotheses")
    rows = judge(split, out / "hypotheses")
    write_table(rows, out / "utterances.parquet")
    cache.write_json(scores, summarise(rows, params.run.seed))
    return rows
