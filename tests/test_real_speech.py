"""Real human speech through a real (small) Whisper: skipped, with a message, where the speech pack is absent."""

import csv

import pytest

from small import params
from stillsmall import audio, metrics
from stillsmall.config import Run
from stillsmall.teachers.base import Clip
from stillsmall.teachers.transformers import TransformersTeacher

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def teacher(shared):
    config = params(**{"pseudo_label.model": "whisper-tiny-l2en", "pseudo_label.device": "cpu"}).pseudo_label
    return TransformersTeacher(config, Run(seed=1, threads=2), shared / "models", "pseudo_label")


def test_short_clips_come_out_about_as_well_as_the_models_readme_says(shared, teacher):
    folder = shared / "data/l2en/test"
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::40]
    clips = [Clip(row["file_name"], audio.decode(folder / row["file_name"]), "en") for row in rows]
    heard = teacher.transcribe(clips)
    counts = metrics.total(
        metrics.wer(row["text"], found[0].text, "en", "normalised") for row, found in zip(rows, heard, strict=True)
    )
    assert len(clips) == 15 and counts.rate < 0.6  # 36-38 % on the whole set
    assert all(found[0].mean_logprob < 0 and found[0].no_speech_prob < 0.5 for found in heard)


def test_a_long_recording_is_heard_to_its_end_in_chunks_of_a_window(shared, teacher):
    folder = shared / "data/long"
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if "l2long_03" in row["file_name"])
    clip = Clip("long", audio.decode(folder / row["file_name"]), "en")
    chunks = teacher.transcribe([clip])[0]
    text = " ".join(chunk.text for chunk in chunks)
    assert metrics.wer(row["text"], text, "en", "normalised").rate < 0.6
    assert chunks[-1].end_s > clip.duration_s - 10 and len(chunks) >= clip.duration_s / 30
    assert all(chunk.end_s - chunk.start_s <= 30.0 + 1e-6 for chunk in chunks)


@pytest.mark.parametrize("folder", ["digits", "arabic", "lj", "misc"])
def test_every_corpus_of_the_pack_decodes_to_16_khz_mono(shared, folder):
    with (shared / "data" / folder / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::97]
    for row in rows:
        samples = audio.decode(shared / "data" / folder / row["file_name"])
        assert samples.ndim == 1 and len(samples) / audio.SAMPLE_RATE == pytest.approx(float(row["duration"]), abs=0.02)
