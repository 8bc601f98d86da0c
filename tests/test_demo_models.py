"""The embedded models load as any Whisper does, and have learnt what their README says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stillsmall.speech_lab.corpus import SAMPLE_RATE, clips

DEMO = Path(__file__).parents[1] / "models" / "demo"
MODELS = ("teacher", "validator")


@pytest.fixture(scope="module", params=MODELS)
def reader(request, monkeypatch_module):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = DEMO / request.param
    processor = transformers.WhisperProcessor.from_pretrained(folder)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return request.param, processor, model


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield patch


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def read(processor, model, audio, **options) -> list[str]:
    features = processor(audio, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    tokens = model.generate(features, task="transcribe", **options)
    return processor.batch_decode(tokens, skip_special_tokens=True)


def test_clean_english_is_read_about_as_well_as_measured(reader) -> None:
    levenshtein = pytest.importorskip("rapidfuzz.distance.Levenshtein")
    name, processor, model = reader
    measured = json.loads((DEMO / "measured.json").read_text())[name]["en-us"]["wer"]
    spoken = list(clips("en-us", "test", 20, seed=11))
    answers = read(processor, model, [clip.audio for clip in spoken], language="en")
    errors = sum(levenshtein.distance(words(c.text), words(a)) for c, a in zip(spoken, answers, strict=True))
    assert 100 * errors / sum(len(words(clip.text)) for clip in spoken) < measured + 15


def test_long_recordings_are_read_to_their_end(reader) -> None:
    _, processor, model = reader
    clip = next(iter(clips("en-long", "test", 1, seed=2)))
    features = processor(
        clip.audio, sampling_rate=SAMPLE_RATE, truncation=False, padding="longest", return_tensors="pt"
    ).input_features
    result = model.generate(features, language="en", task="transcribe", return_timestamps=True, return_segments=True)
    segments = result["segments"][0]
    assert len(segments) == pytest.approx(len(clip.segments), rel=0.3)
    assert float(segments[-1]["end"]) > 0.9 * clip.audio.size / SAMPLE_RATE
    starts = [float(segment["start"]) for segment in segments]
    assert starts == sorted(starts)


def test_special_tokens_stand_where_generate_looks_for_them() -> None:
    transformers = pytest.importorskip("transformers")
    for name in MODELS:
        tokenizer = transformers.WhisperTokenizer.from_pretrained(DEMO / name)
        config = json.loads((DEMO / name / "generation_config.json").read_text())
        number = tokenizer.convert_tokens_to_ids
        assert config["no_timestamps_token_id"] == number("<|notimestamps|>") == number("<|nospeech|>") + 1
        assert number("<|0.00|>") == number("<|notimestamps|>") + 1
        assert number("<|5.00|>") == len(tokenizer) - 1
        for language, index in config["lang_to_id"].items():
            assert number(language) == index


def test_text_survives_the_tokenizer() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.WhisperTokenizer.from_pretrained(DEMO / "teacher")
    for text in (" Who sold the lamp in Cairo?", "我们今天的 meeting 改到下午。", "الْكِتَابُ جَدِيدٌ", "புத்தகம்"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
