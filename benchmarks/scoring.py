"""Rows a minute and peak memory of the score stage, against a loop that calls a word-error metric once a row.

    .venv/bin/python benchmarks/scoring.py [--rows 1000000] [--small 200000] [--workers 2] [--sample 2000] [--core]
    tools/uv run --with torchmetrics --with evaluate benchmarks/scoring.py --core    against these two peers as well

The labels are sentences of the speech lab's five grammars (English, Mandarin with English words, Arabic, Hindi, Tamil)
with words left out, doubled and changed; one in a hundred loops. Two things are timed: MER + repetition + WER alone,
on pairs in memory (--core: that alone), and the whole stage, from the shards of labels to the table, with every
measure of text. The
audio's measures are timed apart (--audio SPLIT, a prepared split). Memory is each process's own peak, from the kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stillsmall import manifest, metrics
from stillsmall import text as texts
from stillsmall.config import PARAMS, load
from stillsmall.processes import in_order
from stillsmall.speech_lab import sentences

SHARD_ROWS = 256  # prepare.shard_utterances of params.yaml
DISTINCT = 50_000  # sentences that errors are made in; the grammars repeat themselves beyond that
MANY = 7_000_000
Row = tuple[str, str, str, str]  # language, reference, teacher, validator


def damaged(sentence: str, chance: random.Random, share: float) -> str:
    """The sentence with a share of its units left out, doubled or exchanged."""
    spaced = " " in sentence
    units = sentence.split() if spaced else list(sentence)
    made: list[str] = []
    for unit in units:
        luck = chance.random() / share
        made += [unit] if luck >= 1 else ([], [unit, unit], [chance.choice(units)])[int(luck * 3)]
    return (" " if spaced else "").join(made)


def rows(count: int, seed: int) -> list[Row]:
    """Rows of all grammars in turn."""
    chance = random.Random(seed)
    pool = [(name, sentences.expand(name, chance)) for name in sentences.GRAMMARS for _ in range(DISTINCT // 5)]
    made = []
    for _ in range(count):
        grammar, sentence = chance.choice(pool)
        teacher = damaged(sentence, chance, 0.15)
        if chance.random() < 0.01:
            teacher = " ".join([teacher] * 7)
        made.append((grammar.split("-")[0], sentence, teacher, damaged(teacher, chance, 0.15)))
    return made


def corpus(folder: Path, count: int) -> None:
    """A manifest without audio, labels and validations of `count` rows, shard by shard."""
    import pyarrow.parquet as pq

    base = {"start_s": 0.0, "end_s": 3.0, "segments": [], "tokens": list(range(12)), "mean_logprob": -0.3}
    base |= {"mean_entropy": 0.2, "compression_ratio": 0.9, "no_speech_prob": 0.01, "token_logprob": [-0.3] * 12}
    known = {"source": "lab", "split": "train", "domain": "lab", "offset_s": 0.0, "duration_s": 3.0, "speaker": "s"}
    made = rows(min(count, 4 * DISTINCT), 1)  # beyond that, the same rows in another order
    (folder / "train").mkdir(parents=True)
    options = {"compression": "zstd", "use_dictionary": False}
    with pq.ParquetWriter(folder / "train/manifest.parquet", manifest.UTTERANCE, **options) as writer:
        utterances: list[dict[str, Any]] = []
        for number, at in enumerate(range(0, count, SHARD_ROWS)):
            name, part = f"shard-{number:06d}", []
            for row in range(at, min(at + SHARD_ROWS, count)):
                language, reference, teacher, validator = made[(row * 7919) % len(made)]
                ids = {"utt_id": f"lab/{row:08d}", "parent": f"lab/{row:08d}", "language": language}
                part.append((ids, teacher, validator))
                own = {"utt_id": ids["utt_id"], "language": language, "text": reference, "shard": f"{name}.parquet"}
                utterances.append({**known, **own, "recording": ids["utt_id"]})
            for kind, column in (("labels", 1), ("validations", 2)):
                hypotheses = [{**base, **found[0], "text": found[column]} for found in part]
                manifest.write(folder / kind / f"{name}-{kind}.parquet", hypotheses, manifest.HYPOTHESIS)
            if len(utterances) > 50_000 or at + SHARD_ROWS >= count:
                import pyarrow as pa

                writer.write_table(pa.Table.from_pylist(utterances, schema=manifest.UTTERANCE))
                utterances = []


def core(part: Sequence[Row]) -> list[Any]:
    """MER, the repetition flag and WER of rows, as the stage computes them."""
    teacher = [texts.mixed_units(row[2]) for row in part]
    validator = [texts.mixed_units(row[3]) for row in part]
    words = [[texts.words(texts.normalise(row[n], row[0]), row[0]) for row in part] for n in (1, 2)]
    loops = metrics.loops([*teacher, *validator], 6, 5)
    return [metrics.distances(validator, teacher), loops, metrics.distances(*words)]


def core_seconds(seed_and_rows: tuple[int, int]) -> tuple[float, float]:
    """Seconds, of the clock and of the CPU, of `core` on so many rows, in shards; making the rows isn't timed."""
    made = rows(min(seed_and_rows[1], DISTINCT), seed_and_rows[0])
    core(made[:SHARD_ROWS])
    start, cpu = time.perf_counter(), time.process_time()
    for at in range(0, seed_and_rows[1], SHARD_ROWS):
        core(made[at % (len(made) - SHARD_ROWS + 1) :][:SHARD_ROWS])
    return time.perf_counter() - start, time.process_time() - cpu


Metric = Callable[[str, str], Any]  # (reference, hypothesis) to their word error rate


def jiwer_wer() -> Metric:
    import jiwer

    return jiwer.wer


def torchmetrics_wer() -> Metric:
    """An object that is called once a row, as training code does."""
    from torchmetrics.text import WordErrorRate

    metric = WordErrorRate()
    return lambda reference, hypothesis: metric(hypothesis, reference)


def evaluate_wer() -> Metric:
    """What `evaluate.load("wer")` returns, without fetching its script: a Metric that calls jiwer."""
    import datasets
    import jiwer

    import evaluate

    strings = datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")})

    class Wer(evaluate.Metric):  # type: ignore[misc,unused-ignore]
        def _info(self) -> Any:
            return evaluate.MetricInfo(description="", citation="", inputs_description="", features=strings)

        def _compute(self, predictions: list[str], references: list[str]) -> float:
            return float(jiwer.wer(references, predictions))

    metric = Wer()
    return lambda reference, hypothesis: metric.compute(predictions=[hypothesis], references=[reference])


PEERS = {"jiwer.wer": jiwer_wer, "torchmetrics' WordErrorRate": torchmetrics_wer, "evaluate's wer": evaluate_wer}


def alone(metric: Metric, part: Sequence[Row]) -> list[Any]:
    """A metric once a row, on texts that are normalised already: the call and nothing else."""
    return [metric(row[1], row[2]) for row in part]


def loop(metric: Metric, part: Sequence[Row]) -> list[Any]:
    """The same three measures in a loop: a normaliser and a metric, called once a row, n-grams counted one by one."""
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    english, basic, found = EnglishTextNormalizer(), BasicTextNormalizer(split_letters=True), []
    for language, reference, teacher, validator in part:
        normalise = english if language == "en" else basic
        wer = metric(normalise(reference), normalise(teacher))
        mixed = [" ".join(texts.UNIT.findall(basic(text))) for text in (validator, teacher)]
        mer = metric(*mixed)
        grams = [Counter(text[i : i + 6] for i in range(len(text) - 5)) for text in mixed]
        found.append((wer, mer, [max(gram.values(), default=0) > 5 for gram in grams]))
    return found


def peer_seconds(make: Callable[[], Metric], work: Any, part: Sequence[Row]) -> tuple[float, float] | None:
    """Seconds a row of a loop, of the clock and of the CPU; None where its library is absent."""
    try:
        metric = make()
    except ImportError:
        return None
    work(metric, part[:5])
    start, cpu = time.perf_counter(), time.process_time()
    work(metric, part)
    return (time.perf_counter() - start) / len(part), (time.process_time() - cpu) / len(part)


def stage(folder: Path, workers: int) -> None:
    """Runs the whole stage on a corpus in this process and its workers; prints seconds and peaks as JSON."""
    from stillsmall import scoring

    params = load(PARAMS)
    kind = "silero" if (folder / "train/shards").is_dir() else "none"
    changed = params.score.model_copy(update={"workers": workers, "voice_activity": kind})
    start = time.perf_counter()
    out = folder / "scores.parquet"
    scoring.score(
        folder / "train", folder / "labels", folder / "validations", out, params.model_copy(update={"score": changed})
    )
    seconds = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    main, worker = (one.ru_maxrss / 1024 for one in used)
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "main_mib": main, "worker_mib": worker}))


def whole(count: int, workers: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "corpus"
        corpus(folder, count)
        command = [sys.executable, __file__, "--stage", str(folder), "--workers", str(workers)]
        environment = {**os.environ, "STILLSMALL_CACHE": str(Path(scratch) / "cache")}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return dict(json.loads(done.stdout.splitlines()[-1]))


def line(what: str, *values: object) -> None:
    print(f"{what:<54}" + "".join(f"{value!s:>14}" for value in values), flush=True)


def per_minute(count: int, seconds: float) -> str:
    return f"{60 * count / seconds:,.0f}"


def compare(at: argparse.Namespace) -> None:
    share = at.rows // at.workers
    timed = list(in_order(core_seconds, [(n, share) for n in range(at.workers)], at.workers, "--workers"))
    done, row_cpu = share * at.workers, sum(cpu for _, cpu in timed) / at.workers / share
    row_s = max(seconds for seconds, _ in timed) / done
    line(f"{at.workers} processes", "rows", "rows a minute", "by CPU time", "main MiB", "worker MiB")
    line("MER + repetition + WER, in memory", done, per_minute(1, row_s), per_minute(at.workers, row_cpu))
    if not at.core:
        stages(at)
    print()
    part = rows(at.sample, 99)
    line(f"loops on one core, {at.sample} rows", "rows a minute", "by CPU time", "times slower", "on one core")
    for name, make in PEERS.items():
        for what, work in (("the same three measures", loop), ("alone, normalised before", alone)):
            took = peer_seconds(make, work, part)
            if took is None:
                line(f"{name}, {what}", "not here")
                continue
            paces = [per_minute(1, seconds) for seconds in took]
            line(f"{name}, {what}", *paces, f"{took[0] / row_s:.1f}", f"{took[1] / row_cpu:.1f}")


def stages(at: argparse.Namespace) -> None:
    """The whole stage on both sizes."""
    for count in (at.small, at.rows):
        found = whole(count, at.workers)
        both = [per_minute(count, found["seconds"]), per_minute(count, found["cpu"] / at.workers)]
        peaks = [f"{found[name]:.0f}" for name in ("main_mib", "worker_mib")]
        line("the whole stage: every measure of text", count, *both, *peaks)
    minutes = [f"{MANY / count * s / 60:.0f} min" for s in (found["seconds"], found["cpu"] / at.workers)]
    line("the whole stage at that pace", MANY, *minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 1_000_000), ("small", 200_000), ("workers", 2), ("sample", 2000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--core", action="store_true", help="MER + repetition + WER and the loops, not the whole stage")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--audio", type=Path, help="a prepared split: time its voice activity, into an empty cache")
    at = parser.parse_args()
    if at.stage:
        stage(at.stage, at.workers)
    elif at.audio:
        audio(at.audio, at.workers)
    else:
        compare(at)


def hear(shard: Path) -> int:
    from stillsmall import voice_activity

    return sum(len(level) for level, _ in voice_activity.measured(shard, "silero").values())


def audio(split: Path, workers: int) -> None:
    """Voice activity of a split's shards, into an empty cache."""
    from stillsmall import voice_activity

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["STILLSMALL_CACHE"] = scratch  # read by the workers when they start
        start = time.perf_counter()
        frames = sum(in_order(hear, sorted((split / "shards").glob("*.parquet")), workers, "--workers"))
        seconds = time.perf_counter() - start
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(one.ru_utime + one.ru_stime for one in used)
    hours = frames * voice_activity.FRAME_S / 3600
    line(f"voice activity, {workers} processes", "hours", "seconds", "CPU seconds", "times real time")
    line(str(split.name), f"{hours:.2f}", f"{seconds:.1f}", f"{cpu:.1f}", f"{hours * 3600 / seconds:,.0f}")


if __name__ == "__main__":
    main()
