"""What a recording tells of its cache: exact sizes, minimums, what was warm, what was not readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pytest_tokenbudget.metering.cache_chain import Chain, chain
from pytest_tokenbudget.metering.cache_rules import LEVELS, MINIMUMS, NEWEST_MINIMUM, minimum, not_simulated
from pytest_tokenbudget.metering.counting import Counter
from pytest_tokenbudget.metering.prefix_sizes import Unsized, cheap_weights, prefix_sizes
from pytest_tokenbudget.metering.prompt_cache import Cache, CacheTurn, Shown, visible
from pytest_tokenbudget.model import Tokens
from pytest_tokenbudget.wire.prompt import Level, Prompt

_CLOSE = 0.1
"""How far an interpolated size may be off what was read, as a part of it, to be taken for that prefix."""

_LENIENT = Shown(ageless=True, loose=True)


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
    shown: Mapping[int, Shown]
    """By turn."""
    minimums: Mapping[str, int]
    """The given overrides, and by model what the recording shows."""


def study(recorded: Sequence[RecordedTurn], minimums: Mapping[str, int], counter: Counter) -> Recording:
    """Measure every prefix of a recording, and find what its requests alone do not explain.

    `minimums` overrides the tables; `counter` is for sharing out known totals, so a cheap one will do.
    """
    exact: dict[str, int] = {}
    chains = [chain(turn.prompt) for turn in recorded]
    for turn, its in zip(recorded, chains, strict=True):
        if turn.cached and its.breakpoints and not_simulated(turn.prompt) is None:
            exact.setdefault(its.links[max(its.breakpoints)].key, turn.cached)
    turns = measure(recorded, chains, exact, counter)
    seen = [turn.tokens if not_simulated(turn.prompt) is None else None for turn in recorded]
    minimums = {**minimums, **_shown_minimums(turns, seen, minimums)}
    shown, hits = observe(turns, seen, minimums)
    for index, position in hits.items():
        tokens = seen[index]
        assert tokens is not None
        exact.setdefault(chains[index].links[position].key, tokens.cache_read_input_tokens)
    return Recording(measure(recorded, chains, exact, counter), shown, minimums)


def measure(
    recorded: Sequence[RecordedTurn], chains: Sequence[Chain], exact: Mapping[str, int], counter: Counter
) -> tuple[CacheTurn, ...]:
    """The recorded turns with the tokens of their prefixes; `exact` holds known ones by key."""
    unsized = [
        Unsized(its, turn.tokens.prompt_tokens if turn.tokens else None, cheap_weights(its, counter))
        for turn, its in zip(recorded, chains, strict=True)
    ]
    return tuple(
        CacheTurn(its.chain, sizes, its.whole(sizes), turn.began, turn.sent)
        for its, sizes, turn in zip(unsized, prefix_sizes(unsized, exact), recorded, strict=True)
    )


def observe(
    turns: Sequence[CacheTurn], recorded: Sequence[Tokens | None], minimums: Mapping[str, int]
) -> tuple[dict[int, Shown], dict[int, int]]:
    """By turn, what makes the simulation read what was recorded, and the position up to which it was read.

    None among `recorded`: that turn tells nothing.
    """
    cache = Cache(minimums)
    shown: dict[int, Shown] = {}
    hits: dict[int, int] = {}
    for index, (turn, tokens) in enumerate(zip(turns, recorded, strict=True)):
        marked = cache.cacheable(turn)
        if tokens is not None and marked:
            hit = _what_was_read(cache, turn, tokens, marked)
            shown[index] = _shown(cache, turn, tokens, marked, hit)
            if hit is not None:
                hits[index] = hit
        cache.ask(index, turn, shown.get(index, Shown()))
    return shown, hits


def _shown(cache: Cache, turn: CacheTurn, tokens: Tokens, marked: Sequence[int], hit: int | None) -> Shown:
    if hit is None and not tokens.cache_creation_input_tokens:
        return Shown(off=True)
    readable = [p for p in visible(marked) if cache.can_read(turn, p, Shown())]
    shown = Shown(blind=_unreadable(cache, turn, readable, hit))
    if hit is None:
        return shown
    for explained in (shown, replace(shown, ageless=True), replace(shown, ageless=True, loose=True)):
        if cache.can_read(turn, hit, explained):
            return explained
    # Whoever wrote it probably set the same breakpoints, so that what they end is there, too.
    return replace(shown, warm=(turn.chain, (*(p for p in marked if p < hit), hit)))


def _what_was_read(cache: Cache, turn: CacheTurn, tokens: Tokens, marked: Sequence[int]) -> int | None:
    """Position of the end of what was read: the one that its size fits, rather a cached or a marked one."""
    read = tokens.cache_read_input_tokens
    if not read:
        return None
    if not tokens.cache_creation_input_tokens:
        return marked[-1]

    def off_by(position: int) -> int:
        return abs(turn.sizes[position] - read)

    cached = [p for p in visible(marked) if cache.can_read(turn, p, _LENIENT)]
    for candidates in (cached, marked):
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
    writers = {writer for p in passed for writer in cache.writers(turn, p, Shown())}
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
