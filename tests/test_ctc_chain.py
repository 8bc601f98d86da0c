"""From speech to a judged CTC student: the embedded Whisper teacher labels, a CTC model checks, another one learns."""

import json

import pytest
import soundfile

import tiny_ctc
from small import ROOT, params
from stillsmall import audio, cache, distillation, evaluation, filtering, labelling, manifest, scoring, transcription
from stillsmall.labelling import Labelling
from stillsmall.speech_lab.corpus import clips


def spoken(folder, name, count):
    """A prepared split of the speech lab's English."""
    flac, rows = [], []
    for i, clip in enumerate(clips("en-us", name, count, seed=5)):
        utt_id = f"lab/{i:03d}"
        flac.append({"utt_id": utt_id, "audio": audio.encode_flac(clip.audio)})
        rows.append(
            {"utt_id": utt_id, "source": "lab", "split": name, "domain": "en-us", "language": "en", "speaker": f"s{i}"}
            | {"text": clip.text, "recording": utt_id, "offset_s": 0.0, "shard": "shard-0.parquet"}
            | {"duration_s": len(clip.audio) / audio.SAMPLE_RATE}
        )
    manifest.write(folder / name / "shards" / "shard-0.parquet", flac, manifest.AUDIO)
    manifest.write(folder / name / "manifest.parquet", rows, manifest.UTTERANCE)
    return folder / name


CHANGES = {
    "run.threads": 1, "pseudo_label.model": str(ROOT / "models/demo/teacher"), "filter.keep_if": ["not_empty"],
    "student.model": "ctc", "student.decoder_layers": None, "student.encoder_layers": 2, "distill.objective": "ce",
    "distill.steps": 80, "distill.warmup_steps": 5, "distill.batch_size": 6, "distill.micro_batch": 3,
    "distill.learning_rate": 3e-3, "distill.timestamp_probability": 0.0, "distill.log_every": 10,
    "distill.device": "cpu", "evaluate.speed_clips": 2, "evaluate.speed_rounds": 1, "score.voice_activity": "none",
    "validate.model": "ctc", "evaluate.long_form": "chunked", "evaluate.max_new_tokens": 60, "evaluate.num_beams": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(parameters, folder) of a whole run."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(cache, "ROOT", folder / "cache")
        tiny_ctc.ctc(folder / "models/ctc")
        given = params(**CHANGES, **{"models.root": str(folder / "models")})
        train, test = spoken(folder, "train", 12), spoken(folder, "test", 3)
        how = Labelling(given.pseudo_label, given.run, given.models.root, "pseudo_label")
        labelling.transcribe(labelling.utterances(train), how, folder / "labels")
        check = Labelling(given.validate_, given.run, given.models.root, "validate")
        labelling.transcribe(labelling.chunks(train, folder / "labels"), check, folder / "validations")
        scoring.score(train, folder / "labels", folder / "validations", folder / "scores.parquet", given)
        kept = folder / "kept.parquet"
        rules = filtering.rules(given.filter, given.filters)
        filtering.split(
            folder / "scores.parquet", kept, folder / "rejected.parquet", folder / "filter.json", rules, None
        )
        out = [folder / name for name in ("student", "curve.csv", "samples.parquet", "distill.json")]
        distillation.distill(given, distillation.Paths(train, kept, *out))
        evaluation.evaluate(given, test, folder / "student", folder / "evaluation", folder / "evaluate.json")
        cache.write_json(folder / "speed.json", evaluation.speed(given, test, folder / "student"))
        yield given, folder


def curve(folder):
    rows = [line.split(",") for line in (folder / "curve.csv").read_text().splitlines()]
    return [float(row[rows[0].index("loss")]) for row in rows[1:]]


def test_a_ctc_student_learns_what_a_whisper_teacher_heard(run):
    _, folder = run
    losses = curve(folder)
    assert losses[-1] < 0.8 * losses[0]
    summary = json.loads((folder / "distill.json").read_text())
    assert summary["examples"] + sum(summary["skipped"].values()) == 12 and summary["examples"] > 8


def test_a_ctc_validator_checks_each_label(run):
    _, folder = run
    rows = manifest.rows(folder / "scores.parquet", manifest.SCORE)
    assert len(rows) == 12
    assert all(row["agreement_mer"] is not None and row["mean_logprob"] is not None for row in rows)


def test_both_are_judged_and_timed_each_by_its_own_decoding(run):
    _, folder = run
    found, speed = (json.loads((folder / f"{name}.json").read_text()) for name in ("evaluate", "speed"))
    assert found["teacher"]["wer"]["normalised"] < 0.6 and found["student"]["wer"]["normalised"] is not None
    assert speed["teacher"]["parameters"] != speed["student"]["parameters"] and speed["speed_up"] > 0
    rows = manifest.rows(folder / "evaluation/hypotheses/student", manifest.HYPOTHESIS)
    assert [row["utt_id"] for row in rows] == ["lab/000", "lab/001", "lab/002"]


def test_the_student_transcribes_files(run, tmp_path):
    _, folder = run
    clip = next(clips("en-us", "test", 1, seed=5))
    soundfile.write(tmp_path / "a.wav", clip.audio, audio.SAMPLE_RATE)
    ((_, segments, text),) = transcription.transcribe_files(
        [tmp_path / "a.wav"], str(folder / "student"), None, timestamps=True, device="cpu", threads=1
    )
    (row, *_) = manifest.rows(folder / "evaluation/hypotheses/student", manifest.HYPOTHESIS)
    assert text.split() == row["text"].split() and (not text or segments[-1]["end"] <= len(clip.audio) / 16_000 + 0.01)
