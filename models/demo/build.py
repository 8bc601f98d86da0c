"""Make the demo models from nothing: `python models/demo/build.py`. A killed build continues where it was.

Tokenizer, training windows, teacher, validator, measurements; about an hour on two CPU cores. Everything unfinished
lives in `.stillsmall/demo/`, outside git; remove that folder to start over.
"""

from __future__ import annotations

import os
import subprocess
import sys

import shapes
import tokenizer

# Without the allocator's settings, each step returns its memory to the system and asks for it again: 3x slower.
# Waiting threads that spin take the cores from whatever else runs on them.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 28),
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
}


def step(*command: str) -> None:
    """One program of this folder, in its own process."""
    print("->", *command, flush=True)
    subprocess.run([sys.executable, *command], cwd=shapes.HERE, env=os.environ | ENVIRONMENT, check=True)


def main() -> None:
    """All steps in order; each skips what it has already done."""
    if not (shapes.WORK / "tokenizer" / "tokenizer_config.json").exists():
        tokenizer.build(shapes.WORK / "tokenizer")
    step("corpus.py")
    for name in shapes.SHAPES:
        step("train.py", name)
        step("export.py", name)
    step("evaluate.py", *shapes.SHAPES)


if __name__ == "__main__":
    main()
