"""How a stage is a program: its paths come from the command line, and a fault that people can mend is one message."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

PACKAGE = __name__.partition(".")[0]


def explained(error: BaseException) -> bool:
    """Whether the message says all: one of this library's own errors, or the disk's."""
    return type(error).__module__.partition(".")[0] == PACKAGE or isinstance(error, OSError)


def run(work: Callable[[argparse.Namespace], None], description: str, *names: str) -> None:
    """Parses one required path per name and calls `work`; STILLSMALL_TRACEBACK=1 shows where an error came from."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=True)
    at = parser.parse_args()
    try:
        work(at)
    except Exception as error:
        if not explained(error) or os.environ.get("STILLSMALL_TRACEBACK") == "1":
            raise
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")
