"""The prompt cache, simulated over the turns of a run: what each turn reads and writes, and why not more.

The algorithm is that of "Prompt caching" of the platform's documentation (2026-09-26): one entry for each
breakpoint, holding the whole prefix up to it; a walk back from each breakpoint over at most 20 positions,
itself included; the split billed by the tokens A of the longest prefix read, B of the last 1h breakpoint
after it (else A), and C of the last breakpoint: A read, B - A written for an hour, C - B for five minutes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from pytest_tokenbudget.metering.cache_chain import Chain
from pytest_tokenbudget.metering.cache_misses import CachedPaths, Cause, Miss
from pytest_tokenbudget.metering.cache_rules import LOOK_BACK, TTL_SECONDS, minimum
from pytest_tokenbudget.wire.prompt import Level, Ttl


@dataclass(frozen=True, slots=True)
class CacheTurn:
    """One request, as the simulation needs it."""

    chain: Chain
    sizes: tuple[int, ...]
    """By position of the chain: tokens of the prefix that ends there; never decreasing."""
    total: int
    """Tokens of the whole prompt."""
    began: datetime | None = None
    """When its answer began; without it nothing expires."""
    sent: datetime | None = None
    """When it was sent, where that is known: it then reads only what had begun to be answered."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one turn reads and writes; the four counts add up to its prompt tokens."""

    read: int = 0
    written_1h: int = 0
    written_5m: int = 0
    uncached: int = 0
    hit: int | None = None
    """Position of the end of the prefix that was read."""
    source: int | None = None
    """The turn that wrote it; None where nothing was read, or what was in the cache before the first turn."""
    marked: tuple[int, ...] = ()
    """Positions of the breakpoints that are long enough to be cached, in order."""
    miss: Miss | None = None
    """None where everything was read that the nearest earlier turn had cached."""

    @property
    def through_1h(self) -> int:
        """Tokens up to the end of what was written for an hour."""
        return self.read + self.written_1h

    @property
    def through_5m(self) -> int:
        """Tokens up to the end of what was written for five minutes: of all that is cached."""
        return self.through_1h + self.written_5m


@dataclass(frozen=True, slots=True)
class Known:
    """What a recording shows of its cache beyond its own requests: the initial state, and its accidents."""

    warm: Mapping[int, tuple[Chain, int]] = field(default_factory=dict)
    """By turn: a prefix (a chain and a position on it) that was in the cache just before this turn, and
    that no turn had written, or that had outlived its time."""
    blind: Mapping[int, frozenset[tuple[int, Level]]] = field(default_factory=dict)
    """By turn: the earlier turns whose entries of a level it could not read (concurrent calls, evictions)."""
    off: frozenset[int] = frozenset()
    """Turns that cached nothing although they could have."""


def simulate(
    turns: Sequence[CacheTurn | None],
    *,
    known: Known | None = None,
    minimums: Mapping[str, int] | None = None,
) -> tuple[Outcome, ...]:
    """What each turn reads and writes, in order; a turn that is None does not happen: an empty outcome.

    `minimums` overrides the shortest cacheable prefix by model. Linear in the blocks of all turns.
    """
    known = known or Known()
    cache = Cache(minimums or {})
    outcomes = []
    for index, turn in enumerate(turns):
        if turn is None:
            outcomes.append(Outcome())
            continue
        if index in known.warm:
            cache.warm(index, *known.warm[index], turn.began)
        blind = known.blind.get(index, frozenset())
        outcomes.append(cache.ask(index, turn, blind=blind, off=index in known.off))
    return tuple(outcomes)


@dataclass(slots=True)
class _Entry:
    writers: dict[int, datetime | None]
    """When the answer of each turn that wrote it began."""
    ttl: Ttl
    used: datetime | None


class Cache:
    """The entries of one workspace while a run goes on; `simulate` is its plain use."""

    def __init__(self, minimums: Mapping[str, int]) -> None:
        self._minimums = minimums
        self._entries: dict[str, _Entry] = {}
        self._paths = CachedPaths()

    def warm(self, index: int, chain: Chain, position: int, now: datetime | None) -> None:
        """Let a prefix be in the cache just before a turn; its writer is -1 - index."""
        self._write(chain.links[position].key, -1 - index, chain.breakpoints.get(position, "5m"), now)
        self._paths.add(-1 - index, chain, position)

    def ask(
        self,
        index: int,
        turn: CacheTurn,
        *,
        blind: frozenset[tuple[int, Level]] = frozenset(),
        off: bool = False,
    ) -> Outcome:
        """Bill one turn and enter what it writes. Turns come in order."""
        marked = () if off else self.cacheable(turn)
        hit = next((p for p in visible(marked) if self.can_read(turn, p, blind)), None)
        source = -1 if hit is None else max(self.writers(turn, hit))
        miss = self._miss(turn, marked, hit, off)
        self._enter(index, turn, marked, hit)
        read = 0 if hit is None else turn.sizes[hit]
        new = [p for p in marked if hit is None or p > hit]
        hour = max((turn.sizes[p] for p in new if turn.chain.breakpoints[p] == "1h"), default=read)
        last = max((turn.sizes[p] for p in new), default=read)
        return Outcome(
            read=read,
            written_1h=hour - read,
            written_5m=last - hour,
            uncached=turn.total - last,
            hit=hit,
            source=source if source >= 0 else None,
            marked=marked,
            miss=miss,
        )

    def cacheable(self, turn: CacheTurn) -> tuple[int, ...]:
        """Positions of the breakpoints that are long enough, in order."""
        shortest = minimum(turn.chain.model, self._minimums)
        return tuple(p for p in turn.chain.breakpoints if turn.sizes[p] >= shortest)

    def can_read(
        self, turn: CacheTurn, position: int, blind: frozenset[tuple[int, Level]] = frozenset()
    ) -> bool:
        """Whether a prefix is cached, alive, and was written by a turn that this one is not blind to."""
        link = turn.chain.links[position]
        entry = self._entries.get(link.key)
        if entry is None or _expired(entry, turn.began):
            return False
        return any(
            (writer, link.block.level) not in blind and not _later(began, turn.sent)
            for writer, began in entry.writers.items()
        )

    def writers(self, turn: CacheTurn, position: int) -> Collection[int]:
        """Which turns wrote a prefix that is cached; negative where it was there before a turn."""
        entry = self._entries.get(turn.chain.links[position].key)
        return entry.writers.keys() if entry else ()

    def _enter(self, index: int, turn: CacheTurn, marked: tuple[int, ...], hit: int | None) -> None:
        links = turn.chain.links
        for link in links[: 0 if hit is None else hit + 1]:
            entry = self._entries.get(link.key)
            if entry is not None and not _expired(entry, turn.began):
                entry.used = turn.began  # to read a prefix is to use those in it, and use refreshes
        for position in marked:
            if hit is None or position > hit or links[position].key not in self._entries:
                self._write(links[position].key, index, turn.chain.breakpoints[position], turn.began)
        if marked:
            self._paths.add(index, turn.chain, marked[-1])

    def _write(self, key: str, writer: int, ttl: Ttl, now: datetime | None) -> None:
        entry = self._entries.get(key)
        if entry is None or _expired(entry, now):
            self._entries[key] = _Entry({writer: now}, ttl, now)
            return
        entry.writers[writer] = now
        entry.used = now
        if ttl == "1h":
            entry.ttl = ttl

    def _miss(self, turn: CacheTurn, marked: tuple[int, ...], hit: int | None, off: bool) -> Miss | None:
        """The nearest chain says what was lost; the breakpoints and the entries say why."""
        miss = self._paths.miss(turn.chain, turn.sizes, hit)
        if not marked:
            unable: Cause = "below_minimum" if turn.chain.breakpoints else "no_breakpoint"
            return replace(miss or Miss("cold"), cause="unexplained" if off else unable)
        if miss is None:
            return Miss("cold") if hit is None else None
        if miss.cause != "moved":
            return miss
        deepest = max(p for p, link in enumerate(turn.chain.links) if link.key in self._entries)
        if deepest > marked[-1]:
            return miss
        if deepest not in visible(marked):
            return replace(miss, cause="look_back")
        expired = _expired(self._entries[turn.chain.links[deepest].key], turn.began)
        return replace(miss, cause="expired" if expired else "concurrent")


def visible(breakpoints: Sequence[int]) -> list[int]:
    """Positions that are looked at, from each breakpoint back, the longest prefix first."""
    seen: dict[int, None] = {}
    for position in sorted(breakpoints, reverse=True):
        seen.update(dict.fromkeys(range(position, max(position - LOOK_BACK, -1), -1)))
    return list(seen)


def _expired(entry: _Entry, now: datetime | None) -> bool:
    if now is None or entry.used is None:
        return False
    return (now - entry.used).total_seconds() > TTL_SECONDS[entry.ttl]


def _later(began: datetime | None, sent: datetime | None) -> bool:
    return began is not None and sent is not None and began > sent
