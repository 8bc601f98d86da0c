"""A plan's numbers, by hand; it works for 60,000 hours without audio; what is unknown is said."""

import json

import pytest
import soundfile
from click.testing import CliRunner

from small import ROOT, params, split, tone, write_params
from stillsmall import plan
from stillsmall.cli import main
from stillsmall.plan import PlanError, Rate


def run(folder, *words, **changes):
    fake = {"data.root": "raw", "pseudo_label.backend": "fake", "validate.backend": "fake"}
    write_params(folder / "params.yaml", **fake | changes)
    return CliRunner().invoke(main, ["plan", "--params", str(folder / "params.yaml"), *words])


def test_sixty_thousand_hours_need_no_audio_and_the_working_is_shown(tmp_path):
    rates = [f"--rate={name}={x}" for name, x in (("prepare", 600), ("pseudo_label", 200), ("validate", 400))]
    done = run(tmp_path, "--hours", "60000", "--price-per-hour", "2.5", *rates, "--rate=distill=0.5")
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line for line in done.output.splitlines() if line.strip()}
    assert lines["pseudo_label"].split()[1:3] == ["300.00", "750.00"]  # 60,000 / 200 hours; times 2.5
    assert "60,000.0 h of audio / 200 x real time (given)" in lines["pseudo_label"]
    assert lines["validate"].split()[1] == "150.00" and lines["prepare"].split()[1] == "100.00"
    assert "unknown" in lines["evaluate"] and "--rate evaluate=" in lines["evaluate"]
    assert "leaves out the stages whose rate is unknown" in done.output
    steps = params().distill.steps
    assert float(lines["distill"].split()[1].replace(",", "")) == pytest.approx(steps / 0.5 / 3600, abs=0.005)


def test_disk_is_hours_times_bytes():
    made = plan.make(params(**{"distill.encoder_cache_gb": 1.0, "distill.teacher_cache_gb": 2.0}), (100.0, "given"), {})
    sizes = {what: size for what, _, size in made.disk}
    assert sizes["prepared shards"] == pytest.approx(100 * 3600 * 32_000 * 0.6)
    assert made.bytes == pytest.approx(2 * 100 * 3600 * 32_000 * 0.6 + 2 * 100e6 + 3e9)
    assert made.hours == 0.0 and all(line.hours is None for line in made.lines)


def test_hours_come_from_the_prepared_split_or_the_headers_of_the_files(tmp_path):
    with pytest.raises(PlanError, match="--hours"):
        plan.hours_of(params(**{"data.root": "raw"}), None, tmp_path)
    (tmp_path / "raw/deep").mkdir(parents=True)
    soundfile.write(tmp_path / "raw/deep/a.wav", tone(3.0), 16000)
    soundfile.write(tmp_path / "raw/b.flac", tone(1.5), 16000)
    (tmp_path / "raw/notes.txt").write_text("no audio")
    found, origin = plan.hours_of(params(**{"data.root": "raw"}), None, tmp_path)
    assert found * 3600 == pytest.approx(4.5, abs=0.01) and origin.startswith("2 files")
    split(tmp_path / "data/prepared/train", [{"duration_s": 2.0}, {"duration_s": 5.0}])
    found, origin = plan.hours_of(params(), None, tmp_path)
    assert found * 3600 == pytest.approx(7.0) and origin == "data/prepared/train"


def test_rates_given_go_before_measured_ones_and_those_before_the_last_runs(tmp_path):
    speed = tmp_path / "metrics/speed.json"
    speed.parent.mkdir()
    speed.write_text(json.dumps({"teacher": {"times_real_time": 60.0}, "student": {"times_real_time": 120.0}}))
    known = plan.rates({}, {}, speed)
    assert known["pseudo_label"].value == 60.0 and known["evaluate"].value == pytest.approx(40.0)
    assert known["validate"].value == 60.0 and "the teacher's" in known["validate"].origin
    assert plan.rates({}, {"pseudo_label": Rate(80.0, "measured")}, speed)["pseudo_label"].value == 80.0
    assert plan.rates({"pseudo_label": 90.0}, {"pseudo_label": Rate(80.0, "m")}, speed)["pseudo_label"].value == 90.0


def speech(folder, count=5):
    """A folder of tones and the parameters that make a source of it."""
    (folder / "raw/clips").mkdir(parents=True)
    for number in range(count):
        soundfile.write(folder / f"raw/clips/{number}.wav", tone(1.0, 200 + number), 16000)
    rows = [f"{number}.wav,a text" for number in range(count)]
    (folder / "raw/clips/metadata.csv").write_text("\n".join(["file_name,text", *rows]) + "\n")
    source = {"name": "tones", "kind": "audiofolder", "path": "clips", "split": "train", "language": "en"}
    return {"prepare.sources": [source | {"transcripts": "keep"}], "data.root": "raw", "prepare.workers": 2}


def test_a_measurement_says_on_what(tmp_path):
    split(tmp_path / "data/prepared/train", [{} for _ in range(8)])
    done = run(tmp_path, "--measure", "--clips", "5", **speech(tmp_path))
    assert done.exit_code == 0, done.output
    assert "measured on 4 clips of data/prepared/train" in done.output
    assert "measured on 5 clips of source 'tones', times 2 processes" in done.output
    assert "metrics/distill_speed.json of a run" in done.output


def test_preparation_is_measured_on_the_first_training_source_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = params(**speech(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    ticks = iter([10.0, 10.5])
    monkeypatch.setattr(plan.time, "perf_counter", lambda: next(ticks))
    found = plan.measure_preparation(made, tmp_path, 5)
    assert found["prepare"].value == pytest.approx(20.0)  # 5 s of audio in half a second, by each of two processes
    assert sorted(tmp_path.rglob("*")) == before
    tested = [{**made.prepare.sources[0], "split": "test"}]
    assert plan.measure_preparation(params(**speech(tmp_path / "b") | {"prepare.sources": tested}), tmp_path, 4) == {}


def test_what_is_misspelt_is_named(tmp_path):
    done = run(tmp_path, "--hours", "1", "--rate", "pseudo_lable=3")
    assert done.exit_code != 0 and "did you mean 'pseudo_label'" in done.output
    assert "expected STAGE=NUMBER" in run(tmp_path, "--hours", "1", "--rate", "validate").output


def test_the_repositorys_own_plan_works():
    done = CliRunner().invoke(main, ["plan", "--params", str(ROOT / "params.yaml"), "--hours", "60000"])
    assert done.exit_code == 0 and "pseudo_label" in done.output


def test_the_rate_of_distillation_is_that_of_the_last_run(tmp_path):
    (tmp_path / "speed.json").write_text('{"teacher": {"times_real_time": 8.0}, "student": {"times_real_time": 8.0}}')
    (tmp_path / "distill_speed.json").write_text('{"steps_per_s": 12.5}')
    found = plan.rates({}, {}, tmp_path / "speed.json")
    assert found["distill"].value == 12.5 and "distill_speed.json" in found["distill"].origin
    assert plan.rates({"distill": 3.0}, {}, tmp_path / "speed.json")["distill"].value == 3.0
    assert found["evaluate"].value == 4.0
