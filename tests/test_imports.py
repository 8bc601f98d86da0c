"""Imports point one way, heavy libraries stay in their rooms, and importing does nothing.

A room is a module or a folder of src/stillsmall. A new one gets its place in ROOMS: above all that it imports.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOMS = [  # from the ground up; a room imports rooms of lower floors only, and siblings do not import each other
    {"plugins", "cache", "progress", "stage", "processes", "multi_process", "training_log"},
    {"faults", "sections"},
    {"config", "manifest", "audio", "text", "stats"},
    {
        "feasible",
        "metrics",
        "whisper_tokens",
        "compute",
        "checkpoints",
        "speech_lab",
        "voice_activity",
        "language_identity",
    },
    {"students", "self_teacher", "live_models", "ctc"},
    {"filters", "mixture", "objectives", "teachers", "student", "sources", "reporting", "phonemes", "likelihood"},
    {"data", "labelling", "measures", "filtering", "judgement", "preparation"},
    {"families", "sample_table", "augmentation", "optimisation", "loading", "dev_set"},
    {"pairing"},
    {"packing", "encoder_states", "evaluation", "transcription", "report", "recipes", "scoring", "plan", "backends"},
    {"teacher_outputs", "hearing", "tracking", "lineage"},
    {"teacher_cache", "asking"},
    {"training", "ablations"},
    {"assembly"},
    {"distillation", "registry"},
    {"serving", "summary", "doctor"},
    {"cli"},
]
MLFLOW = {"tracking", "registry", "serving"}
TORCH = {
    *{"compute", "checkpoints", "objectives", "teachers", "student", "data", "packing", "encoder_states", "likelihood"},
    *{"families", "sample_table", "teacher_outputs", "teacher_cache", "training", "distillation", "multi_process"},
    *{"optimisation", "augmentation", "loading", "hearing", "dev_set", "asking", "assembly", "students"},
    *{"evaluation", "transcription", "serving", "doctor", "self_teacher", "live_models", "ctc", "pairing"},
}
RAY = {"teachers"}
NOWHERE = {"dvc"}  # DVC runs us, we do not run DVC
LIGHT = {
    *{"plugins", "cache", "progress", "config", "manifest", "audio", "text", "stats", "metrics", "filters", "sources"},
    *{
        "faults",
        "feasible",
        "mixture",
        "labelling",
        "processes",
        "phonemes",
        "voice_activity",
        "language_identity",
        "measures",
        "plan",
        "backends",
        "scoring",
        "filtering",
        "judgement",
        "preparation",
        "recipes",
        "ablations",
        "lineage",
        "tracking",
        "registry",
        "summary",
        "cli",
    },
}
PACKAGE = Path("src/stillsmall")


def modules(root: Path) -> dict[str, Path]:
    """Dotted name to file, of everything in the package."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root / "src").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str | None:
    """The room of `stillsmall.ROOM...`; None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def imported(source: str) -> Iterator[str]:
    """What a module imports, wherever in it: at its top, in a function, for type checkers."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: name the module from `stillsmall` on"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(name: str) -> int:
    places = [number for number, rooms in enumerate(ROOMS) if name in rooms]
    assert places, (
        f"stillsmall.{name} has no place in ROOMS of tests/test_imports.py: give it one above what it imports"
    )
    return places[0]


def upward(name: str, source: str) -> list[str]:
    """The imports of room `name` that do not point down."""
    rooms = {room(target) for target in imported(source) if target.split(".")[0] == "stillsmall"} - {None, name}
    return sorted(f"{name} -> {other}" for other in rooms if other and floor(other) >= floor(name))


def test_imports_point_one_way(root: Path) -> None:
    wrong = [e for m, path in modules(root).items() if (r := room(m)) for e in upward(r, path.read_text())]
    assert wrong == []


def test_that_test_can_fail() -> None:
    assert upward("filters", "def f():\n    from stillsmall import scoring\n") == ["filters -> scoring"]
    assert upward("filters", "from stillsmall.objectives.base import reduce\n") == ["filters -> objectives"]
    assert (
        upward("filters", "from stillsmall.config import Section\nfrom stillsmall.filters.base import Verdict\n") == []
    )
    with pytest.raises(AssertionError, match=r"stillsmall\.attic has no place"):
        upward("filters", "import stillsmall.attic\n")


def test_every_room_has_one_place_and_every_place_a_room(root: Path) -> None:
    rooms = {found for module in modules(root) if (found := room(module))}
    placed = [name for names in ROOMS for name in names]
    assert len(placed) == len(set(placed))
    assert {name for name in rooms if floor(name) < 0} == set()


def users(root: Path, library: str) -> set[str]:
    """The rooms that import a library anywhere."""
    return {
        found
        for module, path in modules(root).items()
        if (found := room(module)) and any(t.split(".")[0] == library for t in imported(path.read_text()))
    }


def test_mlflow_lives_in_tracking_registry_and_serving_only(root: Path) -> None:
    assert users(root, "mlflow") == MLFLOW


def test_ray_lives_where_labels_are_made_on_a_cluster_only(root: Path) -> None:
    assert users(root, "ray") == RAY


@pytest.mark.parametrize("library", sorted(NOWHERE))
def test_some_libraries_are_used_by_no_room(root: Path, library: str) -> None:
    assert users(root, library) == set()


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_torch_stays_where_models_are(root: Path, library: str) -> None:
    assert users(root, library) - TORCH == set()


def test_stages_are_thin(root: Path) -> None:
    for path in sorted((root / "stages").glob("*.py")):
        libraries = {target.split(".")[0] for target in imported(path.read_text())}
        assert not libraries & {"torch", "transformers", "mlflow", "ray", "dvc"}, path.name
        code = path.read_text().split('"""', 2)[2]
        assert len([line for line in code.splitlines() if line.strip()]) <= 40, path.name


PROBE = """
import importlib, json, os, sys
names, refused, preload = json.loads(sys.argv[1]), set(json.loads(sys.argv[2])), json.loads(sys.argv[3])

class Without:  # as where they are not installed: a library that only asks whether they are there hears no
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in refused else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for name in preload:  # libraries: what they do when they are imported isn't ours
    importlib.import_module(name)
written = []

def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path)[:5] != "/dev/":
            written.append(str(path))
    elif event in ("os.mkdir", "socket.connect", "subprocess.Popen"):
        written.append(f"{event} {arguments[0]}")

def state():
    import random

    found = {"seed": random.getstate(), "environment": dict(os.environ)}
    if "torch" in preload:
        import numpy, torch

        found["numpy seed"] = numpy.random.get_state()[1].tolist()
        found["torch seed"] = torch.get_rng_state().tolist()
        found["threads"] = torch.get_num_threads(), torch.get_num_interop_threads()
    return found

before = state()
sys.addaudithook(hook)
for name in names:
    importlib.import_module(name)
after = state()
changed = sorted(key for key in before if before[key] != after[key])
print(json.dumps({"written": written, "changed": changed, "modules": sorted({n.split(".")[0] for n in sys.modules})}))
"""
LIBRARIES = [
    "torch",
    "transformers.models.whisper.modeling_whisper",
    "transformers.models.whisper.processing_whisper",
    "rich.style",  # draws a random number
]


def probe(folder: Path, names: list[str], refused: set[str], preload: Sequence[str] = ()) -> dict[str, Any]:
    """What importing `names` does in a fresh process in an empty folder, with some libraries absent."""
    arguments = [json.dumps(names), json.dumps(sorted(refused)), json.dumps(preload)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder), "MPLCONFIGDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def names_of(root: Path, rooms: set[str]) -> list[str]:
    return [module for module in modules(root) if room(module) in rooms]


@pytest.fixture(scope="module")
def bare(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Importing all of it where mlflow, ray and dvc are absent. Serving is left out: MLflow itself runs that file."""
    everything = [name for name in modules(root) if room(name) != "serving"]
    return probe(tmp_path_factory.mktemp("bare"), everything, {"mlflow", "ray", "dvc"}, LIBRARIES)


def test_the_training_core_and_all_else_but_serving_import_without_mlflow_ray_and_dvc(bare: dict[str, Any]) -> None:
    assert "torch" in bare["modules"]
    assert not {"mlflow", "ray", "dvc"} & set(bare["modules"])


def test_importing_makes_no_file_and_sets_no_seed(bare: dict[str, Any]) -> None:
    assert bare["written"] == []
    assert bare["changed"] == []


def test_light_rooms_come_without_torch_and_mlflow(root: Path, tmp_path: Path) -> None:
    refused = {"torch", "transformers", "mlflow", "ray", "dvc", "datasets", "matplotlib"}
    light = [module for module in modules(root) if room(module) in LIGHT]
    assert not refused & set(probe(tmp_path, light, refused)["modules"])


def test_those_tests_can_fail(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("import random\nrandom.seed(1)\nopen('made', 'w').close()\n")
    (tmp_path / "needy.py").write_text("import mlflow\n")
    found = probe(tmp_path, ["loud"], set())
    assert (found["written"], found["changed"]) == (["made"], ["seed"])
    with pytest.raises(AssertionError, match="No module named 'mlflow'"):
        probe(tmp_path, ["needy"], {"mlflow"})


def test_files_and_functions_stay_short(root: Path) -> None:
    long = []
    for path in [*modules(root).values(), *sorted((root / "stages").glob("*.py"))]:
        text = path.read_text()
        if len(text.splitlines()) > 350:
            long.append(f"{path.name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
                long += [f"{path.name}:{node.name}: {lines} lines"] if lines > 40 else []
    assert long == []
