"""Folders with metadata, JSON lines and datasets: what their columns say of each clip, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from heaps import clips, speak
from stillsmall.audio import SAMPLE_RATE, AudioError
from stillsmall.sources.base import Clip, PreparationError


def reason(clip: Clip) -> str:
    assert isinstance(clip.audio, AudioError)
    return clip.audio.reason


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two clips and a metadata.csv."""
    speak(tmp_path / "a/one.wav")
    speak(tmp_path / "a/sub/two.flac", seed=1)
    (tmp_path / "a/metadata.csv").write_text(
        "\ufefffile_name,text,speaker,language,domain,age\n"
        'one.wav,"Hello, ""world""",0003,en,child,6\nsub/two.flac,,,,,\n',
        encoding="utf-8",
    )
    return tmp_path


def test_an_audiofolder_gives_what_its_table_says(folder: Path) -> None:
    one, two = clips(folder, kind="audiofolder", path="a", domain_column="domain", language_column="language",
                     language="zh", domain="other")  # fmt: skip
    assert (one.item, one.text, one.speaker, one.language, one.domain) == (
        "one.wav", 'Hello, "world"', "0003", "en", "child",
    )  # fmt: skip
    assert (two.item, two.text, two.speaker, two.language, two.domain) == ("sub/two.flac", None, None, "zh", "other")
    assert (one.audio, one.recording) == (folder / "a/one.wav", "a/one.wav")


def test_what_the_section_says_goes_before_a_column_that_it_does_not_name(folder: Path) -> None:
    one, _ = clips(folder, kind="audiofolder", path="a", language="sv", domain="mine")
    assert (one.language, one.domain) == ("sv", "mine")


def test_dropped_transcripts_are_hidden(folder: Path) -> None:
    assert [c.text for c in clips(folder, kind="audiofolder", path="a", language="en", transcripts="drop")] == [
        None,
        None,
    ]


def test_an_empty_text_may_mean_that_nothing_is_said(folder: Path) -> None:
    _, two = clips(folder, kind="audiofolder", path="a", language="en", empty_text="nothing_said")
    assert (two.text, two.may_be_silent) == ("", True)


def test_metadata_may_be_json_lines_with_other_names(tmp_path: Path) -> None:
    speak(tmp_path / "a/one.wav")
    row = {"file_name": "one.wav", "transcription": "hej", "who": 7}
    (tmp_path / "a/metadata.jsonl").write_text(json.dumps(row) + "\n\n")
    (one,) = clips(tmp_path, kind="audiofolder", path="a", language="sv", speaker_column="who")
    assert (one.text, one.speaker) == ("hej", "7")


def test_metadata_in_a_subfolder_is_relative_to_it(tmp_path: Path) -> None:
    for part in ("x", "y"):
        speak(tmp_path / f"a/{part}/0.wav")
        (tmp_path / f"a/{part}/metadata.csv").write_text(f"file_name,text\n0.wav,{part}\n")
    assert [(c.item, c.text) for c in clips(tmp_path, kind="audiofolder", path="a", language="en")] == [
        ("x/0.wav", "x"), ("y/0.wav", "y"),
    ]  # fmt: skip


def test_a_folder_without_metadata_has_no_transcripts(tmp_path: Path) -> None:
    speak(tmp_path / "a/b/one.wav")
    (tmp_path / "a/notes.txt").write_text("no audio")
    (tmp_path / "a/.hidden.wav").touch()
    assert [(c.item, c.text) for c in clips(tmp_path, kind="audiofolder", path="a", language="en")] == [
        ("b/one.wav", None)
    ]


def test_linked_folders_are_looked_into(tmp_path: Path) -> None:
    speak(tmp_path / "disk/b/one.wav")
    (tmp_path / "disk/b/metadata.csv").write_text("file_name,text\none.wav,hi\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/linked").symlink_to(tmp_path / "disk")
    assert [(c.item, c.text) for c in clips(tmp_path, kind="audiofolder", path="a", language="en")] == [
        ("linked/b/one.wav", "hi")
    ]


def test_a_path_out_of_the_source_is_refused_and_dots_within_it_are_not(tmp_path: Path) -> None:
    speak(tmp_path / "a/one.wav")
    speak(tmp_path / "secret.wav")
    rows = ["file_name", "../secret.wav", "sub/../one.wav", "/etc/passwd"]
    (tmp_path / "a/metadata.csv").write_text("\n".join(rows) + "\n")
    found = {clip.item: clip for clip in clips(tmp_path, kind="audiofolder", path="a", language="en")}
    assert reason(found["../secret.wav"]) == "path_outside_source"
    assert reason(found["/etc/passwd"]) == "path_outside_source"
    assert found["sub/../one.wav"].audio == tmp_path / "a/one.wav"


def test_the_second_of_an_id_is_a_duplicate(tmp_path: Path) -> None:
    speak(tmp_path / "a/one.wav")
    (tmp_path / "a/metadata.csv").write_text("file_name,text\none.wav,first\none.wav,second\n")
    first, second = clips(tmp_path, kind="audiofolder", path="a", language="en")
    assert first.text == "first"
    assert reason(second) == "duplicate_id"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,text\none.wav,hi\n", "no file_name; columns: name, text"),
        ("file_name,text\none.wav,hi,there\n", "line 2: more cells than the header has columns"),
        ('file_name,text\none.wav,"hi\n', "not readable as CSV"),
        ("file_name,text,language\none.wav,hi,klingon\n", "'one.wav': unknown language 'klingon'"),
        ("file_name,text\none.wav,hi\n", "language: missing; give a code such as en, or language_column"),
    ],
)
def test_a_faulty_table_says_what_and_where(tmp_path: Path, table: str, message: str) -> None:
    speak(tmp_path / "a/one.wav")
    (tmp_path / "a/metadata.csv").write_text(table)
    with pytest.raises(PreparationError) as caught:
        clips(tmp_path, kind="audiofolder", path="a")
    assert message in str(caught.value)


def test_a_column_that_is_not_there_names_the_nearest(folder: Path) -> None:
    with pytest.raises(PreparationError) as caught:
        clips(folder, kind="audiofolder", path="a", speaker_column="speakr")
    assert "prepare.sources[0].speaker_column: no column 'speakr'; did you mean 'speaker'?" in str(caught.value)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PreparationError, match=r"sources\[0\].path: .*nowhere: no such folder"):
        clips(tmp_path, kind="audiofolder", path="nowhere", language="en")


def test_a_folder_without_audio_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(PreparationError, match="source 's' holds no audio"):
        clips(tmp_path, kind="recordings", path="a", language="en")


def manifest(root: Path, *rows: Any) -> Path:
    (root / "m.jsonl").write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return root


def test_json_lines_with_an_offset_are_cuts(tmp_path: Path) -> None:
    row = {"audio_filepath": "a/long.wav", "duration": 2.5, "text": "hej", "speaker": "s1"}
    manifest(tmp_path, row, row | {"offset": 0.0}, row | {"offset": 10.25, "text": None})
    whole, first, second = clips(tmp_path, kind="jsonl", path="m.jsonl", language="sv")
    assert [clip.item for clip in (whole, first, second)] == ["a/long.wav", "a/long.wav@0.000", "a/long.wav@10.250"]
    assert [clip.cut for clip in (whole, first, second)] == [False, True, True]
    assert (second.offset_s, second.duration_s, second.text, second.speaker) == (10.25, 2.5, None, "s1")
    assert {clip.recording for clip in (whole, first, second)} == {"a/long.wav"}


@pytest.mark.parametrize("value", [-1, "long", float("nan"), True])
def test_a_duration_that_is_no_number_of_seconds_is_misdeclared(tmp_path: Path, value: Any) -> None:
    manifest(tmp_path, {"audio_filepath": "a.wav", "duration": value})
    (clip,) = clips(tmp_path, kind="jsonl", path="m.jsonl", language="en")
    assert reason(clip) == "misdeclared_duration"


def test_json_lines_take_absolute_paths_below_their_audio_root(tmp_path: Path) -> None:
    manifest(tmp_path, {"audio_filepath": str(tmp_path / "audio/1.wav")}, {"audio_filepath": "/elsewhere/2.wav"})
    found = clips(tmp_path, kind="jsonl", path="m.jsonl", language="en", audio_root=str(tmp_path / "audio"))
    assert [clip.item for clip in found] == ["/elsewhere/2.wav", "1.wav"]
    assert reason(found[0]) == "path_outside_source"
    assert found[1].audio == tmp_path / "audio/1.wav"


def test_json_lines_may_name_their_items(tmp_path: Path) -> None:
    manifest(tmp_path, {"audio_filepath": "a.wav", "utt": "x1"})
    assert [c.item for c in clips(tmp_path, kind="jsonl", path="m.jsonl", language="en", id_column="utt")] == ["x1"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ("[1]", "line 2: expected an object"),
        ('{"text": "x"}', "line 2: no audio_fil"),
    ],
)
def test_a_broken_line_says_its_number(tmp_path: Path, line: str, message: str) -> None:
    manifest(tmp_path, {"audio_filepath": "a.wav"}, line)
    with pytest.raises(PreparationError, match=message):
        clips(tmp_path, kind="jsonl", path="m.jsonl", language="en")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dataset, as save_to_disk writes it (with and without splits) and as a folder of Parquet."""
    import datasets

    root = tmp_path_factory.mktemp("datasets")
    paths = [speak(root / f"{number}.wav", seed=number) for number in range(5)]
    rows = {
        "audio": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
        "sentence": [f"number {number}" for number in range(5)],
        "speaker_id": list(range(5)),
        "key": [f"k{number}" for number in range(5)],
    }
    # cast, as encoding an Audio column from Python wants torchcodec; what is stored says Audio, as on the hub
    whole = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(sampling_rate=SAMPLE_RATE))
    whole.save_to_disk(str(root / "one"))
    datasets.DatasetDict({"train": whole, "test": whole.select([0])}).save_to_disk(str(root / "dict"))
    (root / "parquet/data").mkdir(parents=True)
    whole.to_parquet(str(root / "parquet/data/train-00000-of-00001.parquet"))
    return root


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("path", ["one", "dict", "parquet"])
def test_a_dataset_gives_its_rows_undecoded(saved: Path, path: str, streaming: bool) -> None:
    found = clips(saved, kind="dataset", path=path, text_column="sentence", language="en", streaming=streaming)
    assert [clip.item for clip in found] == [f"{number:08d}" for number in range(5)]
    assert [clip.text for clip in found] == [f"number {number}" for number in range(5)]
    assert [clip.speaker for clip in found] == list("01234")
    assert found[3].audio == (saved / "3.wav").read_bytes()
    assert len({clip.recording for clip in found}) == 5


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_is_sampled_by_id(saved: Path, streaming: bool) -> None:
    given = {"kind": "dataset", "path": "one", "text_column": "sentence", "language": "en", "id_column": "key"}
    found = clips(saved, **given, streaming=streaming, take={"share": 0.5})
    assert [c.item for c in found] == [c.item for c in clips(saved, **given, take={"share": 0.5})]
    assert 0 < len(found) < 5
    assert len(clips(saved, **given, streaming=streaming, take={"count": 2})) == 2


def test_another_split_is_named(saved: Path) -> None:
    given = {"kind": "dataset", "path": "dict", "text_column": "sentence", "language": "en"}
    assert len(clips(saved, **given, dataset_split="test")) == 1
    with pytest.raises(PreparationError, match=r"dataset_split: unknown 'tset'; did you mean 'test'\?"):
        clips(saved, **given, dataset_split="tset")
    with pytest.raises(PreparationError, match="is one split on its own"):
        clips(saved, **given | {"path": "one"}, dataset_split="test")


def test_a_dataset_without_the_column_names_the_nearest(saved: Path) -> None:
    with pytest.raises(PreparationError, match=r"audio_column: no column 'speech'; .*Have: audio, key, sentence"):
        clips(saved, kind="dataset", path="one", language="en", audio_column="speech")


def test_a_dataset_that_cannot_be_opened_says_so(saved: Path) -> None:
    with pytest.raises(PreparationError, match=r"prepare.sources\[0\]: cannot open 'nobody/nothing', split 'train'"):
        clips(saved, kind="dataset", path="nobody/nothing", language="en")
    with pytest.raises(PreparationError, match="no such folder"):
        clips(saved, kind="dataset", path="./nothing", language="en")
