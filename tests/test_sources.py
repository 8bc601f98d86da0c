"""A source's section says where it is wrong and what is allowed; samples and batches stay when files are added."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heaps import clips
from stillsmall.config import ConfigError
from stillsmall.sources import load
from stillsmall.sources.base import Clip, PreparationError, batched


def error(**section: Any) -> str:
    with pytest.raises(ValueError) as caught:
        load([{"name": "s", "kind": "recordings", "split": "train", "path": "a", "language": "en"} | section])
    return str(caught.value)


def test_a_misspelt_key_names_the_nearest() -> None:
    message = error(splt="train")
    assert "prepare.sources[0].splt: unknown 'splt'; did you mean 'split'?" in message


def test_a_misspelt_kind_names_the_nearest() -> None:
    message = error(kind="audiofoldr")
    assert message.startswith("prepare.sources[0].kind: unknown 'audiofoldr'; did you mean 'audiofolder'? Have: ")


def test_an_unknown_split_lists_the_splits() -> None:
    message = error(split="validation")
    assert message == "prepare.sources[0].split: got 'validation'; input should be 'train', 'dev' or 'test'"


def test_an_unknown_language_is_an_error() -> None:
    assert "prepare.sources[0].language: got 'xx'" in error(language="xx")
    assert "unknown language 'en-US'; did you mean 'en'?" in error(language="en-US")


def test_every_faulty_source_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load([{"name": "a", "kind": "nope"}, {"name": "b"}, {"name": "c", "kind": "recordings", "split": "train"}])
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "prepare.sources[0].kind", "prepare.sources[1].kind", "prepare.sources[2].language", "prepare.sources[2].path",
    ]  # fmt: skip


def test_names_are_unique_and_plain() -> None:
    entry = {"name": "a", "kind": "recordings", "split": "train", "path": "a", "language": "en"}
    with pytest.raises(
        ConfigError, match=r"prepare.sources\[1\].name: 'a' is already the name of prepare.sources\[0\]"
    ):
        load([entry, entry])
    assert "prepare.sources[0].name: got '../a'" in error(name="../a")


@pytest.mark.parametrize("take", [{}, {"count": 1, "share": 0.5}])
def test_take_wants_a_count_or_a_share(take: dict[str, Any]) -> None:
    assert "prepare.sources[0].take" in error(take=take)
    assert "either count or share" in error(take=take)


def folder_of(root: Path, names: range) -> Path:
    for number in names:
        (root / "a").mkdir(exist_ok=True)
        (root / "a" / f"{number:03d}.wav").write_bytes(b"not decoded here")
    return root


def taken(root: Path, **take: Any) -> list[str]:
    return [clip.item for clip in clips(root, kind="recordings", path="a", language="en", take=take)]


def test_a_share_is_a_sample_that_grows_with_the_share(tmp_path: Path) -> None:
    folder_of(tmp_path, range(200))
    fifth, half = taken(tmp_path, share=0.2), taken(tmp_path, share=0.5)
    assert 25 <= len(fifth) <= 55
    assert set(fifth) < set(half)
    assert taken(tmp_path, share=0.2) == fifth
    assert taken(tmp_path, share=0.2, seed=1) != fifth


def test_a_sample_stays_when_files_are_added(tmp_path: Path) -> None:
    before = taken(folder_of(tmp_path, range(100)), share=0.3)
    after = taken(folder_of(tmp_path, range(200)), share=0.3)
    assert [name for name in after if name < "100"] == before


def test_a_count_is_exact(tmp_path: Path) -> None:
    folder_of(tmp_path, range(100))
    assert len(taken(tmp_path, count=7)) == 7
    assert set(taken(tmp_path, count=7)) < set(taken(tmp_path, count=30))
    assert len(taken(tmp_path, count=1000)) == 100


def test_new_files_change_few_batches() -> None:
    def batches(names: list[str]) -> set[tuple[str, ...]]:
        made = [Clip(item=name, audio=b"x", recording=name, language="en", domain="d") for name in sorted(names)]
        return {tuple(clip.item for clip in batch.clips()) for batch in batched(made, 32)}

    before = [f"{number:06d}" for number in range(0, 20_000, 10)]
    old, new = batches(before), batches([*before, "005005"])
    assert all(len(batch) <= 32 for batch in new)
    assert len(old - new) <= 0.1 * len(old)


def test_long_recordings_are_batches_of_their_own() -> None:
    made = [Clip(item=str(n), audio=bytes(40 << 20), recording="r", language="en", domain="d") for n in range(3)]
    assert [len(batch) for batch in batched(made, 32)] == [1, 1, 1]


def test_the_lab_speaks_the_same_clips_in_any_batches() -> None:
    pytest.importorskip("stillsmall.speech_lab.corpus")
    section = {"kind": "lab", "seed": 3, "domains": {"en-us": 3, "trouble": 2}}
    one, other = clips(Path(), **section), clips(Path(), batch=2, **section)
    assert [clip.item for clip in one] == [
        "en-us/00000",
        "en-us/00001",
        "en-us/00002",
        "trouble/00000",
        "trouble/00001",
    ]
    assert all(np.array_equal(a.audio, b.audio) and a.text == b.text for a, b in zip(one, other, strict=True))
    assert all(clip.may_be_silent for clip in one)


def test_an_unknown_domain_names_the_nearest() -> None:
    pytest.importorskip("stillsmall.speech_lab.corpus")
    with pytest.raises(PreparationError, match=r"sources\[0\].domains: unknown 'en-uss'; did you mean 'en-us'\?"):
        clips(Path(), kind="lab", seed=3, domains={"en-uss": 3})


@pytest.mark.shared
@pytest.mark.parametrize(
    ("path", "count", "transcribed"),
    [("l2en/train", 940, 940), ("l2en/test", 600, 600), ("long", 9, 9), ("digits", 3000, 3000), ("lj", 8, 8),
     ("arabic", 480, 480), ("misc", 27, 27)],
)  # fmt: skip
def test_real_folders_are_read(shared: Path, path: str, count: int, transcribed: int) -> None:
    found = clips(shared / "data", kind="audiofolder", path=path)
    assert len(found) == count
    assert sum(bool(clip.text) for clip in found) == transcribed
    assert all(isinstance(clip.audio, Path) and clip.audio.is_file() for clip in found)
