"""What CTC models share (wav2vec2, HuBERT, Wav2Vec2-Conformer): text to units and back, frames, a padding-blind pass.

Graves et al. 2006: a model that gives, for each frame of the audio, a distribution over units and the blank.
"""

from __future__ import annotations

import contextlib
import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillsmall.audio import SAMPLE_RATE
from stillsmall.compute import ModelError
from stillsmall.text import TATWEEL, composed

KINDS = ("wav2vec2", "hubert", "wav2vec2-conformer")  # `model_type` of their configs
WINDOW_S = 30.0  # seconds heard at once, at most: memory grows with the square of it
APOSTROPHES = "\u2019\u2018\u02bc\u00b4`"
SPOKEN = "%&@#*+/§"  # punctuation by Unicode's count, but it is read out
MARKS = (range(10, 36), range(200, 241))  # canonical classes: Hebrew and Arabic points, accents; no Indic vowels, tones
CATEGORIES = {"N": "digits", "L": "letters", "M": "marks", "S": "symbols", "P": "symbols"}


@dataclass(frozen=True)
class Units:
    """The units of a CTC model: mostly characters. " " is the one between words, where there is one."""

    ids: Mapping[str, int]
    blank: int
    lower: bool  # it knows capitals alone, which say nothing: text is written without them

    @classmethod
    def of(cls, tokenizer: Any, model_config: Any, path: str) -> Units:
        """Of a tokenizer and the config of its model. ModelError under `path` where the two do not belong together."""
        if hasattr(tokenizer, "phonemize"):
            raise ModelError(f"{path}.model: its units are phonemes, and a label's text is characters")
        delimiter = tokenizer.word_delimiter_token
        special = {*tokenizer.all_special_tokens} - {delimiter}
        ids = {t: i for t, i in tokenizer.get_vocab().items() if t not in special}
        ids = {" " if token == delimiter else token: number for token, number in ids.items()}
        blank, highest = model_config.pad_token_id, max(ids.values(), default=-1)
        if not 0 <= highest < model_config.vocab_size or tokenizer.pad_token_id != blank:
            raise ModelError(
                f"{path}.model: the tokenizer has {len(ids)} units with ids up to {highest} and "
                f"the blank {tokenizer.pad_token_id}; the model has {model_config.vocab_size} outputs and the blank "
                f"{blank}; they do not belong together: copy in the tokenizer that the model was trained with"
            )
        cased = {kind for unit in ids for kind, it_is in (("u", unit.isupper()), ("l", unit.islower())) if it_is}
        return cls(ids, blank, lower=cased == {"u"})

    def text(self, ids: Sequence[int]) -> str:
        """The text of units, without the blanks and repeats of frames."""
        named = {number: unit for unit, number in self.ids.items()}
        whole = " ".join("".join(named.get(number, "") for number in ids).split())
        return whole.lower() if self.lower else whole

    def spell(self, text: str) -> tuple[list[int], str | None]:
        """(the units of a text, None), or ([], what kind of character the vocabulary lacks).

        Case follows the vocabulary; accents and points that it lacks are left out, compatibility forms are taken
        apart, punctuation that nobody speaks is a space. Digits and symbols that it lacks are not guessed.
        """
        letters, spelled = {c for unit in self.ids for c in unit}, ""
        for character in composed(text):
            known = self._known(character, letters)
            if known is None:
                return [], CATEGORIES.get(unicodedata.category(character)[0], "other characters")
            spelled += known
        whole = (" " if " " in self.ids else "").join(spelled.split())
        return self._longest(whole)

    def _known(self, character: str, letters: set[str]) -> str | None:
        """The character as the vocabulary has it; None where it has to be, and is not, there."""
        if character in APOSTROPHES:
            character = "'"
        plain = unicodedata.normalize("NFKD", character)
        bare = "".join(c for c in plain if not any(unicodedata.combining(c) in marks for marks in MARKS))
        for form in (character, character.upper(), character.lower(), plain, bare, bare.upper(), bare.lower()):
            if form and all(c in letters for c in form):
                return form
        kind = unicodedata.category(character)
        if not bare or kind == "Cf" or character in ("'", TATWEEL):
            return ""
        return " " if character.isspace() or (kind[0] in "PC" and character not in SPOKEN) else None

    def _longest(self, text: str) -> tuple[list[int], str | None]:
        """Longest units first: some vocabularies have digraphs."""
        longest, found, at = max(map(len, self.ids)), list[int](), 0
        while at < len(text):
            size = next((n for n in range(longest, 0, -1) if text[at : at + n] in self.ids), 0)
            if not size:
                return [], CATEGORIES.get(unicodedata.category(text[at])[0], "other characters")
            found.append(self.ids[text[at : at + size]])
            at += size
        return found, None


def needed(ids: Sequence[int]) -> int:
    """Frames that an alignment of the units takes at least: one each, and a blank between two that are the same."""
    return len(ids) + sum(a == b for a, b in itertools.pairwise(ids))


def frames(config: Any, samples: int) -> int:
    """Frames that the convolutions make of so many samples: the models' own formula."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return max(0, samples)


def samples(config: Any, count: int) -> int:
    """The fewest samples that give `count` frames."""
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
        count = (count - 1) * stride + kernel
    return count


def load(source: str, revision: str | None, dtype: torch.dtype, path: str) -> Any:
    """The model in evaluation mode, without gradients. ModelError for what this library does not run."""
    from transformers import AutoModelForCTC

    where = {"revision": revision} if revision and not Path(source).is_dir() else {}
    model: Any = AutoModelForCTC.from_pretrained(source, dtype=dtype, **where)
    if getattr(model.config, "add_adapter", False):
        raise ModelError(f"{path}.model: {source} has layers after its encoder (add_adapter): not supported")
    return model.requires_grad_(False).eval()


def processor(source: str, revision: str | None) -> Any:
    """The tokenizer and the feature extractor, as `Wav2Vec2Processor`."""
    from transformers import Wav2Vec2Processor

    where = {"revision": revision} if revision and not Path(source).is_dir() else {}
    return Wav2Vec2Processor.from_pretrained(source, **where)


def waveforms(extractor: Any, clips: Sequence[np.ndarray]) -> Tensor:
    """(B, samples) float32: each clip normalised by itself, as the model wants it, then zeros to the longest."""
    made = extractor(
        list(clips), sampling_rate=SAMPLE_RATE, padding=True, return_attention_mask=True, return_tensors="pt"
    )
    values: Tensor = made.input_values.float()
    return values


def forward(
    model: Any, values: Tensor, lengths: Sequence[int], hidden: bool = False
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """Logits (B, F, V) and hidden states, one (B, F, D) per layer, embedding first. `lengths` are in samples.

    A clip's frames are the same whatever it is padded to, also for models that take no mask themselves (whose group
    normalisation runs over time: their convolutions hear each clip alone) and for Conformers (whose convolutions would
    hear the padding). Frames past a clip's end hold nothing of meaning.
    """
    base = getattr(model, model.base_model_prefix)
    heard = _local(base.feature_extractor, values, lengths, model.config.feat_extract_norm == "group")
    projected = base.feature_projection(heard)
    projected = projected[0] if isinstance(projected, tuple) else projected
    counts = torch.tensor([max(1, frames(model.config, n)) for n in lengths], device=values.device)
    mask = torch.arange(projected.shape[1], device=values.device)[None] < counts[:, None]
    with _hooks(base.encoder.layers, mask, hidden) as states:
        last = base.encoder(projected, attention_mask=mask)[0]
    return model.lm_head(model.dropout(last)), tuple(states) if hidden else None


def _local(convolutions: Any, values: Tensor, lengths: Sequence[int], alone: bool) -> Tensor:
    """(B, F, features) of the convolutions."""
    if not alone or len(set(lengths)) == 1:
        made: Tensor = convolutions(values[:, : max(lengths)]).transpose(1, 2)
        return made
    each = [convolutions(values[i : i + 1, :n])[0].transpose(0, 1) for i, n in enumerate(lengths)]
    return torch.nn.utils.rnn.pad_sequence(each, batch_first=True)


@contextlib.contextmanager
def _hooks(layers: Any, mask: Tensor, hidden: bool) -> Iterator[list[Tensor]]:
    """While it lasts, layers give their states to the list, and a Conformer's convolutions hear zeros for padding."""
    states: list[Tensor] = []
    handles = []
    for layer in layers:
        if hasattr(layer, "conv_module"):
            handles += _deaf_to_padding(layer, mask)
        if hidden:
            handles.append(
                layer.register_forward_hook(lambda *a: states.append(a[2][0] if isinstance(a[2], tuple) else a[2]))
            )
    if hidden:
        handles.append(layers[0].register_forward_pre_hook(lambda _, given: states.append(given[0])))
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def _deaf_to_padding(layer: Any, mask: Tensor) -> list[Any]:
    """The hook on a Conformer layer's convolution; none to remove where backward will compute the layer once more."""
    convolution = layer.conv_module.depthwise_conv
    if (last := getattr(convolution, "padding_hook", None)) is not None:
        last.remove()
    handle = convolution.register_forward_pre_hook(lambda _, given: (given[0] * mask[:, None],))
    again = layer.training and torch.is_grad_enabled() and getattr(layer, "gradient_checkpointing", False)
    convolution.padding_hook = handle if again else None
    return [] if again else [handle]
