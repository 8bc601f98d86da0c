"""Peak memory and time of `prepare` and of labelling, by the length of one recording.

    python benchmarks/long_recordings.py                                        # the embedded teacher, lab speech
    python benchmarks/long_recordings.py --minutes 10 60 180 --backends transformers ctranslate2

The recording is minutes of the speech lab's `en-long`, said again and again. Every measurement is a process of its own
and reads its peak resident memory (ru_maxrss, the largest of its children's beside it) when it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from stillsmall import audio, config, labelling, manifest
from stillsmall.config import Transcribe
from stillsmall.labelling import Labelling

ROOT = Path(__file__).resolve().parents[1]
MINUTE = 60 * audio.SAMPLE_RATE


def record(path: Path, minutes: int) -> None:
    """A recording of so many minutes, written a little at a time."""
    from stillsmall.speech_lab.corpus import clips

    said = np.concatenate([clip.audio for clip in clips("en-long", "test", 4, seed=3)])[: 5 * MINUTE]
    left = minutes * MINUTE
    with sf.SoundFile(path, "w", audio.SAMPLE_RATE, 1, "PCM_16") as file:
        while left > 0:
            file.write(said[:left])
            left -= len(said[:left])


def prepare(folder: Path) -> None:
    """The folder's recording, through the stage's own function, in a process without workers."""
    from ruamel.yaml import YAML

    from stillsmall.preparation import prepare as work

    tree = config.read_yaml(ROOT / "params.yaml")
    source = {"name": "long", "kind": "audiofolder", "path": ".", "split": "train", "language": "en"}
    tree |= {"data": {"root": str(folder / "raw")}}
    tree["prepare"] = {**tree["prepare"], "sources": [source], "workers": 1}
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(tree, file)
    work(folder / "params.yaml", folder / "prepared", folder / "prepare.json")


def label(folder: Path, changes: dict[str, Any], model: Path) -> None:
    """The prepared recording, through the stage's own function."""
    params = config.load(ROOT / "params.yaml")
    section: Transcribe = params.pseudo_label.model_copy(update={"model": model.name, "device": "cpu", **changes})
    run = params.run.model_copy(update={"threads": int(os.environ["OMP_NUM_THREADS"])})
    how = Labelling(section, run, str(model.parent), "pseudo_label")
    labelling.transcribe(
        labelling.utterances(folder / "prepared/train"), how, folder / "out", folder / "failed.parquet"
    )


def measured(folder: Path, threads: int, *what: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    environment = {**os.environ, "STILLSMALL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(folder), *what], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": round(time.perf_counter() - start, 1)}


def child(folder: Path, work: str, model: str, changes: str) -> None:
    if work == "prepare":
        prepare(folder)
    else:
        label(folder, json.loads(changes), Path(model))
    peaks = [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"peak_mib": peaks[0], "peak_of_a_child_mib": peaks[1]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=4, metavar="", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, default=ROOT / "models/demo/teacher")
    parser.add_argument("--minutes", type=int, nargs="+", default=[10, 60, 180])
    parser.add_argument("--backends", nargs="+", default=["transformers"])
    parser.add_argument("--long-form", nargs="+", default=["sequential", "chunked"])
    parser.add_argument("--threads", type=int, default=2)
    at = parser.parse_args()
    if at.child:
        child(Path(at.child[0]), *at.child[1:])
        return
    for minutes in at.minutes:
        with tempfile.TemporaryDirectory() as store:
            folder = Path(store)
            (folder / "raw").mkdir()
            record(folder / "raw/long.wav", minutes)
            found = measured(folder, at.threads, "prepare", "", "")
            pieces = manifest.read(folder / "prepared/train/manifest.parquet", manifest.UTTERANCE).num_rows
            print(json.dumps({"minutes": minutes, "what": "prepare", "pieces": pieces, **found}), flush=True)
            for backend in at.backends:
                for form in at.long_form:
                    changes = json.dumps({"backend": backend, "long_form": form})
                    found = measured(folder, at.threads, "label", str(at.model.resolve()), changes)
                    rows = manifest.read(folder / "out", manifest.HYPOTHESIS).num_rows
                    what = f"{backend}, {form}"
                    print(json.dumps({"minutes": minutes, "what": what, "hypotheses": rows, **found}), flush=True)


if __name__ == "__main__":
    main()
