"""What a recording tells of its cache: exact sizes, minimums, what was warm, what was not readable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pytest_tokenbudget.metering.cache_chain import Chain, chain
from pytest_tokenbudget.metering.cache_rules import minimum, not_simulated
from pytest_tokenbudget.metering.counting import Counter
from pytest_tokenbudget.metering.models import MODELS
from pytest_tokenbudget.metering.prefix_sizes import Unsized, cheap_weights, prefix_sizes
from pytest_tokenbudget.metering.prompt_cache import Cache, CacheTurn, Shown, visible
from pytest_tokenbudget.model import Tokens
from pytest_tokenbudget.wire.prompt import LEVELS, Level, Prompt

_CLOSE = 0.1
"""How far an interpolated size may be off what was read, as a part of it, to be taken for that prefix."""

_LENIENT = Shown(timeless=True, loose=True)

_DOUBT = 0.05
"""How far above a minimum, as a part of it, an interpolated size must be to contradict it."""


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
    def tells(self) -> bool:
        """Whether its split says something about the cache; a refusal bills nothing and says nothing."""
        return bool(self.tokens and self.tokens.prompt_tokens) and not_simulated(self.prompt) is None

    @property
    def cached(self) -> int:
        """Tokens read and written."""
        return _cached(self.tokens) if self.tokens else 0


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording, ready to be simulated."""

    turns: tuple[CacheTurn, ...]
    shown: Mapping[int, Shown]
    """By turn."""
    minimums: Mapping[str, int]
    """The given overrides, and what the recording shows of models that they do not name."""


def study(recorded: Sequence[RecordedTurn], minimums: Mapping[str, int], counter: Counter) -> Recording:
    """Measure every prefix of a recording, and find what its requests alone do not explain.

    `minimums` overrides the tables; `counter` is for sharing out known totals, so a cheap one will do.
    """
    told = [turn.tokens if turn.tells else None for turn in recorded]
    laid_out = lay_out(recorded, told, counter)
    exact: dict[str, int] = {}
    for tokens, its in zip(told, laid_out, strict=True):
        if tokens and its.chain.breakpoints and (cached := _cached(tokens)):
            exact.setdefault(its.chain.links[max(its.chain.breakpoints)].key, cached)
    turns = measure(recorded, laid_out, exact)
    minimums = {**minimums, **_shown_minimums(turns, told, minimums)}
    shown, hits = observe(turns, told, minimums)
    for index, (tokens, its) in enumerate(zip(told, laid_out, strict=True)):
        for position, size in _ends(its.chain, tokens, hits.get(index)) if tokens else ():
            exact.setdefault(its.chain.links[position].key, size)
    return Recording(measure(recorded, laid_out, exact), shown, minimums)


def lay_out(
    recorded: Sequence[RecordedTurn], told: Sequence[Tokens | None], counter: Counter
) -> list[Unsized]:
    """The turns' prefixes, to be measured by the totals that the answers told."""
    chains = [chain(turn.prompt) for turn in recorded]
    return [
        Unsized(its, tokens.prompt_tokens if tokens else None, cheap_weights(its, counter))
        for its, tokens in zip(chains, told, strict=True)
    ]


def measure(
    recorded: Sequence[RecordedTurn], laid_out: Sequence[Unsized], exact: Mapping[str, int]
) -> tuple[CacheTurn, ...]:
    """The recorded turns with the tokens of their prefixes; `exact` holds known ones by key."""
    return tuple(
        CacheTurn(its.chain, sizes, its.whole(sizes), turn.began, turn.sent)
        for its, sizes, turn in zip(laid_out, prefix_sizes(laid_out, exact), recorded, strict=True)
    )


def _ends(its: Chain, tokens: Tokens, hit: int | None) -> Iterator[tuple[int, int]]:
    """Positions and exact sizes of the prefixes that were read, and written for an hour."""
    read, hour = tokens.cache_read_input_tokens, tokens.ephemeral_1h_input_tokens
    if hit is not None:
        yield hit, read
    marks = [p for p, ttl in its.breakpoints.items() if ttl == "1h" and (hit is None or p > hit)]
    if hour and marks:
        yield marks[-1], read + hour


def _cached(tokens: Tokens) -> int:
    return tokens.cache_read_input_tokens + tokens.cache_creation_input_tokens


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
    for explained in (shown, replace(shown, timeless=True), replace(shown, timeless=True, loose=True)):
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
    steps = sorted({row.cache_minimum for row in MODELS})
    cached: dict[str, list[int]] = {}
    plain: dict[str, list[int]] = {}
    for turn, tokens in zip(turns, recorded, strict=True):
        if tokens is not None and turn.chain.breakpoints:
            size = turn.sizes[max(turn.chain.breakpoints)]
            (cached if _cached(tokens) else plain).setdefault(turn.chain.model, []).append(size)
    shown = {}
    for model in cached.keys() | plain.keys():
        assumed = minimum(model, overrides)
        least = min(cached.get(model, []), default=steps[-1])
        longest = max(plain.get(model, []), default=0)
        higher = [step for step in steps if longest < step <= least]
        if least < assumed:
            shown[model] = least
        elif higher and longest > assumed * (1 + _DOUBT):
            shown[model] = higher[0]
    return shown
