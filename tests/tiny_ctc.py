"""Tiny random CTC models with a real character tokenizer and feature extractor, for tests that need no good one."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from transformers import (
    HubertConfig,
    HubertForCTC,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerForCTC,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

MODELS: dict[str, tuple[Any, Any]] = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2ForCTC),
    "hubert": (HubertConfig, HubertForCTC),
    "wav2vec2-conformer": (Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC),
}
KINDS = sorted(MODELS)
UPPER = ["<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_uppercase, "'"]


def tokenizer(folder: Path, vocabulary: list[str] = UPPER) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))


def ctc(
    folder: Path,
    kind: str = "wav2vec2",
    norm: str = "layer",
    seed: int = 0,
    vocabulary: list[str] = UPPER,
    **shape: Any,
) -> Path:
    """Writes a model folder that loads like any CTC model: 3 layers of 32, a frame every 20 ms (320 samples)."""
    tok = tokenizer(folder, vocabulary)
    made, model_of = MODELS[kind]
    config = made(**{
        "vocab_size": len(vocabulary), "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
        "intermediate_size": 64, "conv_dim": (16, 32, 32), "conv_kernel": (10, 8, 8), "conv_stride": (8, 8, 5),
        "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": norm,
        "pad_token_id": tok.pad_token_id, "bos_token_id": 1, "eos_token_id": 2, "layerdrop": 0.1,
        "mask_time_prob": 0.05, "mask_time_length": 2, "feat_proj_dropout": 0.1, "initializer_range": 0.2, **shape,
    })  # fmt: skip
    torch.manual_seed(seed)
    model_of(config).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer")
    Wav2Vec2Processor(extractor, tok).save_pretrained(folder)
    return folder
