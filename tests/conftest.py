"""What tests share: no network, no state of DVC or MLflow, tiny models, and the speech pack where there is one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "stillsmall tests",
    "GIT_AUTHOR_EMAIL": "tests@stillsmall.invalid",
    "GIT_COMMITTER_NAME": "stillsmall tests",
    "GIT_COMMITTER_EMAIL": "tests@stillsmall.invalid",
}
os.environ.update(OFFLINE)  # before any test module imports a library that reads these once


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own DVC site cache, and none inherits a tracking server or a git hook's environment."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc-site")))
    for name in [n for n in os.environ if n.startswith(("MLFLOW_TRACKING", "MLFLOW_REGISTRY", "MLFLOW_EXPERIMENT"))]:
        monkeypatch.delenv(name)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "DVC_EXP_NAME", "STILLSMALL_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository that is tested."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real speech and models: the folder STILLSMALL_SHARED, else `shared` beside the checkout; skips without one."""
    folder = Path(os.environ.get("STILLSMALL_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir() or not (folder / "models").is_dir():
        pytest.skip(f"no real speech: neither STILLSMALL_SHARED nor {folder} holds data/ and models/")
    return folder


@pytest.fixture
def git() -> Callable[..., str]:
    """`git("status", cwd=folder)`: git's output; raises where git fails."""

    def call(*arguments: str, cwd: Path) -> str:
        done = subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    return call


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper folder with random weights, 2 s windows and a real tokenizer."""
    import tiny

    return tiny.whisper(tmp_path_factory.mktemp("tiny") / "whisper")
