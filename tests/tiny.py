"""A tiny random Whisper with a real tokenizer, made on the fly, for tests that need a model but not a good one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizerFast,
)

LANGUAGES = ("en", "zh", "ar")
WINDOW_S = 2


def tokenizer() -> Any:
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    engine.train_from_iterator(["the cat sat on the mat and said nothing at all"] * 4, trainer)
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{name}|>" for name in LANGUAGES)]
    special += [
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]
    made = WhisperTokenizerFast(tokenizer_object=engine, unk_token="<|endoftext|>", bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")  # fmt: skip  # noqa: E501
    made.add_special_tokens({"additional_special_tokens": special})
    made.add_tokens([f"<|{i * 0.02:.2f}|>" for i in range(WINDOW_S * 50 + 1)])
    return made


def whisper(folder: Path, seed: int = 0, encoder_layers: int = 2, decoder_layers: int = 3) -> Path:
    """Writes a model folder that loads like any Whisper: 2 s window, 3 languages."""
    tok = tokenizer()
    ids = tok.convert_tokens_to_ids
    config = WhisperConfig(
        vocab_size=len(tok), d_model=32, encoder_layers=encoder_layers, decoder_layers=decoder_layers,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_source_positions=WINDOW_S * 50, max_target_positions=64, num_mel_bins=80, init_std=0.3,
        pad_token_id=ids("<|endoftext|>"), bos_token_id=ids("<|endoftext|>"), eos_token_id=ids("<|endoftext|>"),
        decoder_start_token_id=ids("<|startoftranscript|>"), suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ids("<|startoftranscript|>"), eos_token_id=ids("<|endoftext|>"),
        pad_token_id=ids("<|endoftext|>"), bos_token_id=ids("<|endoftext|>"), max_length=64, is_multilingual=True,
        lang_to_id={f"<|{name}|>": ids(f"<|{name}|>") for name in LANGUAGES},
        task_to_id={"translate": ids("<|translate|>"), "transcribe": ids("<|transcribe|>")},
        no_timestamps_token_id=ids("<|notimestamps|>"), max_initial_timestamp_index=50,
        prev_sot_token_id=ids("<|startofprev|>"), return_timestamps=False,
    )  # fmt: skip
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_S)
    WhisperProcessor(extractor, tok).save_pretrained(folder)
    return folder
