"""The command line: quick, one message an error, and what it says is what it did."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stillsmall import cli, config, registry, summary

FILTER = {
    "kept": {"labels": 70, "hours": 0.5},
    "rejected": {"labels": 30, "hours": 0.25},
    "reasons": {"agreement": {"labels": 25, "hours": 0.2}, "repetition": {"labels": 10, "hours": 0.1}},
    "domains": {},
}
EVALUATE: dict[str, Any] = {
    "teacher": {
        "wer": {"normalised": 0.1, "orthographic": 0.2},
        "cer": {"normalised": 0.05},
        "domains": {"en-us": {"wer": 0.05}, "en-noisy": {"wer": 0.3}},
    },
    "student": {
        "wer": {"normalised": 0.125, "orthographic": 0.225},
        "cer": {"normalised": 0.06},
        "domains": {"en-us": {"wer": {"normalised": 0.4}}, "en-noisy": {"wer": {"normalised": 0.35}}},
    },
    "difference": {"wer": 0.025, "interval": {"value": 0.025, "low": -0.01, "high": 0.06}},
}
SPEED = {
    "teacher": {"real_time_factor": 0.05, "parameters": 1_500_000, "bytes": 6_291_456},
    "student": {"real_time_factor": 0.02, "parameters": 1_000_000, "bytes": 4_194_304},
    "speed_up": 2.5,
}


@pytest.fixture
def repo(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml, recipes and the metrics of a run."""
    shutil.copy(root / "params.yaml", tmp_path)
    shutil.copytree(root / "recipes", tmp_path / "recipes")
    (tmp_path / "metrics").mkdir()
    for name, values in {"filter": FILTER, "evaluate": EVALUATE, "speed": SPEED}.items():
        (tmp_path / f"metrics/{name}.json").write_text(json.dumps(values))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str) -> Result:
    return CliRunner().invoke(cli.main, words, catch_exceptions=True)


def test_help_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['stillsmall', '--help']\n"
        "from stillsmall.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'mlflow', 'transformers', 'rich', 'pydantic', 'ruamel'} & set(sys.modules)))"
    )
    times = []
    for _ in range(3):  # the best of three: other work shares the cores
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("use", "doctor", "transcribe", "register", "summary"):
        assert f"\n  {command} " in done.stdout
    assert min(times) < 0.5


def test_use_applies_a_recipe_and_a_value_on_top(repo: Path) -> None:
    result = call("use", "l2en", "distill.steps=7")
    assert result.exit_code == 0, result.output
    assert "pseudo_label.model: teacher -> whisper-tiny-l2en" in result.output
    assert config.load(repo / "params.yaml").distill.steps == 7


def test_use_without_words_lists_the_recipes(repo: Path) -> None:
    assert [line for line in call("use").output.splitlines() if line[0] != " "] == [
        "adakd_hindi_wav2vec2",
        "adakd_hindi_whisper",
        "arabic",
        "askd",
        "distil_whisper",
        "k2d",
        "l2en",
    ]


def test_a_dry_run_says_that_nothing_changed(repo: Path) -> None:
    before = (repo / "params.yaml").read_bytes()
    result = call("use", "run.seed=1234", "--dry-run")
    assert f"run.seed: {config.load(repo / 'params.yaml').run.seed} -> 1234" in result.output
    assert "as it was" in result.output
    assert (repo / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["use", "distill.stepz=3"], 2, "stillsmall: distill.stepz: unknown 'stepz'; did you mean 'steps'?"),
        (["use", "l2em"], 2, "stillsmall: recipe 'l2em': no such file"),
        (["use", "filter.keep_if=[agrement]"], 2, "did you mean 'agreement'?"),
        (["summary", "--params", "nowhere.yaml"], 2, "stillsmall: nowhere.yaml: no such file"),
        (["register"], 1, "stillsmall: dvc.lock: no such file; run `make repro` first"),
        (["transcribe", "nowhere.wav"], 2, "File 'nowhere.wav' does not exist"),
        (["transcribe"], 2, "Missing argument 'FILES...'"),
        (["sumary"], 2, "No such command 'sumary'"),
    ],
)
def test_an_error_is_one_message_and_no_traceback(repo: Path, words: list[str], code: int, said: str) -> None:
    result = call(*words)
    assert result.exit_code == code
    assert said in result.output
    assert "Traceback" not in result.output


def test_the_traceback_is_there_when_asked_for(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLSMALL_TRACEBACK", "1")
    assert isinstance(call("use", "distill.stepz=3").exception, config.ConfigError)


def test_a_fault_of_ours_is_not_dressed_up_as_the_users(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("stillsmall.summary.show", broken)
    assert isinstance(call("summary").exception, ValueError)


def test_the_summary_compares_teacher_and_student(repo: Path) -> None:
    rows = {row[0]: row[1:] for row in summary.rows(summary.read(repo / "metrics"))}
    assert rows["WER, normalised"] == ("10.0 %", "12.5 %")
    assert rows["WER, as written"] == ("20.0 %", "22.5 %")
    assert rows["worst domain"] == ("30.0 % (en-noisy)", "40.0 % (en-us)")
    assert rows["speed (x real time)"] == ("20.0", "50.0")
    assert rows["parameters"] == ("1.50 M", "1.00 M")
    assert rows["size in memory"] == ("6.0 MB", "4.0 MB")
    said = " ".join(summary.sentences(summary.read(repo / "metrics")))
    assert "+2.5 points from the teacher's (95 % interval -1.0 to +6.0)" in said
    assert "2.50 times as fast" in said
    assert "70 of 100 kept (0.50 h), 30 rejected (agreement 25, repetition 10)" in said


def test_the_summary_says_what_to_type_next(repo: Path) -> None:
    (repo / "reports").mkdir()
    (repo / "reports/report.html").write_text("")
    result = call("summary")
    assert result.exit_code == 0, result.output
    for word in ("reports/report.html", "models:/stillsmall-student@candidate", "mlflow ui", "stillsmall transcribe"):
        assert word in result.output
    assert str(repo) not in result.output


def test_a_summary_before_the_pipeline_ran_says_what_makes_it(repo: Path) -> None:
    (repo / "metrics/evaluate.json").unlink()
    result = call("summary")
    assert (result.exit_code, result.output.strip()) == (
        1,
        f"stillsmall: {repo}/metrics/evaluate.json: no such file; `make repro` (or `dvc repro`) makes it",
    )


def fake_transcribe(
    paths: list[Path], model: str, language: str | None, timestamps: bool, device: str
) -> Iterator[tuple[Path, list[dict[str, Any]], str]]:
    for path in paths:
        yield path, [{"start": 0.0, "end": 1.5, "text": f" {model} {language} {device}"}], " a still small voice"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a still small voice\n"),
        (["--timestamps", "--language", "en"], "[    0.00     1.50] m en auto\n"),
        (["--json"], '{"file": "a.wav", "text": " a still small voice", "segments": [{"start": 0.0, '),
        (["b.wav"], "a.wav: a still small voice\nb.wav: a still small voice\n"),
    ],
)
def test_transcribe_prints_text_segments_or_json(
    repo: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.setattr("stillsmall.transcription.transcribe_files", fake_transcribe)
    for name in ("a.wav", "b.wav"):
        (repo / name).write_bytes(b"")
    result = call("transcribe", "a.wav", "--model", "m", *words)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(said)


def test_transcribe_fetches_a_registered_model(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo / "a.wav").write_bytes(b"")
    monkeypatch.setattr("stillsmall.transcription.transcribe_files", fake_transcribe)
    monkeypatch.setattr(registry, "local_model", lambda uri, _: Path("fetched") / uri.rpartition("/")[2])
    result = call("transcribe", "a.wav", "--timestamps", "--model", "models:/stillsmall-student@candidate")
    assert "fetched/stillsmall-student@candidate" in result.output


@pytest.fixture
def tools(root: Path, tmp_path: Path) -> Path:
    """The scripts that make the environment, in a folder of their own."""
    return Path(shutil.copytree(root / "tools", tmp_path / "clone/tools"))


def test_sync_without_enough_disk_says_so_before_it_begins(tools: Path) -> None:
    environment = {**os.environ, "STILLSMALL_MIN_FREE_GB": "1000000"}
    done = subprocess.run([tools / "sync"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "wants 1000000 GB" in done.stderr
    assert "STILLSMALL_MIN_FREE_GB=0 make" in done.stderr
    assert not (tools.parent / ".venv").exists()


def stub(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def minimal_path(folder: Path, *stubs: tuple[str, str]) -> dict[str, str]:
    """An environment whose PATH holds the basic tools, these stubs, and nothing else."""
    folder.mkdir()
    for name, script in stubs:
        stub(folder, name, script)
    for name in ("bash", "sh", "env", "dirname", "df", "awk", "rm", "mkdir", "cat", "cp", "chmod", "touch"):
        if not (folder / name).exists():
            (folder / name).symlink_to(shutil.which(name) or "/bin/false")
    return {"PATH": str(folder), "HOME": str(folder / "home")}


def test_sync_without_a_new_enough_python_says_so(tools: Path, tmp_path: Path) -> None:
    uv = 'case "$1" in --version) exit 0;; python) exit 1;; *) touch synced;; esac'
    environment = minimal_path(tmp_path / "bin", ("uv", uv), ("python3", "echo Python 3.9.2"))
    done = subprocess.run([tools / "sync"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "stillsmall needs Python 3.11 or newer. Here is Python 3.9.2" in done.stderr
    assert not (tools.parent / "synced").exists()


def test_uv_is_fetched_into_the_checkout_where_there_is_none(tools: Path, tmp_path: Path) -> None:
    pip = 'for last; do :; done; [ "$1" = --version ] && exit 0; [ "$2" = pip ] || exit 1\n'
    pip += 'while [ "$1" != --target ]; do shift; done; mkdir -p "$2/bin"\n'
    pip += 'printf "#!/bin/sh\\necho fetched \\$*\\n" > "$2/bin/uv"; chmod +x "$2/bin/uv"'
    environment = minimal_path(tmp_path / "bin", ("uv", "exit 127"), ("python3", pip))  # a shim that leads nowhere
    done = subprocess.run([tools / "uv", "sync"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "fetched sync\n"), done.stderr
    assert (tools.parent / ".stillsmall/uv/bin/uv").is_file()
    again = subprocess.run([tools / "uv", "run"], env=environment, capture_output=True, text=True)
    assert (again.stdout, again.stderr) == ("fetched run\n", "")


def test_without_uv_and_without_pip_the_message_says_what_to_do(tools: Path, tmp_path: Path) -> None:
    environment = minimal_path(tmp_path / "bin")
    done = subprocess.run([tools / "uv", "sync"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Install uv as its documentation says, or a python3 with pip" in done.stderr
