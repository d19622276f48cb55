"""Tokens of a text, offline: which tokenizer a model has, and the counters that stand in for it."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Hashable
from enum import StrEnum
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

from pytest_tokenbudget.metering.builtin_counter import BuiltinCounter


class Family(StrEnum):
    """A generation of Claude's tokenizer, by the first version that has it."""

    V3 = "3.0"
    """Claude 3 to Opus 4.6, Sonnet 4.6 and Haiku 4.5."""
    V47 = "4.7"
    """Opus 4.7 and Mythos Preview."""
    V48 = "4.8"
    """Opus 4.8 and every newer model."""


# Which tokenizer a model has: Anthropic's "token counting" and "what's new" pages (September 2026), and the
# `source_model` of each family in ctok 1.3. A Claude model that is not named here is taken for a newer one.
_MODELS = {
    Family.V3: (
        *("3-haiku", "3-sonnet", "3-opus", "3-5-haiku", "3-5-sonnet", "3-7-sonnet"),
        *("sonnet-4", "opus-4", "opus-4-1", "sonnet-4-5", "haiku-4-5", "opus-4-5", "sonnet-4-6", "opus-4-6"),
    ),
    Family.V47: ("opus-4-7", "mythos-preview"),
    Family.V48: (
        *("opus-4-8", "opus-5", "opus-5-5", "sonnet-5", "sonnet-5-5", "haiku-5-5"),
        *("fable-5", "fable-5-1", "fable-5-2", "mythos-5", "mythos-5-1", "mythos-5-2"),
    ),
}
_FAMILY = {name: family for family, names in _MODELS.items() for name in names}

_NAME = re.compile(
    r"(?P<name>(?:\d(?:-\d)?-)?[a-z]+(?:-preview|(?<=[a-z])-\d{1,2}(?:-\d{1,2})?)?)(?![a-z\d])"
)


@lru_cache(maxsize=256)
def short_name(model: str) -> str | None:
    """`sonnet-4-5`, `3-5-haiku`, ... of a Claude model's id as any platform writes it, or None.

    Dates, `-latest`, `-v1:0` (URL-quoted or not), `@20250929`, region and vendor prefixes do not matter,
    `4.5` is `4-5`, and `-4-0` is `-4`.
    """
    plain = unquote(model).lower().replace(".", "-").rpartition("claude-")
    match = _NAME.match(plain[2]) if plain[1] else None
    return None if match is None else match["name"].removesuffix("-0")


def family(model: str) -> Family:
    """The tokenizer of `model`; the newest where it is not known (`is_known` tells)."""
    return _FAMILY.get(short_name(model) or "", Family.V48)


def is_known(model: str) -> bool:
    """Whether the tokenizer of `model` is known, not assumed."""
    return short_name(model) in _FAMILY


# What ctok 1.3 counts around a text, as the only user message of a request.
CTOK_FRAME = {Family.V3: 7, Family.V47: 11, Family.V48: 6}


class Counter(Hashable, Protocol):
    """Counts the tokens of a text."""

    name: str
    """With its version: counts of two counters are never mixed."""
    exact: bool
    """Whether its counts are the tokenizer's own."""

    def count(self, text: str, family: Family) -> int:
        """Tokens of `text` as a part of a message, its framing not included."""
        ...


class Store(Protocol):
    """Where counts outlive a run; pytest's cache is one."""

    def get(self, key: str, default: Any) -> Any:
        """What was set under `key`, else `default`."""
        ...

    def set(self, key: str, value: Any) -> None:
        """Keep `value`, of JSON, under `key`."""
        ...


class CtokCounter:
    """The reconstruction of Claude's tokenizer by `ctok`; loading its vocabulary takes up to a second."""

    exact = True

    def __init__(self) -> None:
        from importlib.metadata import version

        self.name = f"ctok {version('ctok')}"

    def count(self, text: str, family: Family) -> int:
        """Exact tokens of `text`, without the frame of the message that ctok counts with it."""
        if not text:
            return 0
        from ctok import token_count

        return int(token_count(text, family)) - CTOK_FRAME[family]


class Memo:
    """A counter that counts each text once: within the run, and across runs where a store is given."""

    def __init__(self, counter: Counter, store: Store | None = None) -> None:
        self.name = counter.name
        self.exact = counter.exact
        self._counter = counter
        self._store = store
        self._counts: dict[tuple[Family, str], int] = {}

    def count(self, text: str, family: Family) -> int:
        """As the counter that it remembers for."""
        count = self._counts.get((family, text))
        if count is None:
            count = self._counts[family, text] = self._stored(text, family)
        return count

    def _stored(self, text: str, family: Family) -> int:
        if self._store is None:
            return self._counter.count(text, family)
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        key = f"tokenbudget/counts/{self.name.replace(' ', '-')}/{family}/{digest}"
        kept = self._store.get(key, None)
        if isinstance(kept, int):
            return kept
        count = self._counter.count(text, family)
        self._store.set(key, count)
        return count


def best_counter(store: Store | None = None) -> Counter:
    """The exact counter where `ctok` is installed (Python 3.12 and newer), else the built-in one.

    Nothing is loaded before the first count.
    """
    if importlib.util.find_spec("ctok") is not None:
        return Memo(CtokCounter(), store)
    return Memo(BuiltinCounter())
