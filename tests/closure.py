"""Which modules of the library a file imports, directly or through others: read from the source, nothing is run."""

from __future__ import annotations

import ast
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"
PACKAGE = "stillsmall"


def path_of(module: str) -> Path | None:
    """The file of a module of the library, or None if it is not one."""
    base = SRC.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imported(path: Path) -> set[str]:
    """Names of the library's modules that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == PACKAGE and path_of(name)}


def closure(path: Path) -> set[Path]:
    """Every file of the library that `path` needs; packages' own `__init__` (empty or a lazy table) left out."""
    seen: set[Path] = set()
    queue = [path]
    while queue:
        for name in imported(queue.pop()):
            found = path_of(name)
            if found and found not in seen:
                seen.add(found)
                queue.append(found)
    return {p for p in seen if p.name != "__init__.py"}
