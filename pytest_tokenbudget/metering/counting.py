"""Count the tokens of a text offline: the counters that stand in for Claude's tokenizers."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Hashable
from typing import Any, Protocol

from pytest_tokenbudget.metering.builtin_counter import BuiltinCounter
from pytest_tokenbudget.metering.models import Family

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
