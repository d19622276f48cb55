"""The prompt cache by its documented rules: what a request reads and writes, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from .prompt import Block, Prompt

LOOK_BACK = 20
"""Positions checked from each breakpoint, itself included."""
_SECONDS = {"5m": 300.0, "1h": 3600.0}


@dataclass
class _Entry:
    ttl: str
    expires: float
    readable: bool = False


@dataclass(frozen=True)
class Split:
    """How one prompt is billed: four disjoint counts that add up to its tokens."""

    input_tokens: int
    write_5m: int
    write_1h: int
    read: int
    prefixes: tuple[str, ...] = ()
    """The entries that this request writes, readable once its answer has begun."""


class PromptCache:
    """The entries of one workspace; an entry is a prefix that ends at an earlier request's breakpoint."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def request(self, prompt: Prompt, minimum: int) -> Split:
        """Bill a request that starts now, and enter what it writes.

        With A the tokens of the longest prefix read, B those at the last 1h breakpoint after A (else A) and
        C those at the last breakpoint: A are read, B - A written for an hour, C - B for five minutes.
        """
        marked = [
            (index, block)
            for index, block in enumerate(prompt.blocks)
            if block.ttl is not None and block.end >= minimum
        ]
        with self._lock:
            now = self._clock()
            hit = self._longest_hit(prompt.blocks, [index for index, _ in marked], now)
            written = [block for index, block in marked if hit is None or index > hit]
            for block in prompt.blocks[: 0 if hit is None else hit + 1]:
                self._refresh(block, now)
            for block in written:
                assert block.ttl is not None
                self._entries[block.prefix] = _Entry(block.ttl, now + _SECONDS[block.ttl])
        read = 0 if hit is None else prompt.blocks[hit].end
        hour = max((block.end for block in written if block.ttl == "1h"), default=read)
        last = max((block.end for block in written), default=read)
        return Split(
            prompt.total - last, last - hour, hour - read, read, tuple(block.prefix for block in written)
        )

    def answer_began(self, split: Split) -> None:
        """Let the entries of a request be read from now on."""
        with self._lock:
            for entry in map(self._entries.get, split.prefixes):
                if entry is not None:
                    entry.readable = True

    def clear(self) -> None:
        """Forget every entry, as if all had expired."""
        with self._lock:
            self._entries.clear()

    def _longest_hit(self, blocks: tuple[Block, ...], breakpoints: list[int], now: float) -> int | None:
        for breakpoint_ in reversed(breakpoints):
            for index in range(breakpoint_, max(breakpoint_ - LOOK_BACK, -1), -1):
                entry = self._entries.get(blocks[index].prefix)
                if entry is not None and entry.readable and entry.expires > now:
                    return index
        return None

    def _refresh(self, block: Block, now: float) -> None:
        entry = self._entries.get(block.prefix)
        if entry is not None and entry.readable and entry.expires > now:
            entry.expires = now + _SECONDS[entry.ttl]
