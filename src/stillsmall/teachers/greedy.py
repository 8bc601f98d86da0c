"""Decoding with torch, token by token: greedy or sampled, measured as it goes, and finished rows cost nothing more.

One pass gives all: the step on <|startoftranscript|> hears the language and the silence, each further one gives a
token with its log-probability and entropy. The cache holds every step's work; nothing is computed a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stillsmall.whisper_tokens import WhisperTokens

NEVER = float("-inf")


class Steps:
    """A decoder's next-token logits, float32 (B, vocabulary), with a cache of what was fed before."""

    def __init__(self, model: Any, states: Tensor) -> None:
        self.model, self.states, self.cache = model, states, None

    def __call__(self, ids: Tensor) -> Tensor:
        """`ids`: (B, new tokens)."""
        out = self.model.model.decoder(
            input_ids=ids, encoder_hidden_states=self.states, past_key_values=self.cache, use_cache=True
        )
        self.cache = out.past_key_values
        logits: Tensor = self.model.proj_out(out.last_hidden_state[:, -1]).float()
        return logits

    def keep(self, index: Tensor) -> None:
        """Goes on with these rows alone."""
        self.states = self.states[index]
        for half in (self.cache.self_attention_cache, self.cache.cross_attention_cache):  # type: ignore[attr-defined]
            half.batch_select_indices(index)


class Rules:
    """Which tokens may come next: the generation config's suppressed ones, and Whisper's rules of timestamps."""

    def __init__(self, tokens: WhisperTokens, generation_config: Any, vocabulary: int, device: torch.device) -> None:
        ids = torch.arange(vocabulary, device=device)
        self.tokens, self.ids = tokens, ids
        self.is_time, self.is_words = ids >= tokens.timestamp_begin, ids < tokens.end
        self.never = _among(ids, getattr(generation_config, "suppress_tokens", None))
        self.not_first = _among(ids, getattr(generation_config, "begin_suppress_tokens", None))
        self.latest_first = getattr(generation_config, "max_initial_timestamp_index", None)

    def start(self, rows: int) -> Tensor:
        """(rows, 3): the last token, the one before it, and the latest timestamp, before anything was said."""
        return torch.full((rows, 3), self.tokens.timestamp_begin - 1, device=self.ids.device)

    def after(self, state: Tensor, chosen: Tensor) -> Tensor:
        latest = torch.where(chosen >= self.tokens.timestamp_begin, chosen, state[:, 2])
        return torch.stack([chosen, state[:, 0], latest], 1)

    def __call__(self, logits: Tensor, state: Tensor, step: int, timestamps: bool) -> Tensor:
        """`logits` (B, V) with what may not come at this step set to minus infinity."""
        barred = self.never | self.not_first if step == 0 else self.never
        if not timestamps:
            return logits.masked_fill(barred, NEVER)
        begin = self.tokens.timestamp_begin
        barred = (barred | (self.ids == self.tokens.no_timestamps)).expand(len(logits), -1)
        if step == 0:
            barred = barred | ~self.is_time
            if self.latest_first is not None:
                barred = barred | (self.ids > begin + self.latest_first)
        else:
            was = state[:, 0] >= begin
            pair = was & ((state[:, 1] >= begin) | torch.tensor(step < 2, device=was.device))
            single = was & ~pair
            floor = torch.where(single, state[:, 2], state[:, 2] + 1)[:, None]
            barred = barred | (pair[:, None] & self.is_time) | (single[:, None] & self.is_words)
            barred = barred | (self.is_time & (self.ids < floor))
        allowed = logits.masked_fill(barred, NEVER)
        timed = allowed[:, begin:].logsumexp(-1) > allowed[:, :begin].amax(-1)
        return allowed.masked_fill(timed[:, None] & ~self.is_time, NEVER)


def _among(ids: Tensor, wanted: Sequence[int] | None) -> Tensor:
    return torch.isin(ids, torch.tensor(list(wanted or []), device=ids.device, dtype=ids.dtype))


def choose(allowed: Tensor, temperature: float, dice: Sequence[torch.Generator]) -> Tensor:
    """(B,) tokens: the likeliest at temperature 0, else drawn, each row with its own generator."""
    if temperature == 0:
        return allowed.argmax(-1)
    chances = (allowed / temperature).softmax(-1).cpu()
    drawn = [int(torch.multinomial(row, 1, generator=die)) for row, die in zip(chances, dice, strict=True)]
    return torch.tensor(drawn, device=allowed.device)


def decode(
    steps: Steps, logits: Tensor, rules: Rules, timestamps: bool, limit: int, temperature: float, seeds: Sequence[int]
) -> list[tuple[list[int], list[float], list[float]]]:
    """Per row (tokens, log-probabilities, entropies), up to and with the end of text; at most `limit` before it.

    `logits` (B, V) are those after the prefix. Measures are the model's own, before any token is ruled out. Rows that
    have ended leave the batch once half of it has.
    """
    found: list[tuple[list[int], list[float], list[float]]] = [([], [], []) for _ in range(len(logits))]
    dice = [torch.Generator().manual_seed(seed) for seed in seeds]
    rows, state = list(range(len(logits))), rules.start(len(logits))
    ended: set[int] = set()
    for step in range(limit + 1):
        logprobs = logits.log_softmax(-1)
        if step < limit:
            chosen = choose(rules(logits, state, step, timestamps), temperature, [dice[i] for i in rows])
        else:  # no room: the text ends here, and what that costs is measured like the rest
            chosen = torch.full((len(rows),), rules.tokens.end, device=logits.device)
        logprob = logprobs.gather(1, chosen[:, None])[:, 0]
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        said = torch.stack([chosen.double(), logprob.double(), entropy.double()], 1).tolist()  # one wait for the device
        for i, (token, p, h) in zip(rows, said, strict=True):
            if i not in ended:
                tokens, chances, spread = found[i]
                tokens.append(int(token))
                chances.append(p)
                spread.append(h)
                if int(token) == rules.tokens.end:
                    ended.add(i)
        left = [at for at, i in enumerate(rows) if i not in ended]
        if not left:
            break
        state = rules.after(state, chosen)
        if 2 * len(left) <= len(rows):
            index = torch.tensor(left, device=logits.device)
            steps.keep(index)
            chosen, state, rows = chosen[index], state[index], [rows[at] for at in left]
        logits = steps(chosen[:, None])
    return found
