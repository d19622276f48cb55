"""Count the tokens of a text offline, with ctok (exact) or with the built-in counter (an estimate).

The built-in counter needs no dependency. It is a linear model over the words, numbers, marks and spaces of a
text: common pieces have their own weight, the others one by their length and kind. The weights are in
`builtin_counter.json`, which `benchmarks/fit_builtin.py` writes; the file says what they were fitted on.
"""

from __future__ import annotations

import importlib.util
import json
import re
from bisect import bisect
from collections import Counter as Multiset
from collections.abc import Hashable, Iterator, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Protocol

from pytest_tokenbudget.metering.models import Family
from pytest_tokenbudget.wire.prompt import text_digest

# What ctok 1.3 counts around a text, as the only user message of a request.
CTOK_FRAME = {Family.V3: 7, Family.V47: 11, Family.V48: 6}


class Counter(Hashable, Protocol):
    """Counts the tokens of a text."""

    name: str
    """Includes the version, so that counts of two counters are never mixed."""
    exact: bool
    """Whether its counts are the tokenizer's own."""

    def count(self, text: str, family: Family) -> int:
        """Return the tokens of `text` as a part of a message, without the framing of the message."""
        ...


class Store(Protocol):
    """A place where counts outlive a run; pytest's cache is one."""

    def get(self, key: str, default: Any) -> Any:
        """Return what was set under `key`, else `default`."""
        ...

    def set(self, key: str, value: Any) -> None:
        """Keep `value`, which JSON can hold, under `key`."""
        ...


class CtokCounter:
    """The reconstruction of Claude's tokenizer by `ctok`; loading its vocabulary takes up to a second."""

    exact = True

    def __init__(self) -> None:
        from importlib.metadata import version

        self.name = f"ctok {version('ctok')}"

    def count(self, text: str, family: Family) -> int:
        """Return the exact tokens of `text`, without the frame of the message that ctok counts with it."""
        if not text:
            return 0
        from ctok import token_count

        return int(token_count(text, family)) - CTOK_FRAME[family]


_MOST_KEPT = 10_000
"""How many counts a store keeps of one tokenizer: the newest, some 400 KB."""
_UNKEPT = 1 / 16
"""Share of the counts of a tokenizer that may be lost when a run ends, so that a store is seldom written."""


class Memo:
    """A counter that counts each text once in a run, and most texts once across runs if it has a store.

    A store has one entry a tokenizer, and not one a text: pytest's cache makes a file of each, which agents
    that list their folder would put into their prompts.
    """

    def __init__(self, counter: Counter, store: Store | None = None) -> None:
        self.name = counter.name
        self.exact = counter.exact
        self._counter = counter
        self._store = store
        self._counts: dict[tuple[Family, bytes], int] = {}  # by digest: a run reads many megabytes
        self._kept: dict[Family, dict[str, int]] = {}
        self._unkept: Multiset[Family] = Multiset()

    def count(self, text: str, family: Family) -> int:
        """Return the count of the counter that it wraps, remembered."""
        key = (family, text_digest(text))
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = self._stored(text, family)
        return count

    def _stored(self, text: str, family: Family) -> int:
        if self._store is None:
            return self._counter.count(text, family)
        kept, name = self._kept_in(self._store, family), text_digest(text).hex()
        if name not in kept:
            kept[name] = self._counter.count(text, family)
            self._unkept[family] += 1
            if self._unkept[family] >= _UNKEPT * len(kept):
                others = self._read(self._store, family)  # of processes beside this one
                newest = [*(others | kept).items()][-_MOST_KEPT:]
                self._store.set(self._key(family), dict(newest))
                self._unkept[family] = 0
        return kept[name]

    def _kept_in(self, store: Store, family: Family) -> dict[str, int]:
        if family not in self._kept:
            self._kept[family] = self._read(store, family)
        return self._kept[family]

    def _read(self, store: Store, family: Family) -> dict[str, int]:
        """Return the counts in a store by the digest of their text; what is none is left out."""
        found = store.get(self._key(family), None)
        entries = found.items() if isinstance(found, dict) else ()
        return {name: count for name, count in entries if isinstance(count, int)}

    def _key(self, family: Family) -> str:
        return f"tokenbudget/{self.name.replace(' ', '-')}-{family}"


def best_counter(store: Store | None = None) -> Counter:
    """Return the exact counter if `ctok` is installed (Python 3.12 and newer), else the built-in one.

    Nothing is loaded before the first count.
    """
    if importlib.util.find_spec("ctok") is not None:
        return Memo(CtokCounter(), store)
    return Memo(BuiltinCounter())


# As Claude's tokenizers cut a text: a single space between words or marks is free, but beside a digit or
# another space it is a token; a line break and the indentation after it are two.
_PIECES = re.compile(
    r"(?<=[^\W\d_])'(?:s|t|d|m|ll|re|ve)(?![^\W_])"  # a contraction
    r"|[^\W\d_]+"  # a word
    r"|\d+"
    r"|(?:(?<=[^\d\s]) )?(?:[^\w\s]|_)+(?: (?=[^\d\s]))?"  # marks, and free spaces beside them
    r"|\n+"
    r"|[^\S\n]{2,}|(?<=[\d\s])[^\S\n]|[^\S\n](?=[\d\s])"
)
_SUBWORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class BuiltinCounter:
    """A counter that estimates: within a tenth for nine of ten texts of at least a hundred tokens."""

    name = "built-in"
    exact = False

    def __init__(self, weights: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self._weights = weights
        self._pieces: dict[tuple[str, str], float] = {}

    def count(self, text: str, family: str) -> int:
        """Return the estimated tokens of `text`, rounded."""
        return round(self.estimate(text, family))

    def estimate(self, text: str, family: str) -> float:
        """Return the estimated tokens of `text`, not rounded; at least 1 unless it is empty."""
        weights = (self._weights or _shipped())["3.0" if family == "3.0" else "4.8"]
        total = 0.0
        for piece, times in Multiset(pieces(text)).items():
            weight = self._pieces.get((family, piece))
            if weight is None:
                weight = sum(weights.get(name, 1.0) * value for name, value in features(piece, weights))
                self._pieces[family, piece] = weight
            total += times * weight
        return max(total, 1.0 if text else 0.0)


_BY_LENGTH = ("word", "name", "word length", "name length")


@lru_cache(maxsize=32)  # the same edit comes back on every turn
def guessed(text: str) -> float:
    """Return the part of a text's tokens, from 0 to 1, that only the length and script of words tell.

    Such are rare words, other languages than English, and emoji.
    """
    weights = _shipped()["4.8"]
    whole = unknown = 0.0
    for piece, times in Multiset(pieces(text)).items():
        for name, value in features(piece, weights):
            tokens = times * abs(weights.get(name, 1.0) * value)
            whole += tokens
            unknown += tokens if name in _BY_LENGTH or name in _SCRIPT_NAMES else 0.0
    return unknown / whole if whole else 0.0


@cache
def _shipped() -> dict[str, dict[str, float]]:
    """Read the weights of the built-in counter by family; the tokenizer of 4.7 is that of 4.8."""
    found = json.loads(files(__package__).joinpath("builtin_counter.json").read_text("utf-8"))
    weights: dict[str, dict[str, float]] = {
        family: dict(found["weights"][family]) for family in ("3.0", "4.8")
    }
    for costs, pieces in found["pieces"].items():
        for family, cost in zip(weights, costs.split("/"), strict=True):
            weights[family] |= dict.fromkeys((f"={piece}" for piece in pieces), float(cost))
    return weights


def pieces(text: str) -> list[str]:
    """Return the pieces of `text` that weigh something, in order."""
    return _PIECES.findall(text)


def features(piece: str, known: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Yield (name of a weight, how often it counts) for a piece of text.

    That is the piece itself as `=piece` where it is `known`, else its kind and length.
    """
    if f"={piece}" in known:
        yield f"={piece}", 1
    elif piece.isspace():
        yield "lines" if piece[0] == "\n" else "spaces", 1
    elif piece[0].isdigit():
        yield "digits", (len(piece) + 2) // 3
    elif piece[0].isalpha():
        yield from _word(piece, known)
    else:
        yield from _marks(piece)


def _word(piece: str, known: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    if not piece.isascii():
        yield from Multiset(map(_script, piece)).items()
        return
    if not (piece.islower() or piece.isupper() or piece.istitle()):
        parts = _SUBWORDS.findall(piece)
        if len(parts) > 1:
            yield "joined", len(parts) - 1
            for part in parts:
                yield from features(part, known)
            return
    lower = piece.lower()
    if piece.isupper() and len(piece) > 1:
        yield "capitals", 1
        yield "capitals length", len(piece)
    if f"={lower}" in known:
        yield f"={lower}", 1
        if piece.istitle():
            yield "title", 1
    else:
        kind = "name" if piece.istitle() else "word"
        yield kind, 1
        yield f"{kind} length", len(piece)


def _marks(piece: str) -> Iterator[tuple[str, float]]:
    marks = piece.strip(" ")
    plain = sum(mark.isascii() for mark in marks)
    if plain:
        yield "marks", 1
        yield "marks length", plain
    for script, number in Multiset(_script(mark) for mark in marks if not mark.isascii()).items():
        yield script if script != "latin" else "symbols", number
    if piece != marks:
        yield "beside a space", 1


# Where a script begins, and the name of its weight.
_SCRIPTS = (
    (0x0000, "latin"),
    (0x0370, "greek"),
    (0x0400, "cyrillic"),
    (0x0530, "symbols"),
    (0x0590, "hebrew"),
    (0x0600, "arabic"),
    (0x0780, "indic"),
    (0x0E00, "thai"),
    (0x1000, "indic"),
    (0x1E00, "latin"),
    (0x2000, "symbols"),
    (0x3040, "kana"),
    (0x3100, "han"),
    (0xA000, "indic"),
    (0xAC00, "hangul"),
    (0xD7B0, "symbols"),
    (0xF900, "han"),
    (0xFB00, "symbols"),
    (0x10000, "emoji"),
    (0x20000, "han"),
    (0xE0000, "emoji"),
)
_SCRIPT_NAMES = frozenset(name for _, name in _SCRIPTS)
_BEGINNINGS = [begin for begin, _ in _SCRIPTS]


def _script(char: str) -> str:
    return _SCRIPTS[bisect(_BEGINNINGS, ord(char)) - 1][1]
