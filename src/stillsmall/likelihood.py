"""How likely a label is as text: a causal language model's mean log-probability a token (2407.01257, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from stillsmall import cache, compute, manifest
from stillsmall.config import Run, Score


class Likelihood:
    """A language model folder under models.root; `revision` is the digest of its files."""

    def __init__(self, config: Score, run: Run, models_root: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        compute.quiet()
        compute.set_threads(run.threads)
        folder, self.revision = locate(config, models_root)
        self.batch_size = config.language_model_batch
        self.device = compute.device(config.device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = model.to(self.device).eval()
        self.positions = getattr(model.config, "max_position_embeddings", None)

    def mean_logprobs(self, texts: Sequence[str]) -> list[float | None]:
        """Nats a token of each text, (len(texts),): log p(token | what precedes it), averaged over its tokens.

        Where the tokenizer has a token for the beginning, the first token is predicted from it; else it is left out.
        None where no token is predicted, and where the text is longer than the model's positions: nothing is cut.
        """
        start = self.tokenizer.bos_token_id
        ids = [self.tokenizer(text.strip(), add_special_tokens=False)["input_ids"] for text in texts]
        ids = [([] if start is None else [start]) + found for found in ids]
        fits = [n for n, found in enumerate(ids) if 2 <= len(found) <= (self.positions or len(found))]
        fits.sort(key=lambda n: (len(ids[n]), n))
        means: list[float | None] = [None] * len(ids)
        for at in range(0, len(fits), self.batch_size):
            part = fits[at : at + self.batch_size]
            for n, mean in zip(part, self._batch([ids[n] for n in part]), strict=True):
                means[n] = mean
        return means

    @torch.inference_mode()
    def _batch(self, ids: list[list[int]]) -> list[float]:
        width = max(map(len, ids))
        tokens = torch.tensor([found + [0] * (width - len(found)) for found in ids], device=self.device)
        mask = torch.tensor([[1] * len(found) + [0] * (width - len(found)) for found in ids], device=self.device)
        logits = self.model(input_ids=tokens, attention_mask=mask).logits[:, :-1].float()
        picked = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
        counted = mask[:, 1:].to(picked.dtype)
        means: list[float] = ((picked * counted).sum(1) / counted.sum(1)).tolist()
        return means


def locate(config: Score, models_root: str) -> tuple[str, str]:
    """(folder, identity of the weights). Raises compute.ModelError where the folder is missing or no model."""
    name = config.language_model or ""
    if not any(folder.is_dir() for folder in (Path(models_root) / name, Path(name))):
        raise compute.ModelError(
            f"score.language_model: no folder '{name}' under models.root={models_root}; give a folder with a causal "
            "language model (config.json, tokenizer, *.safetensors), or null"
        )
    return compute.locate(models_root, name, None, "score.language_model")


def measured(labels: Sequence[Path], config: Score, run: Run, models_root: str) -> dict[str, Path]:
    """Per file of labels (its name), the table of (utt_id, lm_logprob); computed once, kept by digest.

    The model is loaded only where a table is missing. Raises compute.ModelError.
    """
    schema = manifest.LIKELIHOOD
    revision, model, made = locate(config, models_root)[1], None, {}
    decode = [revision, config.language_model_batch, config.device, run.threads, cache.code_digest(__name__)]
    for path in labels:
        key = cache.digest([cache.file_digest(path), *decode])
        made[path.name] = cache.ROOT / "likelihood" / f"{path.stem}-{key}.parquet"
        if not made[path.name].is_file():
            model = model or Likelihood(config, run, models_root)
            rows = manifest.read(path, manifest.HYPOTHESIS)
            ids, texts = rows["utt_id"].to_pylist(), rows["text"].to_pylist()
            found = zip(ids, model.mean_logprobs(texts), strict=True)
            manifest.write(made[path.name], [{"utt_id": n, "lm_logprob": value} for n, value in found], schema)
    return made
