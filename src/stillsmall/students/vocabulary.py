"""A student with only the tokens that its corpus needs: fewer rows to store, a smaller softmax, the same texts.

Kept are every special and timestamp token, the 256 bytes, each token that occurs in the kept labels, and all that such
a token is merged from. So any text can still be written, through shorter tokens or bytes, and a text whose tokens are
all kept is cut exactly as before: at every step of byte-pair encoding the merge that the whole tokenizer would take is
there, and no merge is there that it does not have.
"""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stillsmall.students.layers import like
from stillsmall.whisper_tokens import TokenError, WhisperTokens

Label = tuple[str, str, Sequence[str]]  # language, text, the texts of its segments
FILE = "kept_tokens.json"
MULTIPLE = 8  # rows of the output matrix: what matrix units take at full speed
ONE = (  # fields of config and generation config with one id (or, for the end of text, several)
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "no_timestamps_token_id"),
    *("prev_sot_token_id", "forced_bos_token_id", "forced_eos_token_id"),
)
MANY = ("suppress_tokens", "begin_suppress_tokens")
TABLES = ("lang_to_id", "task_to_id")


@dataclass(frozen=True)
class Trimmed:
    """Which of the teacher's tokens a student has. Its own ids are their places in `kept`."""

    kept: tuple[int, ...]  # the teacher's ids, ascending
    teacher_size: int  # of the teacher's vocabulary

    def ids(self, old: Tensor) -> Tensor:
        """The student's ids of the teacher's, same shape; negative ones (ignored labels) stay.

        Raises TokenError for a token that was not kept.
        """
        places = torch.full((self.teacher_size,), -1, device=old.device)
        places[self._kept(old)] = torch.arange(len(self.kept), device=old.device)
        new = torch.where(old < 0, old, places[old.clamp(min=0)])
        if bool(((new < 0) & (old >= 0)).any()):
            lacking = sorted({int(token) for token in old[(new < 0) & (old >= 0)]})
            raise TokenError(f"the student's vocabulary has none of the teacher's tokens {lacking[:10]}")
        return new

    def restored(self, new: Tensor) -> Tensor:
        """The teacher's ids of the student's, same shape; negative ones stay: what the teacher's decoder is given."""
        return torch.where(new < 0, new, self._kept(new)[new.clamp(min=0)])

    def project(self, logits: Tensor) -> Tensor:
        """(..., teacher's V) logits to (..., student's V): the kept columns, in the student's order.

        Their softmax is the teacher's distribution given that the token is a kept one: p(v) / (1 - lost). Nothing else
        of the teacher's view of the dropped tokens reaches the student.
        """
        return logits.index_select(-1, self._kept(logits))

    def lost(self, logits: Tensor) -> Tensor:
        """(...) the probability that the teacher gives to tokens that the student does not have."""
        whole = logits.float()
        return -torch.expm1(self.project(whole).logsumexp(-1) - whole.logsumexp(-1))

    def write(self, folder: Path) -> None:
        text = json.dumps({"teacher_size": self.teacher_size, "kept": list(self.kept)})
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Trimmed | None:
        """What was saved with a student; None for a student with its teacher's vocabulary."""
        if not (folder / FILE).is_file():
            return None
        saved = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(tuple(saved["kept"]), saved["teacher_size"])

    def _kept(self, near: Tensor) -> Tensor:
        return self._tensor.to(near.device)

    @functools.cached_property
    def _tensor(self) -> Tensor:
        return torch.tensor(self.kept)


def counted(tokens: WhisperTokens, labels: Iterable[Label]) -> Counter[int]:
    """How often each token occurs in labels; in one label the larger of its counts in the text and in the segments.

    (A text is trained on in one piece or as timed segments, and is cut into tokens accordingly.)
    """
    counts: Counter[int] = Counter()
    for language, text, segments in labels:
        pieces = Counter(token for segment in segments for token in tokens.plain(segment, language))
        counts += pieces | Counter(tokens.plain(text, language))
    return counts


def trimmed(student: Any, processor: Any, counts: Mapping[int, int], min_count: int) -> tuple[Any, Any, Trimmed]:
    """(student, processor, how ids moved), new ones, with the tokens that `counts` asks for.

    Frozen parts stay frozen. `counts`: by the teacher's ids, how often each occurs in the kept labels.
    """
    engine = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    vocabulary: dict[str, int] = engine["model"]["vocab"]
    size = int(student.config.vocab_size)
    named = {i for holder in (student.config, student.generation_config) for i in _named(holder) if i < size}
    fixed = {token["id"] for token in engine["added_tokens"]} | named
    words = needed(vocabulary, _merges(engine), counts, min_count, fixed, size)
    kept = Trimmed(tuple(sorted({vocabulary[word] for word in words} | fixed)), size)
    places = {old: new for new, old in enumerate(kept.kept)}
    made = _with_rows(student, kept, places)
    return made, _with_tokens(processor, engine, words, places), kept


def needed(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    counts: Mapping[int, int],
    min_count: int,
    fixed: set[int],
    size: int,
) -> set[str]:
    """The tokens of a byte-pair vocabulary that are kept, filled up to a multiple of MULTIPLE by the first merges.

    A token that occurs less often than `min_count` passes its count on to the two that it is merged from.
    """
    made_of: dict[str, list[tuple[str, str]]] = {}
    for left, right in merges:
        made_of.setdefault(left + right, []).append((left, right))
    left_over = Counter({word: counts.get(number, 0) for word, number in vocabulary.items()})
    kept = {word for word, number in vocabulary.items() if len(word) == 1 or number in fixed}
    for word in sorted(vocabulary, key=len, reverse=True):  # what a token is merged from is shorter than it
        if word not in kept and left_over[word] >= min_count and word in made_of:
            kept.add(word)
        if word in kept:  # of all ways to make it: whichever the encoder takes is there
            kept |= {part for pair in made_of.get(word, []) for part in pair}
        elif word in made_of:
            for part in made_of[word][0]:
                left_over[part] += left_over[word]
    special = len(fixed - set(vocabulary.values()))
    for left, right in merges:
        if (len(kept) + special) % MULTIPLE == 0:
            break
        if {left, right} <= kept:
            kept.add(left + right)
    return kept


def _merges(engine: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in engine["model"]["merges"])
    return [(left, right) for left, right in pairs]


def _with_rows(student: Any, kept: Trimmed, places: Mapping[int, int]) -> Any:
    """The student with the kept rows of its embedding and output matrix, and every id in both configs moved."""
    shape, state = copy.deepcopy(student.config), dict(student.state_dict())
    rows = torch.tensor(kept.kept, device=next(student.parameters()).device)
    for name in ("model.decoder.embed_tokens.weight", "proj_out.weight"):
        state[name] = state[name][rows]
    shape.vocab_size = len(kept.kept)
    _move(shape, places)
    made = like(student, shape, state)
    _move(made.generation_config, places)
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return made


def _with_tokens(processor: Any, engine: dict[str, Any], words: set[str], places: Mapping[int, int]) -> Any:
    """The processor with a tokenizer of only these words: written, changed and read back by its own classes."""
    model = engine["model"]
    merges = [(left, right) for left, right in _merges(engine) if {left, right, left + right} <= words]
    vocabulary = {word: places[number] for word, number in model["vocab"].items() if word in words}
    engine = {**engine, "model": {**model, "vocab": vocabulary, "merges": [list(pair) for pair in merges]}}
    engine["added_tokens"] = [{**token, "id": places[token["id"]]} for token in engine["added_tokens"]]
    for special in ((engine.get("post_processor") or {}).get("special_tokens") or {}).values():
        special["ids"] = [places[number] for number in special["ids"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processor.save_pretrained(folder)
        for old in ("vocab.json", "merges.txt", "added_tokens.json"):  # older layouts of the same
            (folder / old).unlink(missing_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(engine, ensure_ascii=False), encoding="utf-8")
        return type(processor).from_pretrained(folder, local_files_only=True)


def _named(holder: Any) -> set[int]:
    """The ids that a config's fields name and that must therefore exist."""
    found: set[int] = set()
    for field in ONE:
        value = getattr(holder, field, None)
        found |= set(value if isinstance(value, list) else [] if value is None else [value])
    for field in TABLES:
        found |= set((getattr(holder, field, None) or {}).values())
    return found | {token for _, token in getattr(holder, "forced_decoder_ids", None) or [] if token is not None}


def _move(holder: Any, places: Mapping[int, int]) -> None:
    """Every id in a config's fields, in the new numbering; a suppressed token that is gone needs no suppressing."""

    def several(ids: Iterable[int]) -> list[int]:
        return [places[token] for token in ids if token in places]

    for field in (*ONE, *MANY, *TABLES):
        value = getattr(holder, field, None)
        if isinstance(value, dict):
            setattr(holder, field, {name: places[token] for name, token in value.items()})
        elif isinstance(value, list):
            setattr(holder, field, several(value) or (None if value else []))
        elif value is not None:
            setattr(holder, field, places.get(value))
    if forced := getattr(holder, "forced_decoder_ids", None):
        holder.forced_decoder_ids = [[at, token if token is None else places[token]] for at, token in forced]
    if banned := getattr(holder, "bad_words_ids", None):  # a sequence with a token that is gone cannot come up
        whole = [several(ids) for ids in banned if all(token in places for token in ids)]
        holder.bad_words_ids = whole or None
