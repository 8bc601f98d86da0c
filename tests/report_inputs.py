"""Small made inputs of a report, and its page read back, for the tests of the report."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stillsmall import audio, cache, config, manifest, report

SCRIPT = "<script>alert('x')</script> & \"so\""
VOID = {"meta", "link", "br", "img", "input", "path", "use", "rect"}


class Page(HTMLParser):
    """What the tests look at: elements with their attributes, their text, and that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def all(self, tag: str, **attrs: str) -> list[dict[str, str | None]]:
        """Elements by name and attributes; `class_` is class, `data_ready` is data-ready."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attrs.items()}
        return [a for t, a in self.found if t == tag and all(a.get(name) == value for name, value in wanted.items())]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


def tone(seconds: float) -> np.ndarray:
    return (0.3 * np.sin(np.arange(round(seconds * audio.SAMPLE_RATE)) / 20)).astype(np.float32)


def score_row(utt_id: str, **changes: Any) -> dict[str, Any]:
    row = {
        "utt_id": utt_id, "parent": utt_id, "source": "made", "domain": "quiet", "language": "en", "duration_s": 1.0,
        "start_s": 0.0, "end_s": 1.0, "teacher_text": "a still small voice", "segments": [],
        "validator_text": "a voice", "reference": None, "agreement_mer": 0.5, "mean_logprob": -0.25, "ref_wer": None,
    }  # fmt: skip
    return row | changes


def verdict(rule: str, value: Any = 0.5) -> dict[str, str]:
    return {"rule": rule, "value": json.dumps(value), "reason": f"too much {rule}"}


def rejected_rows() -> list[dict[str, Any]]:
    both = [verdict("agreement"), verdict("repetition", True)]
    heard = {"reference": "A still, small voice!", "ref_wer": 0.25, "ref_wer_errors": 1, "ref_words": 4}
    return [
        score_row("u1", verdicts=both, teacher_text=SCRIPT, **heard),
        score_row("u2", verdicts=[verdict("confidence", -1.5)], domain="loud", validator_text=None),
        score_row("long#1", parent="long", verdicts=[verdict("agreement")], start_s=0.5, end_s=2.0, duration_s=1.5),
        score_row("u3", verdicts=[verdict("agreement")], language="ar", teacher_text="صوت خافت", validator_text="صوت"),
    ]


def system(errors: int) -> dict[str, Any]:
    rate = errors / 40
    part = {"wer": rate, "mer": rate, "utterances": 8, "words": 40}
    return {
        "wer": {"normalised": rate, "orthographic": rate}, "cer": {"normalised": rate}, "mer": {"normalised": rate},
        "counts": {"hits": 40 - errors, "substitutions": errors, "deletions": 0, "insertions": 0},
        "domains": {"quiet": part}, "sources": {"made": part},
        "without_speech": {"utterances": 2, "with_output": 1, "words": 3},
        "interval": {"value": rate, "low": rate - 0.02, "high": rate + 0.02, "clusters": 8},
    }  # fmt: skip


def evaluation(**interval: Any) -> dict[str, Any]:
    gap = {"value": 0.05, "low": 0.01, "high": 0.09, "clusters": 8} | interval
    utterances = {"with_speech": 8, "without_speech": 2}
    return {
        "teacher": system(5),
        "student": system(7),
        "difference": {"wer": 0.05, "interval": gap},
        "utterances": utterances,
    }


SPEED = {
    "teacher": {"times_real_time": 16.4, "real_time_factor": 0.061, "seconds": [6.1], "parameters": 3e6, "bytes": 12e6},
    "student": {"times_real_time": 49.8, "real_time_factor": 0.02, "seconds": [2.0], "parameters": 1.5e6, "bytes": 6e6},
    "speed_up": 3.05, "speed_up_range": [2.9, 3.2], "clips": 8, "audio_s": 20.0, "rounds": 1, "batch_size": 1,
    "measured_at": "2026-01-02T03:04:05+00:00", "host": {"machine": "x86_64", "cores": 2, "threads": 2, "gpu": None},
}  # fmt: skip
AMOUNT = {"hours": 1.25, "utterances": 1980, "transcribed": 1980, "speakers": 31}
PREPARED = {
    "splits": {"train": AMOUNT, "dev": {"hours": 0.0, "utterances": 0}},
    "sources": {"made": {**AMOUNT, "split": "train", "items": 1983, "quarantine": {"silent": 3}}},
    "domains": {"quiet": {"train": AMOUNT}},
    "quarantine": {"silent": 3},
}


def evaluated_row(utt_id: str, student_errors: int) -> dict[str, Any]:
    row = {"utt_id": utt_id, "source": "made", "domain": "quiet", "language": "en", "duration_s": 1.0}
    row |= {"reference": "one two three", "teacher": "one two three", "student": "one too"}
    for name, errors in (("teacher", 0), ("student", student_errors)):
        row |= {f"{name}_wer_normalised_{kind}": 0 for kind in ("hits", "substitutions", "deletions", "insertions")}
        row[f"{name}_wer_normalised_substitutions"] = errors
    return row


def write_split(folder: Path, durations: dict[str, float]) -> None:
    rows, sound = [], []
    for utt_id, seconds in durations.items():
        rows.append({"utt_id": utt_id, "source": "made", "split": folder.name, "domain": "quiet", "language": "en"})
        rows[-1] |= {"recording": utt_id, "offset_s": 0.0, "duration_s": seconds, "shard": "shard-00000.parquet"}
        sound.append({"utt_id": utt_id, "audio": audio.encode_flac(tone(seconds))})
    manifest.write(folder / "manifest.parquet", rows, manifest.UTTERANCE)
    manifest.write(folder / "shards" / "shard-00000.parquet", sound, manifest.AUDIO)


class Made:
    """Inputs of a report in a folder; the metrics can be changed before it is built."""

    def __init__(self, folder: Path, params: config.Params) -> None:
        self.params = params
        self.inputs = report.Inputs(
            folder / "train", folder / "test", folder / "scores.parquet", folder / "rejected.parquet",
            folder / "evaluation", folder / "metrics",
        )  # fmt: skip
        write_split(self.inputs.split, {"u1": 1.0, "u2": 1.0, "u3": 1.0, "long": 4.0})
        write_split(self.inputs.test, {"t1": 1.0, "t2": 1.0, "t3": 1.0})
        self.reject(rejected_rows())
        amount = {"labels": 6, "hours": 0.5, "label_wer": 0.1}
        filtered = {"kept": amount, "rejected": {"labels": 4, "hours": 0.25}, "reasons": {"agreement": amount}}
        self.metric("filter", filtered | {"domains": {"quiet": {"kept": amount, "rejected": amount}}})
        tested = [evaluated_row("t1", 1), evaluated_row("t2", 3), evaluated_row("t3", 0)]
        table = pa.Table.from_pylist(tested)
        manifest.write(self.inputs.evaluation / "utterances.parquet", table, table.schema)
        self.metric("evaluate", evaluation())
        self.metric("speed", SPEED)
        self.metric("prepare", PREPARED)
        distilled = {"steps": 20, "examples": 6, "labels": 9, "epochs": 2.5, "parameters": 1_500_000}
        self.metric("distill", distilled | {"skipped": {"too_long": 1}})
        log = "step,loss,ce,kl,lr,gradient_norm,tokens\n10,2.5,1.5,,0.001,1.0,300\n20,1.25,0.75,0.5,0.0,0.5,310\n"
        cache.write_bytes(self.inputs.metrics / "training.csv", log.encode())

    def metric(self, name: str, value: Any) -> None:
        cache.write_json(self.inputs.metrics / f"{name}.json", value)

    def reject(self, rows: list[dict[str, Any]]) -> None:
        manifest.write(self.inputs.rejected, rows, manifest.REJECTED)
        scores = [{name: row.get(name) for name in manifest.SCORE.names} for row in rows]
        manifest.write(self.inputs.scores, scores, manifest.SCORE)

    def setting(self, **changes: Any) -> None:
        changed = self.params.report.model_copy(update=changes)
        self.params = self.params.model_copy(update={"report": changed})

    def html(self) -> str:
        return report.build(self.params, self.inputs)

    def page(self) -> Page:
        return Page(self.html())
