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
    chain: Chain | None = field(default=None, compare=False, repr=False)
    """The prompt as it was laid out; None of a turn that did not happen."""

    @property
    def through_1h(self) -> int:
        """Tokens up to the end of what was written for an hour."""
        return self.read + self.written_1h

    @property
    def through_5m(self) -> int:
        """Tokens up to the end of what was written for five minutes: of all that is cached."""
        return self.through_1h + self.written_5m


@dataclass(frozen=True, slots=True)
class Shown:
    """What a recording shows of its cache at one turn, beyond what its requests explain."""

    warm: tuple[Chain, tuple[int, ...]] | None = None
    """A chain and positions on it: prefixes that were in the cache though no turn had written them, the
    initial state among them."""
    blind: frozenset[tuple[int, Level]] = frozenset()
    """Earlier turns whose entries of a level it could not read: concurrent calls, evictions."""
    timeless: bool = False
    """Whether it read what, by the times, had outlived its own, or was not yet being answered."""
    loose: bool = False
    """Whether it read what was cached under other parameters: those that differ cost nothing here."""
    off: bool = False
    """Whether it cached nothing although it could have."""


def simulate(
    turns: Sequence[CacheTurn | None],
    *,
    shown: Mapping[int, Shown] | None = None,
    minimums: Mapping[str, int] | None = None,
) -> tuple[Outcome, ...]:
    """What each turn reads and writes, in order; a turn that is None does not happen: an empty outcome.

    `shown` is what a recording shows, by turn: the initial state of the cache, and its accidents. `minimums`
    overrides the shortest cacheable prefix by model. Linear in the blocks of all turns.
    """
    cache = Cache(minimums or {})
    shown = shown or {}
    return tuple(
        Outcome() if turn is None else cache.ask(index, turn, shown.get(index, Shown()))
        for index, turn in enumerate(turns)
    )


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
        self._by_text: dict[tuple[str, str], _Entry] = {}
        self._paths = CachedPaths()

    def ask(self, index: int, turn: CacheTurn, shown: Shown) -> Outcome:
        """Bill one turn and enter what it writes. Turns come in order."""
        if shown.warm:
            self._warm(index, *shown.warm, turn.sent or turn.began)
        marked = () if shown.off else self.cacheable(turn)
        hit = next((p for p in visible(marked) if self.can_read(turn, p, shown)), None)
        source = -1 if hit is None else max(self.writers(turn, hit, shown))
        miss = self._miss(turn, marked, hit, shown)
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
            chain=turn.chain,
        )

    def cacheable(self, turn: CacheTurn) -> tuple[int, ...]:
        """Positions of the breakpoints that are long enough, in order."""
        shortest = minimum(turn.chain.model, self._minimums)
        return tuple(p for p in turn.chain.breakpoints if turn.sizes[p] >= shortest)

    def can_read(self, turn: CacheTurn, position: int, shown: Shown) -> bool:
        """Whether a prefix is cached, alive, and was written by a turn that this one is not blind to."""
        entry = self._entry(turn, position, shown)
        if entry is None or (_expired(entry, turn.began) and not shown.timeless):
            return False
        level = turn.chain.links[position].block.level
        return any(
            (writer, level) not in shown.blind and (shown.timeless or not _later(began, turn.sent))
            for writer, began in entry.writers.items()
        )

    def writers(self, turn: CacheTurn, position: int, shown: Shown) -> Collection[int]:
        """Which turns wrote a cached prefix; negative where it was there before a turn (-1 - turn)."""
        entry = self._entry(turn, position, shown)
        return entry.writers.keys() if entry else ()

    def _entry(self, turn: CacheTurn, position: int, shown: Shown) -> _Entry | None:
        link = turn.chain.links[position]
        entry = self._entries.get(link.key)
        if entry is None and shown.loose:
            entry = self._by_text.get((turn.chain.model, link.text))
        return entry

    def _warm(self, index: int, chain: Chain, positions: Sequence[int], now: datetime | None) -> None:
        for position in positions:
            self._write(chain, position, -1 - index, now)
        self._paths.add(-1 - index, chain, max(positions))

    def _enter(self, index: int, turn: CacheTurn, marked: tuple[int, ...], hit: int | None) -> None:
        links = turn.chain.links
        for link in links[: 0 if hit is None else hit + 1]:
            entry = self._entries.get(link.key)
            if entry is not None and not _expired(entry, turn.began):
                entry.used = turn.began  # to read a prefix is to use those in it, and use refreshes
        for position in marked:
            entry = self._entries.get(links[position].key)
            if hit is None or position > hit or entry is None or _expired(entry, turn.began):
                self._write(turn.chain, position, index, turn.began)
        if marked:
            self._paths.add(index, turn.chain, marked[-1])

    def _write(self, chain: Chain, position: int, writer: int, now: datetime | None) -> None:
        link = chain.links[position]
        ttl = chain.breakpoints.get(position, "5m")
        entry = self._entries.get(link.key)
        if entry is None or _expired(entry, now):
            entry = _Entry({}, ttl, now)
            self._entries[link.key] = self._by_text[chain.model, link.text] = entry
        entry.writers[writer] = now
        entry.used = now
        if ttl == "1h":
            entry.ttl = ttl

    def _miss(self, turn: CacheTurn, marked: tuple[int, ...], hit: int | None, shown: Shown) -> Miss | None:
        """The nearest chain says what was lost; the breakpoints and the entries say why."""
        miss = self._paths.miss(turn.chain, turn.sizes, hit)
        if not marked:
            unable: Cause = "below_minimum" if turn.chain.breakpoints else "no_breakpoint"
            return replace(miss or Miss("cold"), cause="unexplained" if shown.off else unable)
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
