"""A Whisper's decoder in torch, on encoder states from any engine: languages heard, silence, and tokens.

One pass gives all: the step on <|startoftranscript|> hears the language and the silence, the next ones write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stillsmall import compute
from stillsmall.teachers import greedy
from stillsmall.teachers.whisper import Decoded, Request
from stillsmall.whisper_tokens import WhisperTokens

Said = tuple[list[int], list[float], list[float]]  # tokens, their log-probabilities, their entropies
Search = Callable[[list[str], list[list[int]]], list[Said]]  # (languages, prefixes) to what is said


class TorchDecoder:
    """Decodes greedily or by samples, each with its own seed: of `seed`, the request's name and the temperature."""

    def __init__(self, model: Any, tokens: WhisperTokens, task: str, seed: int) -> None:
        self.model, self.tokens, self.task, self.seed = model, tokens, task, seed
        self.device = model.proj_out.weight.device
        self.rules = greedy.Rules(tokens, model.generation_config, model.config.vocab_size, self.device)

    def ids(self, rows: list[list[int]]) -> Tensor:
        return torch.tensor(rows, device=self.device)

    def heard_languages(self, logits: Tensor) -> list[tuple[str, float] | None]:
        """The likeliest language and its share among all, from the logits after <|startoftranscript|>."""
        names = list(self.tokens.languages)
        if not names:
            return [None] * len(logits)
        best = logits[:, [self.tokens.languages[name] for name in names]].softmax(-1).max(-1)
        return [(names[i], float(p)) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    @torch.inference_mode()
    def hear(self, states: Tensor) -> list[tuple[str, float] | None]:
        """The languages heard in encoder states (B, positions, D), by one step."""
        return self.heard_languages(greedy.Steps(self.model, states)(self.ids([[self.tokens.start]] * len(states))))

    @torch.inference_mode()
    def decode(
        self,
        states: Tensor,
        requests: Sequence[Request],
        temperature: float,
        room: Callable[[int], int],
        search: Search | None = None,
    ) -> list[Decoded]:
        """What is said in encoder states (B, positions, D); prompts are of one length.

        `room` gives the tokens that may follow a prefix of a length; `search` writes in place of our own decoding.
        """
        steps = greedy.Steps(self.model, states)
        heads = [[*request.prompt, self.tokens.start] for request in requests]
        logits = steps(self.ids(heads))
        silence = logits.softmax(-1)[:, self.tokens.no_speech].tolist()
        heard = self.heard_languages(logits)
        languages = [r.language or (h[0] if h else "en") for r, h in zip(requests, heard, strict=True)]
        prefixes = [self.tokens.prefix(name, self.task, requests[0].timestamps) for name in languages]
        if search is not None:
            said = search(languages, prefixes)
        else:
            if len(prefixes[0]) > 1:
                logits = steps(self.ids([prefix[1:] for prefix in prefixes]))
            seeds = [compute.seed(self.seed, "sampling", r.name, temperature) for r in requests]
            limit = room(len(heads[0]) - 1 + len(prefixes[0]))
            said = greedy.decode(steps, logits, self.rules, requests[0].timestamps, limit, temperature, seeds)
        return [
            Decoded(tuple(tokens), language, quiet, ear, tuple(logprob), tuple(entropy))
            for (tokens, logprob, entropy), language, quiet, ear in zip(said, languages, silence, heard, strict=True)
        ]
