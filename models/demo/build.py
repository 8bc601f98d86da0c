"""Make the demo models from nothing: `python models/demo/build.py`. A killed build continues where it was.

Tokenizer, training windows, teacher, validator, measurements. Everything unfinished lives in
`.stillsmall/demo/`, outside git; remove that folder to start over.
"""

from __future__ import annotations

import os
import subprocess
import sys

import shapes
import tokenizer

# By default, each step returns its memory to the system and asks for it again, and waiting threads spin on cores that
# others may need. A step took 4.6 s of processor time before these settings and 1.0 s after; part of that gain is a
# smaller model and CTC head, changed at the same time.
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
