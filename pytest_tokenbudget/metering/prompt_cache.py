"""Simulate the prompt cache over the turns of a run: what each reads and writes, and why it reads no more.

The algorithm is that of "Prompt caching" of the platform's documentation (2026-09-26). Each breakpoint makes
one entry, which holds the whole prefix up to it. A request looks back from each breakpoint over at most 20
positions, the breakpoint's own included. Three sizes split the bill: A tokens in the longest prefix that was
read, B up to the last 1h breakpoint after it (else A), C up to the last breakpoint. A is read, B - A written
for an hour, C - B for five minutes.

The cache sees a prompt as one chain of prefixes, each known by a key, with breakpoints on it. Requests that
the API refuses for their breakpoints (an error 400) bill nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from pytest_tokenbudget.metering.cache_rules import (
    LOOK_BACK,
    TTL_SECONDS,
    cache_model,
    is_outside_prefix,
    minimum,
    scopes,
)
from pytest_tokenbudget.metering.rendering import is_dropped_thinking, keeps_thinking_from
from pytest_tokenbudget.wire.exchange import Pair, Request
from pytest_tokenbudget.wire.prompt import (
    LEVELS,
    Block,
    Level,
    Prompt,
    Ttl,
    as_mapping,
    automatic_breakpoint,
    bare_digest,
    breakpoints,
    digest,
    markable,
    result_parts,
    same_options,
)


@dataclass(frozen=True, slots=True)
class CacheTurn:
    """One request, as the simulation needs it."""

    chain: Chain
    sizes: tuple[int, ...]
    """Tokens of the prefix that ends at each position of the chain; never decreasing."""
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
    """Why no more was read; None if all was that the nearest earlier turn had cached."""
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
    """Whether it read what, by the clock, had expired or was not yet being answered."""
    loose: bool = False
    """Whether it read what was cached under other parameters, which thus cost nothing here."""
    off: bool = False
    """Whether it cached nothing although it could have."""


def simulate(
    turns: Sequence[CacheTurn | None],
    *,
    shown: Mapping[int, Shown] | None = None,
    minimums: Mapping[str, int] | None = None,
) -> tuple[Outcome, ...]:
    """Return what each turn reads and writes, in order.

    A turn that is None does not happen and gives an empty outcome. `shown` holds by turn what a recording
    shows of its cache: the initial state, and accidents. `minimums` overrides the shortest cacheable prefix
    by model (tokens). Linear in the blocks of all turns.
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
    """When the answer began of each turn that wrote it, by turn; None where unknown."""
    ttl: Ttl
    used: datetime | None


class Cache:
    """The cache entries of one workspace while a run goes on; `simulate` is the plain way to use it."""

    def __init__(self, minimums: Mapping[str, int]) -> None:
        self._minimums = minimums
        self._entries: dict[str, _Entry] = {}
        self._by_text: dict[tuple[str, str], _Entry] = {}
        self._paths = CachedPaths()

    def ask(self, index: int, turn: CacheTurn, shown: Shown) -> Outcome:
        """Return the outcome of one turn, and enter what it writes. Turns must come in order."""
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
        """Return the positions of the breakpoints that are long enough to be cached, in order."""
        shortest = minimum(turn.chain.model, self._minimums)
        return tuple(p for p in turn.chain.breakpoints if turn.sizes[p] >= shortest)

    def can_read(self, turn: CacheTurn, position: int, shown: Shown) -> bool:
        """Return whether a prefix is cached and alive, and was written by a turn that this one can see."""
        entry = self._entry(turn, position, shown)
        if entry is None or (_expired(entry, turn.began) and not shown.timeless):
            return False
        level = turn.chain.links[position].block.level
        return any(
            (writer, level) not in shown.blind and (shown.timeless or not _later(began, turn.sent))
            for writer, began in entry.writers.items()
        )

    def writers(self, turn: CacheTurn, position: int, shown: Shown) -> Collection[int]:
        """Return the turns that wrote a cached prefix; -1 - turn where it was there before that turn."""
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
                entry.used = turn.began  # reading a prefix uses those in it, which refreshes them
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
        """Return why a turn read less than it might have, or None if it lost nothing.

        The nearest chain says what was lost; the breakpoints and the entries say why.
        """
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
    """Return the positions that a request looks at, back from each breakpoint, the longest prefix first."""
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


@dataclass(frozen=True, slots=True)
class Link:
    """One block of a chain, and the prefix that ends with it."""

    block: Block
    index: int
    """Index of the block in `Prompt.blocks`; blocks that are not rendered have no link."""
    digest: str
    """Digest of the block alone; a tool result has one, be it a string or a list of texts."""
    text: str
    """Digest of the prefix by its content, whatever the model and the parameters."""
    key: str
    """Digest of the prefix with the model and the parameters: a cache entry is found by it."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The prefixes of one prompt. A position is an index into `links`."""

    prompt: Prompt
    model: str
    """The model, as `cache_model` names it."""
    scopes: Mapping[Level, Mapping[str, str]]
    """The parameters that each level's cache depends on."""
    links: tuple[Link, ...]
    breakpoints: Mapping[int, Ttl]
    """Lifetimes by position, in order, that of automatic caching included."""


def chain(prompt: Prompt) -> Chain:
    """Lay out the blocks of a prompt as the API does: tools, system, messages. Linear in their number."""
    scope = scopes(prompt)
    links = tuple(_links(prompt, scope))
    ttls = breakpoints(prompt)
    marks = {position: ttls[link.index] for position, link in enumerate(links) if link.index in ttls}
    return Chain(prompt, cache_model(prompt.model), scope, links, marks)


def same_prompt(one: Prompt, other: Prompt) -> bool:
    """Return whether two requests are the same to model and cache; streaming makes no difference."""
    return one is other or (one == replace(other, stream=one.stream) and same_options(one, other))


def _links(prompt: Prompt, scope: Mapping[Level, Mapping[str, str]]) -> Iterator[Link]:
    rendered = list(_rendered(prompt))
    key = text = ""
    for level in LEVELS:
        key = digest(key, level, scope[level])
        for index, block in rendered:
            if block.level != level:
                continue
            content = _content_digest(block)
            if not is_outside_prefix(block):
                key, text = _linked(key, content), _linked(text, content)
            yield Link(block, index, content, text, key)


def _rendered(prompt: Prompt) -> Iterator[tuple[int, Block]]:
    """Yield (index in `Prompt.blocks`, block), without the thinking that the API drops from the prompt."""
    keeps_from = keeps_thinking_from(prompt.blocks, prompt.model)
    for index, block in enumerate(prompt.blocks):
        if not is_dropped_thinking(block, keeps_from):
            yield index, block


def _content_digest(block: Block) -> str:
    """Return the digest by which the cache compares a block.

    A tool result of text is the same to the model as a string or as a list, so both have one digest:
    frameworks turn strings into lists where they set a marker.
    """
    parts = result_parts(block.content)
    if parts is None or any(as_mapping(part).get("type") != "text" for part in parts):
        return bare_digest(block)
    text = "".join(str(part.get("text", "")) for part in parts)
    return digest(block.level, block.role, {**block.content, "content": text})


def _linked(prefix: str, content: str) -> str:
    return hashlib.blake2b((prefix + content).encode(), digest_size=16).hexdigest()


Cause = Literal[
    "cold",
    "no_breakpoint",
    "below_minimum",
    "unexplained",
    "parameter",
    "changed",
    "moved",
    "look_back",
    "expired",
    "concurrent",
]


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a turn read less than the nearest earlier chain had cached."""

    cause: Cause
    """
    - `cold`: nothing was cached before that begins like this turn.
    - `no_breakpoint`, `below_minimum`: the turn marks nothing, or nothing that is long enough.
    - `unexplained`: the recording cached nothing here, although it could have.
    - `parameter`: the same content was cached under other `parameters`.
    - `changed`: this turn's chain leaves the cached one at `block`.
    - The cached prefix was there, but `moved`: every breakpoint stands before its end; `look_back`: it ends
      more than 20 positions before the next breakpoint; `expired`; `concurrent`: the recording shows that
      this turn could not read it.
    """
    turn: int | None = None
    """The turn whose chain was nearest; None if there is none, or it was cached before the first turn."""
    block: Block | None = None
    """The first block of this turn that was not read, although it, or what stood there, was cached."""
    was: Block | None = None
    """What stands there in the nearest chain."""
    parameters: tuple[str, ...] = ()
    """The parameters that differ (`model`, `tool_choice`, `images`, ...); empty for every other cause."""
    lost: int = 0
    """Tokens that the two chains share and that were cached, but not read."""


@dataclass(frozen=True, slots=True)
class _Path:
    chain: Chain
    end: int
    """Position of its last cached prefix."""


class CachedPaths:
    """The cached part of every turn's chain, to find the chain that a later turn is nearest to."""

    def __init__(self) -> None:
        self._paths: dict[int, _Path] = {}
        self._by_text: dict[str, int] = {}
        self._latest: int | None = None

    def add(self, turn: int, chain: Chain, end: int) -> None:
        """Enter a turn's chain up to position `end`, its last cached prefix.

        `turn` is negative for what was in the cache before the first turn.
        """
        self._paths[turn] = _Path(chain, end)
        self._latest = turn
        self._by_text.update((link.text, turn) for link in chain.links[: end + 1])

    def miss(self, chain: Chain, sizes: tuple[int, ...], hit: int | None) -> Miss | None:
        """Return what a turn that read up to `hit` lost against the nearest chain, or None if nothing.

        The cause is `parameter` or `changed`. Where the cached prefix is this turn's own it is `moved`, and
        the caller, who knows the breakpoints and the times, may replace it with a closer cause.
        """
        shared = -1
        for position, link in enumerate(chain.links):
            if link.text not in self._by_text:
                break
            shared = position
        nearest = self._by_text[chain.links[shared].text] if shared >= 0 else self._latest
        if nearest is None:
            return None
        path = self._paths[nearest]
        reach = min(shared, path.end)
        read = -1 if hit is None else hit
        if read >= path.end or (read >= shared and shared + 1 >= len(chain.links)):
            return None
        same = _same_keys(chain, path.chain, reach)
        first = max(same, read) + 1
        miss = Miss(
            "moved",
            turn=nearest if nearest >= 0 else None,
            block=_block(chain, first),
            was=_block(path.chain, first),
            lost=max(sizes[reach] - (sizes[read] if read >= 0 else 0), 0) if reach >= 0 else 0,
        )
        if same < reach:
            return replace(miss, cause="parameter", parameters=_differing(chain, path.chain))
        return replace(miss, cause="changed") if shared < path.end else miss


def _same_keys(one: Chain, other: Chain, reach: int) -> int:
    """Return the last position, up to `reach`, where two chains have the same cache key; -1 if none.

    The content of both is the same up to `reach`: the keys differ by model or parameters only.
    """
    for position in range(reach, -1, -1):
        if one.links[position].key == other.links[position].key:
            return position
    return -1


def _differing(one: Chain, other: Chain) -> tuple[str, ...]:
    """Return the names of the parameters that differ, sorted, on the first level where any does."""
    for level in LEVELS:
        a, b = one.scopes.get(level, {}), other.scopes.get(level, {})
        if a != b:
            return tuple(sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name)))
    return ()


def _block(chain: Chain, position: int) -> Block | None:
    return chain.links[position].block if position < len(chain.links) else None


MAX_BREAKPOINTS = 4


def newly_refused(pair: Pair) -> str | None:
    """Return why the API would refuse the request as it is asked now, or None if it would answer.

    None also where the recorded request breaks a rule and was answered: who answered it, such as a gateway
    that drops markers, takes such requests.
    """
    why = _refused(pair.request)
    if why is None or _refused(pair.recorded):
        return None
    return f"the API would refuse it with an error 400, so mend the request first: {why}"


def _refused(request: Request) -> str | None:
    on_invoke = request.endpoint.platform == "aws" and request.endpoint.model is not None
    if on_invoke and request.prompt.automatic_ttl:
        return "Bedrock's invoke takes no cache_control at the top level"
    return refused(request.prompt)


def refused(prompt: Prompt) -> str | None:
    """Return which rule of "Prompt caching" (2026-09-26) the breakpoints of a prompt break, or None."""
    marks = [(block, block.ttl) for block in prompt.blocks if block.ttl]
    for block, _ in marks:
        if not markable(block):
            return f"{block.name} cannot carry cache_control"
    ttls, automatic = [ttl for _, ttl in marks], prompt.automatic_ttl
    last = automatic_breakpoint(prompt)
    if automatic and last is not None:
        own = prompt.blocks[last].ttl
        if own not in (None, automatic):
            return f"cache_control asks for {automatic} at the top level and for {own} on the last block"
        ttls += [] if own else [automatic]
    if "unknown" in ttls:
        return "cache_control must be of type ephemeral, with a ttl of 5m or 1h"
    if len(ttls) > MAX_BREAKPOINTS:
        return f"{len(ttls)} cache breakpoints are set, and at most {MAX_BREAKPOINTS} are taken"
    if "5m" in ttls and "1h" in ttls[ttls.index("5m") :]:
        return "a cache breakpoint of 1h stands after one of 5m"
    return None
