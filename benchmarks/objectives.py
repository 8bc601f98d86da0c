"""Objectives side by side: the same labels, teacher, student and steps, several seeds, WER on the test split.

    python benchmarks/objectives.py --from . --steps 400 --labels 1500
    python benchmarks/objectives.py --from . --objectives kd adakd askd --seeds 1 2 3 4 5 --set distill.batch_size=16

Reads a project folder in which `make repro` has run (params.yaml, data/prepared, data/filtered/kept.parquet and the
models of models.root; --data and --models name others) and changes nothing there. Each student is trained by
stillsmall.distillation and transcribes the test split as the evaluate stage would. Everything is kept under --out: a
finished run is not repeated, an unfinished one goes on from its checkpoint, encoder states are computed once for all,
and objectives.json and objectives.md are written anew after every run.

Two intervals of 95 %, neither corrected for the number of objectives:
    speakers   bootstrap over the test split's speakers, errors of all seeds summed, paired with --against: what other
               test speakers would change
    seeds      Student's t over the seeds' WER, and over their differences from --against: what another run would change
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import t as student_t
from torch.optim.optimizer import register_optimizer_step_post_hook

from stillsmall import cache, compute, config, distillation, evaluation, labelling, manifest, metrics, recipes, stats
from stillsmall.config import Params
from stillsmall.encoder_states import audio_digest
from stillsmall.objectives.build import build

OBJECTIVES = ["ce", "kd", "focal", "superloss", "adakd", "askd"]
WARMUP_SHARE, CHECKPOINTS = 0.1, 4  # of the steps, at most; in a run, at least
LEAST_RATE = 1e-30  # a learning rate that moves no float32 weight: what is saved is the student before training
SUBSET_SEED = 1
Run = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What all runs share. `prepared` holds train and test; `params` have the steps of this comparison."""

    params: Params
    prepared: Path
    kept: Path
    out: Path

    @cached_property
    def test(self) -> list[dict[str, Any]]:
        """The test utterances that have words, each with the number of them."""
        found = []
        for row in manifest.rows(self.prepared / "test" / "manifest.parquet", manifest.UTTERANCE):
            words = word_counts(row, "").reference_units if row["text"] else 0
            found += [{**row, "words": words}] if words else []
        if not found:
            raise SystemExit(f"{self.prepared / 'test'}: no utterance has a transcript; there is nothing to judge by")
        return found

    @cached_property
    def identity(self) -> list[Any]:
        """What a run depends on besides its objective and seed."""
        at = self.params.pseudo_label
        sections = [
            getattr(self.params, name).model_dump(exclude={"objective"})
            for name in ("run", "student", "distill", "evaluate")
        ]
        _, teacher = compute.locate(self.params.models.root, at.model, at.revision, "pseudo_label")
        data = [audio_digest(self.prepared / split) for split in ("train", "test")] + [cache.file_digest(self.kept)]
        code = cache.code_digest(*(f"stillsmall.{name}" for name in ("distillation", "training", "data", "evaluation")))
        return [sections, at.model_dump(), teacher, data, code]

    def path(self, name: str, seed: int) -> Path:
        """Where the run's result is, once it is finished."""
        code = distillation.modules_of(build(self.params.objectives, name, "--objectives"))
        key = [self.identity, name, self.params.objectives.get(name, {}), seed, cache.code_digest(*code)]
        return self.out / "runs" / f"{name}-{seed}-{cache.digest(key)[:12]}.json"


def prepare(at: argparse.Namespace) -> Comparison:
    """Checks that everything is there, and lays --steps and --set over a copy of the project's params.yaml."""
    data = at.data or at.project / "data"
    given, kept = at.params or at.project / "params.yaml", data / "filtered" / "kept.parquet"
    for path in (given, kept, *(data / "prepared" / split / "manifest.parquet" for split in ("train", "test"))):
        if not path.is_file():
            raise SystemExit(f"{path}: no such file; run `make repro` in {at.project} first, or name another folder")
    at.out.mkdir(parents=True, exist_ok=True)
    cache.ROOT = at.out.resolve() / "cache"
    copy = Path(shutil.copy(given, at.out / "params.yaml"))
    before = config.load(copy)
    root = (at.models or at.project / before.models.root).resolve()
    steps = {
        "steps": at.steps,
        "warmup_steps": min(before.distill.warmup_steps, round(WARMUP_SHARE * at.steps)),
        "checkpoint_every": min(before.distill.checkpoint_every, -(-at.steps // CHECKPOINTS)),
    }
    recipes.use([{"distill": steps, "models": {"root": str(root)}}, recipes.assignments(at.set)], copy)
    params = config.load(copy)
    distillation.check(params)
    for name in at.objectives:
        build(params.objectives, name, "--objectives")
    return Comparison(params, (data / "prepared").resolve(), subset(kept, at.labels, at.out), at.out)


def subset(kept: Path, labels: int | None, out: Path) -> Path:
    """The kept labels, or as many of them as are asked for, the same whenever they are asked for."""
    table = manifest.read(kept, manifest.SCORE)
    if labels is None or labels >= table.num_rows:
        return kept.resolve()
    chosen = np.random.default_rng(SUBSET_SEED).permutation(table.num_rows)[:labels]
    manifest.write(out / f"kept-{labels}.parquet", table.take(pa.array(np.sort(chosen))), manifest.SCORE)
    return (out / f"kept-{labels}.parquet").resolve()


def trained(comparison: Comparison, params: Params, folder: Path) -> dict[str, Any]:
    """One distillation into `folder`: its wall time and the median time of a step (of the steps made just now)."""
    outs = [folder / name for name in ("student", "curve.csv", "samples.parquet", "distill.json")]
    ends: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    start = time.perf_counter()
    try:
        distillation.distill(params, distillation.Paths(comparison.prepared / "train", comparison.kept, *outs))
    finally:
        hook.remove()
    steps = [b - a for a, b in itertools.pairwise(ends)]
    return {"seconds": time.perf_counter() - start, "step_s": statistics.median(steps) if steps else None}


def word_errors(comparison: Comparison, params: Params, which: str, folder: Path) -> list[int]:
    """Word errors on each test utterance of the teacher, or of the student in `folder`, in batches."""
    how = evaluation.who(params, (folder / "student").resolve())[which]
    jobs = labelling.utterances(comparison.prepared / "test")
    labelling.transcribe(jobs, how, folder / which, folder / f"{which}_failed.parquet")
    heard = evaluation.joined(folder / which)
    return [word_counts(row, heard.get(row["utt_id"], "")).errors for row in comparison.test]


def word_counts(row: dict[str, Any], heard: str) -> metrics.ErrorCounts:
    return metrics.wer(row["text"], heard, row["language"], "normalised")


def run(comparison: Comparison, name: str, seed: int) -> Run:
    """The result of one objective and seed, from its file or made now. Checkpoints go once the result is written."""
    done = comparison.path(name, seed)
    if not done.is_file():
        params, folder = seeded(comparison.params, name, seed), comparison.out / "now" / done.stem
        made = trained(comparison, params, folder)
        errors = word_errors(comparison, params, "student", folder)
        cache.write_json(done, {"objective": name, "seed": seed, **made, "errors": errors})
        _clear(folder)
        rate = sum(errors) / sum(row["words"] for row in comparison.test)
        print(f"{name}, seed {seed}: WER {rate:.2%}, {made['seconds']:.0f} s", flush=True)
    return dict(json.loads(done.read_text()))


def bounds(comparison: Comparison) -> dict[str, Run]:
    """The teacher, and the student before its first step."""
    done = comparison.out / "runs" / f"bounds-{cache.digest(comparison.identity)[:12]}.json"
    if not done.is_file():
        folder, base = comparison.out / "now" / done.stem, seeded(comparison.params, "ce", 0)
        still = {"steps": 1, "warmup_steps": 0, "checkpoint_every": 1, "learning_rate": LEAST_RATE}
        params = base.model_copy(update={"distill": base.distill.model_copy(update=still)})
        trained(comparison, params, folder)
        found = {
            name: {"errors": word_errors(comparison, params, which, folder)}
            for name, which in (("teacher", "teacher"), ("untrained start", "student"))
        }
        cache.write_json(done, found)
        _clear(folder)
    return dict(json.loads(done.read_text()))


def seeded(params: Params, name: str, seed: int) -> Params:
    return params.model_copy(update={"distill": params.distill.model_copy(update={"objective": name, "seed": seed})})


def _clear(folder: Path) -> None:
    """Runs are made one after the other, so the checkpoints there are of the run that has just been written."""
    shutil.rmtree(cache.ROOT / "distill", ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean of at least one value; the t-interval of the mean where there are at least two."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None, "seeds": len(values)}
    half = float(student_t.ppf(0.5 + stats.LEVEL / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": len(values)}


def summarise(comparison: Comparison, runs: Sequence[Run], limits: dict[str, Run], against: str) -> dict[str, Any]:
    """The table as data: rates (not per cent), intervals, milliseconds. Differences take the seeds that both have."""
    words = [row["words"] for row in comparison.test]
    clusters = [row["speaker"] or row["recording"] for row in comparison.test]
    found: dict[str, Any] = {}
    for name in dict.fromkeys(run["objective"] for run in runs):
        mine = {run["seed"]: run for run in runs if run["objective"] == name}
        theirs = {run["seed"]: run for run in runs if run["objective"] == against}
        times = [run["step_s"] for run in mine.values() if run["step_s"]]
        found[name] = {
            "wer": {seed: sum(run["errors"]) / sum(words) for seed, run in mine.items()},
            "step_ms": 1000 * statistics.median(times) if times else None,
            **_intervals(clusters, words, mine, theirs if name != against else {}),
        }
    distill = comparison.params.distill.model_dump(exclude={"objective"})
    return {
        "objectives": found,
        **{name: {"wer": sum(limit["errors"]) / sum(words)} for name, limit in limits.items()},
        "against": against,
        "test": {"utterances": len(words), "words": sum(words), "speakers": len(set(clusters))},
        "labels": manifest.read(comparison.kept, manifest.SCORE).num_rows,
        "distill": distill,
        "host": evaluation.host(comparison.params),
    }


def _intervals(clusters: list[str], words: list[int], mine: dict[int, Run], theirs: dict[int, Run]) -> dict[str, Any]:
    def pooled(runs: dict[int, Run], seeds: Sequence[int]) -> list[int]:
        return np.sum([runs[seed]["errors"] for seed in seeds], axis=0).tolist()  # type: ignore[no-any-return]

    def rate(run: Run) -> float:
        return float(sum(run["errors"]) / sum(words))

    units = [n * len(mine) for n in words]
    (own,) = stats.bootstrap(clusters, [pooled(mine, list(mine))], units, evaluation.RESAMPLES, SUBSET_SEED)
    found = {"speakers": own.as_dict(), "seeds": over_seeds([rate(run) for run in mine.values()])}
    both = [seed for seed in mine if seed in theirs]
    if not both:
        return found | {"difference": None}
    units = [n * len(both) for n in words]
    pair = [pooled(theirs, both), pooled(mine, both)]
    *_, difference = stats.bootstrap(clusters, pair, units, evaluation.RESAMPLES, SUBSET_SEED)
    by_seed = [rate(mine[seed]) - rate(theirs[seed]) for seed in both]
    return found | {"difference": {"speakers": difference.as_dict(), "seeds": over_seeds(by_seed)}}


def markdown(table: dict[str, Any]) -> str:
    """The table for people: per cent, points, milliseconds."""
    against = table["against"]
    head = ["objective", "WER %", "speakers", "seeds", f"minus {against}", "speakers", "seeds", "ms a step", "runs"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name in ("teacher", "untrained start"):
        rows.append([name, f"{100 * table[name]['wer']:.2f}", *[""] * (len(head) - 2)])
    for name, made in sorted(table["objectives"].items(), key=lambda item: item[1]["seeds"]["mean"]):
        cells = [name, f"{100 * made['seeds']['mean']:.2f}", _span(made["speakers"]), _span(made["seeds"])]
        gap = made["difference"]
        if gap:
            cells += [f"{100 * gap['seeds']['mean']:+.2f}", _span(gap["speakers"], "+"), _span(gap["seeds"], "+")]
        else:
            cells += ["", "", ""]
        step = "" if made["step_ms"] is None else f"{made['step_ms']:.0f}"
        rows.append([*cells, step, str(made["seeds"]["seeds"])])
    test, distill = table["test"], table["distill"]
    about = (
        f"{distill['steps']:,} steps of {distill['batch_size']} clips on {table['labels']:,} labels; "
        f"{test['words']:,} words of {test['speakers']} speakers in {test['utterances']:,} test utterances. Intervals "
        "of 95 %: speakers, a bootstrap over the test speakers with the seeds pooled (differences paired); seeds, "
        "Student's t over the runs. Neither is corrected for the number of objectives."
    )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + f"\n\n{about}\n"


def _span(interval: dict[str, Any], sign: str = "") -> str:
    if interval["low"] is None:
        return ""
    return f"[{100 * interval['low']:{sign}.2f}, {100 * interval['high']:{sign}.2f}]"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from", dest="project", type=Path, default=Path(), help="a project where `make repro` has run"
    )
    parser.add_argument("--data", type=Path, help="folder with prepared/ and filtered/ (default: data of the project)")
    parser.add_argument("--models", type=Path, help="models.root (default: the project's)")
    parser.add_argument("--params", type=Path, help="params.yaml (default: the project's)")
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES, help="sections of `objectives`")
    parser.add_argument("--against", help="the objective that others are compared with (default: kd, or the first)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--labels", type=int, help="a subset of the kept labels (default: all)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further changes of params.yaml")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "stillsmall-objectives")
    at = parser.parse_args(words)
    at.objectives = list(dict.fromkeys(at.objectives))
    at.against = at.against or ("kd" if "kd" in at.objectives else at.objectives[0])
    if at.against not in at.objectives:
        raise SystemExit(f"--against: got '{at.against}'; it is none of --objectives: {', '.join(at.objectives)}")
    return at


def main(words: Sequence[str] | None = None) -> None:
    at = arguments(words)
    compute.quiet()
    comparison = prepare(at)
    limits, runs = bounds(comparison), []
    for seed in dict.fromkeys(at.seeds):  # seed by seed, so that an unfinished table compares like with like
        for name in at.objectives:
            runs.append(run(comparison, name, seed))
            table = summarise(comparison, runs, limits, at.against)
            cache.write_json(at.out / "objectives.json", table)
            cache.write_bytes(at.out / "objectives.md", markdown(table).encode())
    print(markdown(table))


if __name__ == "__main__":
    main()
