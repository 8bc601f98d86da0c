"""Write a trained demo model as a folder that `from_pretrained` reads: fp16 weights, Whisper's configs, the tokenizer.

    python export.py teacher

The CTC head is left behind.
"""

from __future__ import annotations

import shutil
import sys

import torch
import train
from corpus import extractor
from safetensors import safe_open
from shapes import HERE, MAX_TARGET, SHAPES, WORK, Shape
from tokenizer import LANGUAGES
from transformers import GenerationConfig, WhisperForConditionalGeneration, WhisperProcessor, WhisperTokenizer

LATEST_FIRST_STAMP = 100  # steps of 20 ms: a window may begin with a pause of 1.5 s; Whisper allows 1 s of its 30
PREFIX = "weight.whisper."  # in a checkpoint


def generation(tokenizer: WhisperTokenizer) -> GenerationConfig:
    """What `generate` needs to know about a multilingual Whisper."""
    number = tokenizer.convert_tokens_to_ids
    end, start = number("<|endoftext|>"), number("<|startoftranscript|>")
    tasks = {name: number(f"<|{name}|>") for name in ("translate", "transcribe")}
    never = [start, *tasks.values(), *number(["<|startoflm|>", "<|startofprev|>", "<|nospeech|>"])]
    return GenerationConfig(
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": number(f"<|{language}|>") for language in LANGUAGES},
        task_to_id=tasks,
        no_timestamps_token_id=number("<|notimestamps|>"),
        prev_sot_token_id=number("<|startofprev|>"),
        max_initial_timestamp_index=LATEST_FIRST_STAMP,
        max_length=MAX_TARGET,
        return_timestamps=False,
        suppress_tokens=never,
        # Whisper also forbids an empty transcript here; the demo models may say that nothing was said.
        begin_suppress_tokens=None,  # Whisper forbids a lone space first; here it is how most sentences begin
    )


def model_of(shape: Shape, tokenizer: WhisperTokenizer) -> WhisperForConditionalGeneration:
    """The trained model in half precision."""
    model = WhisperForConditionalGeneration(train.configuration(shape, tokenizer))
    with safe_open(WORK / shape.name / "checkpoint.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118 - not a dict
        weights = {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
    left = model.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys
    assert all("proj_out" in name for name in left.missing_keys)  # it is the embedding
    model.tie_weights()
    model.config.dropout = 0.0
    model.generation_config = generation(tokenizer)
    return model.to(torch.float16)


def write(shape: Shape) -> None:
    """Replace the model's folder."""
    tokenizer = WhisperTokenizer.from_pretrained(WORK / "tokenizer")
    folder = HERE / shape.name
    shutil.rmtree(folder, ignore_errors=True)
    model_of(shape, tokenizer).save_pretrained(folder)
    WhisperProcessor(extractor(), tokenizer).save_pretrained(folder)
    # transformers 5 writes the features' settings into processor_config.json; older readers look for their own file.
    extractor().save_pretrained(folder)
    print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    write(SHAPES[sys.argv[1]])
