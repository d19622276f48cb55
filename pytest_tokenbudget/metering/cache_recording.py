"""What a recording tells of its cache: exact sizes, minimums, what was warm, what was not readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pytest_tokenbudget.metering.builtin_counter import BuiltinCounter
from pytest_tokenbudget.metering.cache_chain import Chain, chain
from pytest_tokenbudget.metering.cache_rules import LEVELS, MINIMUMS, NEWEST_MINIMUM, minimum, not_simulated
from pytest_tokenbudget.metering.counting import Memo
from pytest_tokenbudget.metering.prefix_sizes import Unsized, cheap_weights, prefix_sizes
from pytest_tokenbudget.metering.prompt_cache import Cache, CacheTurn, Known, visible
from pytest_tokenbudget.model import Tokens
from pytest_tokenbudget.wire.prompt import Level, Prompt

_CLOSE = 0.1
"""How far an interpolated size may be off what was read, as a part of it, to be taken for that prefix."""


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """A recorded request and what its answer billed."""

    prompt: Prompt
    tokens: Tokens | None
    """None where the answer does not say (an aborted stream)."""
    began: datetime | None = None
    """When its answer began (its `Date` header)."""
    sent: datetime | None = None
    """When it was sent, where the recording tells, on the same clock."""

    @property
    def cached(self) -> int:
        """Tokens read and written."""
        return (
            self.tokens.cache_read_input_tokens + self.tokens.cache_creation_input_tokens
            if self.tokens
            else 0
        )


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording, ready to be simulated."""

    turns: tuple[CacheTurn, ...]
    known: Known
    minimums: Mapping[str, int]
    """The given overrides, and by model what the recording shows."""


def study(recorded: Sequence[RecordedTurn], minimums: Mapping[str, int] | None = None) -> Recording:
    """Measure every prefix of a recording, and find what its requests alone do not explain."""
    exact: dict[str, int] = {}
    chains = [chain(turn.prompt) for turn in recorded]
    for turn, its in zip(recorded, chains, strict=True):
        if turn.cached and its.breakpoints and not_simulated(turn.prompt) is None:
            exact.setdefault(its.links[max(its.breakpoints)].key, turn.cached)
    turns = measure(recorded, chains, exact)
    seen = [turn.tokens if not_simulated(turn.prompt) is None else None for turn in recorded]
    shown = {**(minimums or {}), **_shown_minimums(turns, seen, minimums or {})}
    known, hits = observe(turns, seen, shown)
    for index, position in hits.items():
        tokens = seen[index]
        assert tokens is not None
        exact[chains[index].links[position].key] = tokens.cache_read_input_tokens
    return Recording(measure(recorded, chains, exact), known, shown)


def measure(
    recorded: Sequence[RecordedTurn], chains: Sequence[Chain], exact: Mapping[str, int]
) -> tuple[CacheTurn, ...]:
    """The recorded turns with the tokens of their prefixes; `exact` holds known ones by key."""
    counter = Memo(BuiltinCounter())
    unsized = []
    for turn, its in zip(recorded, chains, strict=True):
        weights = cheap_weights(its, counter)
        total = turn.tokens.prompt_tokens if turn.tokens else round(sum(w.fixed + w.share for w in weights))
        unsized.append(Unsized(its, total, weights))
    return tuple(
        CacheTurn(its.chain, sizes, its.total, turn.began, turn.sent)
        for its, sizes, turn in zip(unsized, prefix_sizes(unsized, exact), recorded, strict=True)
    )


def observe(
    turns: Sequence[CacheTurn], recorded: Sequence[Tokens | None], minimums: Mapping[str, int]
) -> tuple[Known, dict[int, int]]:
    """What was warm, unreadable or not cached at all, so that the simulation reads what was recorded.

    None among `recorded`: that turn tells nothing. Also gives the position up to which each turn read.
    """
    cache = Cache(minimums)
    warm: dict[int, tuple[Chain, int]] = {}
    blind: dict[int, frozenset[tuple[int, Level]]] = {}
    off: set[int] = set()
    hits: dict[int, int] = {}
    for index, (turn, tokens) in enumerate(zip(turns, recorded, strict=True)):
        marked = cache.cacheable(turn)
        if tokens is not None and marked:
            read = tokens.cache_read_input_tokens
            if not read and not tokens.cache_creation_input_tokens:
                off.add(index)
            readable = [p for p in visible(marked) if cache.can_read(turn, p)]
            hit = _what_was_read(turn, tokens, marked, readable) if read else None
            blind[index] = _unreadable(cache, turn, readable, hit)
            if hit is not None:
                hits[index] = hit
                if not cache.can_read(turn, hit, blind[index]):
                    warm[index] = turn.chain, hit
                    cache.warm(index, turn.chain, hit, turn.began)
        cache.ask(index, turn, blind=blind.get(index, frozenset()), off=index in off)
    return Known(warm, blind, frozenset(off)), hits


def _what_was_read(turn: CacheTurn, tokens: Tokens, marked: Sequence[int], readable: Sequence[int]) -> int:
    """Position of the end of what was read: the one that its size fits, rather cached than not."""
    read = tokens.cache_read_input_tokens
    if not tokens.cache_creation_input_tokens:
        return marked[-1]

    def off_by(position: int) -> int:
        return abs(turn.sizes[position] - read)

    for candidates in (readable, marked):
        nearest = min(candidates, key=off_by, default=None)
        if nearest is not None and off_by(nearest) <= _CLOSE * read:
            return nearest
    return min(visible(marked), key=off_by)


def _unreadable(
    cache: Cache, turn: CacheTurn, readable: Sequence[int], hit: int | None
) -> frozenset[tuple[int, Level]]:
    """The writers whose longer prefixes the turn did not read, by level; all levels where it read nothing."""
    links = turn.chain.links
    passed = [p for p in readable if hit is None or p > hit]
    first = 0 if hit is None else min((LEVELS.index(links[p].block.level) for p in passed), default=0)
    writers = {writer for p in passed for writer in cache.writers(turn, p)}
    return frozenset((writer, level) for writer in writers for level in LEVELS[first:])


def _shown_minimums(
    turns: Sequence[CacheTurn], recorded: Sequence[Tokens | None], overrides: Mapping[str, int]
) -> dict[str, int]:
    """By model, where what was cached and what was not contradicts the tables.

    A prefix that was not cached raises the minimum to the next one that is documented for any model; one that
    is longer than the highest has another cause.
    """
    steps = sorted({*MINIMUMS.values(), NEWEST_MINIMUM})
    cached: dict[str, list[int]] = {}
    plain: dict[str, list[int]] = {}
    for turn, tokens in zip(turns, recorded, strict=True):
        if tokens is not None and turn.chain.breakpoints:
            was = tokens.cache_read_input_tokens + tokens.cache_creation_input_tokens
            size = turn.sizes[max(turn.chain.breakpoints)]
            (cached if was else plain).setdefault(turn.chain.model, []).append(size)
    shown = {}
    for model in cached.keys() | plain.keys():
        assumed = minimum(model, overrides)
        least = min(cached.get(model, []), default=steps[-1])
        higher = [step for step in steps if max(plain.get(model, []), default=0) < step <= least]
        if least < assumed:
            shown[model] = least
        elif higher and higher[0] > assumed:
            shown[model] = higher[0]
    return shown
