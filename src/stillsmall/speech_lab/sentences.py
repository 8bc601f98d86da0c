"""Open sentences from small grammars, split into pools that never share a sentence.

The pool of a sentence is a hash of its text alone, so no list has to be kept and two machines agree.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import random
import re
from pathlib import Path

# Pool -> its share of all sentences, in percent.
POOLS = {"teacher": 40, "train": 36, "dev": 12, "test": 12}
GRAMMARS = ("en", "zh-en", "ar", "hi", "ta")
SLOT = re.compile(r"<([^>]+)>")
TRIES = 10_000  # the smallest pool holds about one sentence in eight: running out means a broken grammar


def pool(sentence: str) -> str:
    """The one pool that a sentence belongs to, by its letters: case, spaces and punctuation do not matter."""
    letters = "".join(character for character in sentence.lower() if character.isalnum())
    number = int.from_bytes(hashlib.sha256(letters.encode()).digest()[:8], "big") % 100
    for name, share in POOLS.items():
        if number < share:
            return name
        number -= share
    raise AssertionError("the shares of POOLS add up to less than 100")


@functools.cache
def grammar(name: str) -> dict[str, tuple[str, ...]]:
    """Rules of a grammar file: name -> alternatives."""
    if name not in GRAMMARS:
        nearest = difflib.get_close_matches(name, GRAMMARS, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown grammar {name!r}; did you mean {nearest!r}? Have: {', '.join(GRAMMARS)}")
    rules: dict[str, tuple[str, ...]] = {}
    for line in (Path(__file__).parent / f"{name}.grammar").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        head, _, body = line.partition("=")
        rule = head.removesuffix("+ ").removesuffix("+").strip()
        alternatives = tuple(part.strip() for part in body.split("|"))
        rules[rule] = rules.get(rule, ()) + alternatives
    return rules


def expand(name: str, chance: random.Random) -> str:
    """One random sentence, from whichever pool."""
    rules = grammar(name)

    def fill(rule: str) -> str:
        return SLOT.sub(lambda slot: fill(slot.group(1)), chance.choice(rules[rule]))

    text = " ".join(fill("sentence").split())
    if name == "zh-en":
        text = space_english(text)
    return text[0].upper() + text[1:] if name == "en" else text


def space_english(text: str) -> str:
    """One space between Chinese and English, none between two Chinese characters or before punctuation."""
    text = re.sub(r"(?<=[\u4e00-\u9fff])\s+(?=[\u4e00-\u9fff])", "", text)
    text = re.sub(r"(?<=[\u4e00-\u9fff])(?=[A-Za-z])|(?<=[A-Za-z])(?=[\u4e00-\u9fff])", " ", text)
    return re.sub(r"\s+(?=[，。？])", "", text)


def sentence(name: str, split: str, chance: random.Random) -> str:
    """One random sentence of the pool `split`."""
    for _ in range(TRIES):
        text = expand(name, chance)
        if pool(text) == split:
            return text
    raise ValueError(f"grammar {name!r} has no sentence in the pool {split!r}; pools: {', '.join(POOLS)}")


def vocabulary(name: str) -> frozenset[str]:
    """Distinct words that the grammar can produce; Chinese characters count one by one."""
    rules = grammar(name)
    words: set[str] = set()
    for alternatives in rules.values():
        for text in alternatives:
            words.update(re.findall(r"[\u4e00-\u9fff]|[^\W\d_\u4e00-\u9fff]+(?:'\w+)?", SLOT.sub(" ", text).lower()))
    return frozenset(words)
