"""Train one demo model from nothing: cross-entropy with teacher forcing, plus CTC on the encoder.

    python train.py teacher

Reads the cached windows; writes `checkpoint.safetensors` (weights, optimiser moments, step) and `log.jsonl` under the
work folder. A killed run continues from its last checkpoint and sees the same batches as an unbroken one.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import corpus
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from shapes import FRAMES, HELD_OUT, MAX_TARGET, MELS, MERGES, POSITIONS, SEED, SHAPES, WORK, Shape
from torch import nn
from torch.nn import functional
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.models.whisper.modeling_whisper import sinusoids

SAVE_EVERY, LOOK_EVERY, PRINT_EVERY = 100, 200, 20  # steps
WEIGHT_DECAY, CLIP, BETAS = 0.01, 1.0, (0.9, 0.98)
TIME_MASKS, LONGEST_MASK = 1, 20  # SpecAugment: frames
MEL_MASKS, WIDEST_MASK = 1, 10  # bins
POOL = 16  # batches whose windows are sorted by target length
CORRUPTED = 0.12  # share of the text tokens before a position that are other ones: listen, don't remember sentences
TEXT_TOKENS = 256 + MERGES  # their ids come first
MARGIN = 12  # frames after the last sound
PADDED = 0.25  # share of batches that keep the silence up to the window's end, as `generate` will always see it
BLANK = 128  # CTC writes espeak's ASCII phonemes, 0..127: nearer to the sound than spelling, above all than Chinese


def configuration(shape: Shape, tokenizer: WhisperTokenizer) -> WhisperConfig:
    """Whisper's configuration at the demo's size."""
    end, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
    return WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=MELS, d_model=shape.width,
        encoder_layers=shape.encoder_layers, encoder_attention_heads=shape.heads, encoder_ffn_dim=4 * shape.width,
        decoder_layers=shape.decoder_layers, decoder_attention_heads=shape.heads, decoder_ffn_dim=4 * shape.width,
        max_source_positions=POSITIONS, max_target_positions=MAX_TARGET, dropout=0.0,
        bos_token_id=end, eos_token_id=end, pad_token_id=end, decoder_start_token_id=start,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip


class Learner(nn.Module):
    """The model and the CTC head that only training needs."""

    def __init__(self, shape: Shape, tokenizer: WhisperTokenizer) -> None:
        super().__init__()
        self.whisper = WhisperForConditionalGeneration(configuration(shape, tokenizer))
        self.ctc = nn.Linear(shape.width, BLANK + 1)
        self.ctc_weight = shape.ctc_weight

    def forward(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """(cross-entropy, CTC), each a mean over the batch."""
        with torch.autocast("cpu", torch.bfloat16):  # weights, sums and losses stay in float32
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.ctc_weight > 0):
                states = self.encode(batch["features"])
            decoded = self.whisper.model.decoder(
                input_ids=batch["inputs"], encoder_hidden_states=states, use_cache=False
            ).last_hidden_state
            asked = batch["labels"] != corpus.IGNORED
            logits = self.whisper.proj_out(decoded[asked])
        entropy = functional.cross_entropy(logits.float(), batch["labels"][asked])
        if not self.ctc_weight:  # a frozen encoder has nothing to learn from it
            return entropy, entropy.new_zeros(())
        return entropy, self.ctc_loss(states.float(), batch)

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Whisper's encoder, for windows of any length: batches of short clips are not padded to the whole window."""
        encoder = self.whisper.model.encoder
        states = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(features)))).transpose(1, 2)
        states = states + encoder.embed_positions.weight[: states.shape[1]]
        for layer in encoder.layers:
            states = layer(states, None)
        return encoder.layer_norm(states)

    def ctc_loss(self, states: torch.Tensor, batch: dict) -> torch.Tensor:
        """Mean over the windows in which something is said: the others' loss has no length to be divided by."""
        said = batch["spoken_lengths"] > 0
        if not said.any():
            return states.new_zeros(())
        heard = self.ctc(states[said]).log_softmax(-1).transpose(0, 1)
        lengths = torch.full((heard.shape[1],), heard.shape[0])
        spoken_lengths = batch["spoken_lengths"][said]
        return functional.ctc_loss(heard, batch["spoken"], lengths, spoken_lengths, BLANK, zero_infinity=True)


def initialise(model: WhisperForConditionalGeneration, features: torch.Tensor) -> None:
    """Weights by fan-in. Whisper's own 0.02 suits a width of 1,000: at this one, the sinusoids of the positions are
    20 times louder than the speech that the convolutions let through, and attention had not locked in at step 400."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    layers = [*model.model.encoder.layers, *model.model.decoder.layers]
    for layer in layers:  # what a layer adds to the stream, small at first
        for name, module in layer.named_modules():
            if name.endswith(("out_proj", "fc2")):
                module.weight.data.mul_((2 * len(layers)) ** -0.5)
    nn.init.normal_(model.model.decoder.embed_tokens.weight, std=model.config.d_model**-0.5)
    # Timestamps begin as the sinusoids of their times, so that what is learnt of one holds for its neighbours.
    stamps = sinusoids(POSITIONS + 1, model.config.d_model)
    model.model.decoder.embed_tokens.weight.data[-len(stamps) :] = stamps * (2 / model.config.d_model) ** 0.5
    tune_ears(model.model.encoder, features)


@torch.no_grad()
def tune_ears(encoder: nn.Module, features: torch.Tensor) -> None:
    """Scale the convolutions by what they hear: filters that ignore the overall level, outputs that vary over time."""
    for convolution in (encoder.conv1, encoder.conv2):
        convolution.weight -= convolution.weight.mean((1, 2), keepdim=True)
        convolution.weight /= convolution(features).std((0, 2))[:, None, None]
        features = functional.gelu(convolution(features))


class Windows:
    """The cached windows, as batches that depend on (seed, step) alone."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.shards, self.rows, self.frames = corpus.load(folder)
        self.batch, self.easy_steps = shape.batch, shape.easy_steps
        every = range(HELD_OUT, len(self.rows))
        self.numbers = {True: [number for number in every if corpus.is_easy(number)], False: list(every)}
        self.epoch: tuple[bool, int] | None = None
        self.order: list[list[int]] = []

    def at(self, step: int) -> list[int]:
        """Window numbers of a step: one clean English sentence a window at first, everything later."""
        easy = step < self.easy_steps
        epoch, position = divmod(step if easy else step - self.easy_steps, len(self.numbers[easy]) // self.batch)
        if (easy, epoch) != self.epoch:
            self.epoch, self.order = (easy, epoch), self._batches(easy, epoch)
        return self.order[position]

    def _batches(self, easy: bool, epoch: int) -> list[list[int]]:
        chance = random.Random(SEED * 1000 + epoch)
        numbers = chance.sample(self.numbers[easy], len(self.numbers[easy]))
        batches = []
        for first in range(0, len(numbers), self.batch * POOL):
            group = sorted(numbers[first : first + self.batch * POOL], key=lambda n: self.frames[n])
            batches += [group[i : i + self.batch] for i in range(0, len(group), self.batch)]
        batches = [batch for batch in batches if len(batch) == self.batch]
        return chance.sample(batches, len(batches))

    def longest(self, numbers: list[int]) -> int:
        """Frames until the last sound of any of the windows, and a little more."""
        return min(FRAMES, (max(self.frames[number] for number in numbers) + MARGIN) // 2 * 2)

    def collate(
        self, numbers: list[int], mask: np.random.Generator | None, frames: int = FRAMES
    ) -> dict[str, torch.Tensor]:
        """Tensors of a batch; `mask` draws SpecAugment's masks."""
        rows = [self.shards[n // corpus.SHARD][n % corpus.SHARD, :, :frames] for n in numbers]
        features = np.stack(rows).astype(np.float32)
        if mask is not None:
            for one in features:
                augment(one, mask)
        pairs = [self.rows[n]["pair"] for n in numbers]
        spoken = [self.rows[n]["phonemes"].encode() for n in numbers]
        longest = max(len(labels) for _, labels in pairs)
        return {
            "features": torch.from_numpy(features),
            "inputs": torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in pairs]),
            "labels": torch.tensor([labels + [corpus.IGNORED] * (longest - len(labels)) for _, labels in pairs]),
            "spoken": torch.tensor([token for tokens in spoken for token in tokens], dtype=torch.long),
            "spoken_lengths": torch.tensor([len(tokens) for tokens in spoken]),
        }


def augment(mel: np.ndarray, chance: np.random.Generator) -> None:
    """SpecAugment, in place: spans of time and bands of pitch become the window's mean."""
    mean = mel.mean()
    for _ in range(TIME_MASKS):
        width = int(chance.integers(LONGEST_MASK + 1))
        start = int(chance.integers(mel.shape[1] - width))
        mel[:, start : start + width] = mean
    for _ in range(MEL_MASKS):
        width = int(chance.integers(WIDEST_MASK + 1))
        start = int(chance.integers(MELS - width))
        mel[start : start + width] = mean


def corrupt(inputs: torch.Tensor, chance: np.random.Generator) -> torch.Tensor:
    """Decoder inputs (batch, length) in which some text tokens are random ones; the labels stay right."""
    swapped = torch.from_numpy(chance.random(inputs.shape) < CORRUPTED) & (inputs < TEXT_TOKENS)
    return torch.where(swapped, torch.from_numpy(chance.integers(TEXT_TOKENS, size=inputs.shape)), inputs)


class Run:
    """The training of one model."""

    def __init__(self, shape: Shape) -> None:
        torch.manual_seed(SEED)
        self.shape, self.folder, self.step = shape, WORK / shape.name, 0
        self.folder.mkdir(parents=True, exist_ok=True)
        tokenizer = WhisperTokenizer.from_pretrained(WORK / "tokenizer")
        self.learner = Learner(shape, tokenizer)
        self.windows = Windows(WORK / "windows", shape)
        clean = [number for number in range(HELD_OUT, len(self.windows.rows)) if corpus.is_easy(number)][:64]
        initialise(self.learner.whisper, self.windows.collate(clean, None)["features"])
        if shape.ears:
            self.borrow(SHAPES[shape.ears])
        trained = [p for p in self.learner.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=shape.peak_rate, betas=BETAS, weight_decay=WEIGHT_DECAY)
        rise = lambda step: min(1.0, (step + 1) / shape.warm_up)  # noqa: E731
        fall = lambda step: 0.5 * (1 + np.cos(np.pi * min(1.0, step / shape.steps)))  # noqa: E731
        self.rate = lambda step: shape.peak_rate * rise(step) * fall(step)
        self.resume()

    def borrow(self, other: Shape) -> None:
        """Another model's encoder, frozen, its embeddings, and of its decoder's layers the first and the last ones."""
        kept = {0: 0, other.decoder_layers - 1: self.shape.decoder_layers - 1}  # number there -> number here
        with safe_open(WORK / other.name / "checkpoint.safetensors", "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                own = name.removeprefix("weight.")
                if ".decoder.layers." in own:
                    before, _, rest = own.partition(".layers.")
                    number, _, rest = rest.partition(".")
                    if int(number) not in kept:
                        continue
                    own = f"{before}.layers.{kept[int(number)]}.{rest}"
                if own in dict(self.learner.named_parameters()):
                    self.learner.get_parameter(own).data.copy_(file.get_tensor(name))
        self.learner.whisper.model.encoder.requires_grad_(False)

    @property
    def checkpoint(self) -> Path:
        """One file: a rename replaces all of it or nothing."""
        return self.folder / "checkpoint.safetensors"

    def save(self) -> None:
        """Weights, moments and step."""
        weights = self.learner.state_dict().items()
        tensors = {f"weight.{name}": value for name, value in weights if "proj_out" not in name}
        for number, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"moment.{number}.{name}": value for name, value in moments.items()}
        part = self.checkpoint.with_suffix(".part")
        save_file({name: value.clone().contiguous() for name, value in tensors.items()}, part, {"step": str(self.step)})
        os.replace(part, self.checkpoint)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        with safe_open(self.checkpoint, "pt") as file:
            self.step = int(file.metadata()["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        weights = {name.removeprefix("weight."): value for name, value in tensors.items() if name.startswith("weight.")}
        missing = self.learner.load_state_dict(weights, strict=False)
        assert not missing.unexpected_keys, missing
        assert all("proj_out" in name for name in missing.missing_keys), missing
        state = self.optimiser.state_dict()
        state["state"] = {}
        for name, value in tensors.items():
            if name.startswith("moment."):
                _, number, moment = name.split(".")
                state["state"].setdefault(int(number), {})[moment] = value
        self.optimiser.load_state_dict(state)

    def advance(self) -> tuple[float, float]:
        """One optimiser step; dropout and masks are drawn from (seed, step), so a resumed run repeats them."""
        torch.manual_seed(SEED * 1_000_003 + self.step)
        chance = np.random.default_rng((SEED, self.step))
        numbers = self.windows.at(self.step)
        frames = FRAMES if chance.random() < PADDED else self.windows.longest(numbers)
        batch = self.windows.collate(numbers, None if self.step < self.shape.easy_steps else chance, frames)
        batch["inputs"] = corrupt(batch["inputs"], chance)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(self.step)
        self.learner.train()
        entropy, ctc = self.learner(batch)
        self.optimiser.zero_grad(set_to_none=True)
        (entropy + self.learner.ctc_weight * ctc).backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), CLIP)
        self.optimiser.step()
        self.step += 1
        return float(entropy.detach()), float(ctc.detach())

    @torch.no_grad()
    def look(self) -> dict[str, float]:
        """Losses on the held-out windows."""
        self.learner.eval()
        size = self.shape.batch
        batches = [list(range(first, first + size)) for first in range(0, HELD_OUT, size)]
        losses = [self.learner(self.windows.collate(batch, None)) for batch in batches]
        entropy, ctc = (sum(float(value) for value in column) / len(losses) for column in zip(*losses, strict=True))
        return {"held_out_ce": round(entropy, 4), "held_out_ctc": round(ctc, 4)}

    def log(self, **row: object) -> None:
        """One line of the curve."""
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, **row}) + "\n")

    def finish(self) -> None:
        """Train to the last step."""
        began, losses = time.monotonic(), []
        while self.step < self.shape.steps:
            losses.append(self.advance())
            if self.step % PRINT_EVERY == 0:
                seconds = round(time.monotonic() - began, 1)
                entropy, ctc = np.mean(losses, axis=0)
                self.log(ce=round(entropy, 4), ctc=round(ctc, 4), seconds=seconds)
                losses = []
            if self.step % LOOK_EVERY == 0 or self.step == self.shape.steps:
                self.log(**self.look())
            if self.step % SAVE_EVERY == 0 or self.step == self.shape.steps:
                self.save()


if __name__ == "__main__":
    torch.set_num_threads(2)  # bits depend on the thread count
    Run(SHAPES[sys.argv[1]]).finish()
