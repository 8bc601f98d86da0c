"""A small tokenizer in Whisper's form: byte-level BPE over the lab's sentences, then Whisper's special tokens."""

from __future__ import annotations

import json
import random
from pathlib import Path

from shapes import MAX_TARGET, MERGES, POSITIONS, SEED
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import WhisperTokenizer

from stillsmall.speech_lab import sentences

LANGUAGES = ("en", "zh", "ar", "hi", "ta", "de", "es", "fr", "ja", "ko", "pt", "ru")
# generate() finds <|nospeech|> as the token before <|notimestamps|>, and the timestamps as those after it.
TASKS = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
END = "<|endoftext|>"
SENTENCES = {"en": 30_000, "zh-en": 12_000}


def text_of_the_lab() -> list[str]:
    """Sentences of the teacher's pool."""
    chance = random.Random(SEED)
    return [sentences.sentence(name, "teacher", chance) for name, count in SENTENCES.items() for _ in range(count)]


def train() -> Tokenizer:
    """Bytes, merges, special tokens, timestamps: ids in that order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + MERGES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text_of_the_lab(), trainer)
    tokenizer.add_special_tokens([_token(content, special=True) for content in special_tokens()])
    stamps = [f"<|{number * 0.02:.2f}|>" for number in range(POSITIONS + 1)]
    tokenizer.add_tokens([_token(stamp, special=False) for stamp in stamps])
    return tokenizer


def _token(content: str, special: bool) -> AddedToken:
    return AddedToken(content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=special)


def special_tokens() -> list[str]:
    """Whisper's special tokens, in order."""
    return [END, "<|startoftranscript|>", *(f"<|{language}|>" for language in LANGUAGES), *TASKS]


def build(folder: Path) -> WhisperTokenizer:
    """Train, write `folder`, and load it as anybody would."""
    folder.mkdir(parents=True, exist_ok=True)
    train().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "WhisperTokenizer", "add_prefix_space": False, "clean_up_tokenization_spaces": False}
    config |= dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END)
    config |= {"model_max_length": MAX_TARGET, "extra_special_tokens": special_tokens()[1:]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return WhisperTokenizer.from_pretrained(folder)
