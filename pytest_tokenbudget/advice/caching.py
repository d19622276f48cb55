"""Find what other cache breakpoints would save, writes included, for five minutes and for an hour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from pytest_tokenbudget.advice.layout import Asked, LaidOut
from pytest_tokenbudget.diagnosis.prompt_parts import opening_of, place
from pytest_tokenbudget.metering.cache_rules import hidden_sizes, minimum
from pytest_tokenbudget.metering.prompt_cache import CacheTurn, refused, simulate
from pytest_tokenbudget.model import Finding, FindingKind, Source, Usage
from pytest_tokenbudget.wire.prompt import Block, Ttl, markable
from pytest_tokenbudget.wording import dollars, listed, plural

_HEADS = 3
"""Most breakpoints in tools and system, so that one of the four is left for the conversation."""

_NAMED = 3
"""Most places that one advice names."""

_HELD = 0.9
"""If a turn reads less than this part of what it read when recorded, its cache is broken."""

Marks = tuple[int, ...]
"""Positions of the breakpoints of one turn."""

Locate = Callable[[Block], Source | None]
"""Returns the lines of the repository that hold the text of a block, or None if they are not known."""


@dataclass(frozen=True, slots=True)
class _Placing:
    """Breakpoints of every turn, and what the run then costs, reads and writes from a cold cache."""

    marks: tuple[Marks, ...]
    cost: Decimal
    read: int
    written: int


def caching(run: LaidOut, minimums: Mapping[str, int], locate: Locate) -> Iterator[Finding]:
    """Yield where breakpoints should stand, if that is cheaper than where they stand.

    `locate` is asked for the lines of the blocks that are named.
    Conversations with a turn that cannot be simulated are left out: it is not known what their turns read.
    """
    unclear = {opening_of(one.prompt) for one in run.asked if _is_unclear(one)}
    asked = [one for one in run.asked if one.chain.links and opening_of(one.prompt) not in unclear]
    bench = _Bench(run, asked, minimums)
    now = bench.as_they_are() if asked else None
    if now is None:
        return
    shared, own = _shared_heads(asked), [_own_heads(run, one) for one in asked]
    heads = [_marks(end, *marks)[-_HEADS:] for end, marks in zip(shared, own, strict=True)]
    options = [heads, [_marks(*head, _end(one)) for head, one in zip(heads, asked, strict=True)]]
    placings = [placing for marks in options if (placing := bench.placed(marks, "5m"))]
    best = min(placings, key=lambda placing: placing.cost, default=now)
    pays = best.read > now.read or (len(asked) > 1 and not _reads_less(asked))
    found: list[_Advice] = []
    if best.cost < now.cost and pays:
        found += _marked_better(run, asked, now, best, bench.placed(best.marks, "1h"))
    if across := _across_runs(run, asked, minimums):
        found.append(across)
    if found:  # the better one: both want a breakpoint behind the system prompt
        yield max(found, key=lambda one: one.saved).finding(locate)


@dataclass(frozen=True, slots=True)
class _Advice:
    """A change of breakpoints, and what it saves a run."""

    text: str
    """Holds `{places}` where the places are named that it begins with."""
    places: Mapping[str, Block]
    """The places that gain or lose a breakpoint, by name."""
    tokens: int
    saved: Decimal

    def finding(self, locate: Locate) -> Finding:
        """Return the advice as a lever; its source is the last block outside the messages that is named."""
        lines = {
            name: source
            for name, block in self.places.items()
            if block.level != "messages" and (source := locate(block))
        }
        named = [f"{name} ({lines[name]})" if name in lines else name for name in self.places]
        return Finding(
            FindingKind.LEVER_CACHING,
            next(iter(self.places)),
            self.text.replace("{places}", listed(named), 1),
            -self.tokens,
            -self.saved,
            next(reversed(lines.values()), None),
        )


def _is_unclear(one: Asked) -> bool:
    return bool(hidden_sizes(one.prompt) or refused(one.prompt))


def _reads_less(asked: Sequence[Asked]) -> bool:
    """Return whether the cache serves less than when recorded: its break is to be mended, not the markers."""
    known = [(one.tokens, was.main_tokens) for one in asked if (was := one.turn.recorded)]
    return any(now.cache_read_input_tokens < was.cache_read_input_tokens * _HELD for now, was in known)


def _marked_better(
    run: LaidOut, asked: Sequence[Asked], now: _Placing, best: _Placing, hour: _Placing | None
) -> Iterator[_Advice]:
    """Yield the advice to place breakpoints as in `best`; none if their places have the same names."""
    saved, read = now.cost - best.cost, best.read - now.read
    change, places = _change(asked, best.marks)
    if not places:
        return
    if read > 0:
        effect = f"read {plural(read, 'token')} more from the cache"
    elif (unread := now.written - best.written) > 0:
        effect = f"write {plural(unread, 'token')} fewer that no turn of the run reads"
    else:
        effect = "be written at the lower price, for turns within five minutes of each other"
    text = f"{change} would {effect}: saves {run.saving(saved)} at 5m, writes included"
    if hour is not None:
        gain = now.cost - hour.cost
        text += f"; {run.saving(gain)} at 1h" if gain > 0 else "; nothing at 1h, which is written at 2x"
    yield _Advice(text, places, max(read, 0), saved)


def _change(asked: Sequence[Asked], best: Sequence[Marks]) -> tuple[str, Mapping[str, Block]]:
    """Return what to do so that the breakpoints stand as in `best`, for 5m, and the places concerned.

    The text holds `{places}` for them.
    """
    here, there = _places(asked, [tuple(one.chain.breakpoints) for one in asked]), _places(asked, best)
    hours = [tuple(p for p, ttl in one.chain.breakpoints.items() if ttl == "1h") for one in asked]
    shorter = _places(asked, hours)
    more, less = _first(there, here), _first(here, there)
    if more and less:
        return f"cache_control at {{places}} instead of {listed([*less])}", more
    if more:
        ttl = " (5m instead of 1h)" if shorter else ""
        beside = f"beside {listed([*here][:_NAMED])}{ttl}" if here else "where nothing is marked now"
        return f"cache_control at {{places}}, {beside},", more
    if less:
        return "no cache_control at {places}", less
    return "cache_control of 5m instead of 1h at {places}", _first(shorter)


def _across_runs(run: LaidOut, asked: Sequence[Asked], minimums: Mapping[str, int]) -> _Advice | None:
    """Return advice for tools and system that no breakpoint ends and that other runs begin with too.

    Only what is as it was recorded counts; None if there is nothing to save.
    """
    heads = [(one, end) for one in asked if (end := _unmarked_head(run, one, minimums)) is not None]
    if not heads:
        return None
    one, end = max(heads, key=lambda head: head[0].cached.sizes[head[1]] * _above_read(run, *head))
    tokens, above = one.cached.sizes[end], _above_read(run, one, end)
    if not above:
        return None
    saved = tokens * above
    first, hour = (
        tokens * (_above_read(run, one, end, f"ephemeral_{ttl}_input_tokens") - above) for ttl in ("5m", "1h")
    )
    text = (
        f"{{places}} ends {plural(tokens, 'token')} that every run begins with and no breakpoint ends; "
        f"cache_control there saves {run.saving(saved)} for runs within five minutes of another"
    )
    if first > 0:
        text += f", of which the first pays {dollars(first)} more to write them"
    if hour > 0:
        text += f"; at 1h for runs within an hour, of which the first pays {dollars(hour)} more"
    return _Advice(text, {_where(one, end): one.chain.links[end].block}, tokens, saved)


def _above_read(run: LaidOut, one: Asked, position: int, count: str | None = None) -> Decimal:
    """Return how many dollars more a token at `position` costs than one that is read; 0 if unknown.

    It is priced as `count`, or as it was billed if that is None.
    """
    billed, read = run.unit(one, count or one.counts[position]), run.unit(one, "cache_read_input_tokens")
    return Decimal(0) if billed is None or read is None else billed - read


def _unmarked_head(run: LaidOut, one: Asked, minimums: Mapping[str, int]) -> int | None:
    """Return the position where tools and system end, if a breakpoint there would help another run.

    They must be long enough, stable, as recorded, and without a breakpoint; else the result is None.
    """
    end = max((p for p in _markable(one) if one.chain.links[p].block.level != "messages"), default=None)
    if end is None or any(position <= end for position in one.chain.breakpoints):
        return None
    if one.cached.sizes[end] < minimum(one.chain.model, minimums) or not _is_stable(run, one, end):
        return None
    was, now = (
        [block.digest for block in request.prompt.blocks if block.level != "messages"]
        for request in (one.turn.pair.recorded, one.turn.pair.request)
    )
    return end if was == now else None


def _marks(*positions: int | None) -> Marks:
    return tuple(sorted({position for position in positions if position is not None}))


def _own_heads(run: LaidOut, one: Asked) -> Marks:
    """Return the positions of the run's own breakpoints in tools and system: another run may read there."""
    marks = (p for p in one.chain.breakpoints if one.chain.links[p].block.level != "messages")
    return tuple(p for p in marks if _is_stable(run, one, p))


def _is_stable(run: LaidOut, one: Asked, position: int) -> bool:
    """Return whether all turns of the same conversation begin alike up to `position`."""
    text = one.chain.links[position].text
    others = run.conversations[opening_of(one.prompt)]
    return all(len(o.chain.links) > position and o.chain.links[position].text == text for o in others)


def _markable(one: Asked) -> list[int]:
    """Return the positions at which a breakpoint may stand, in order."""
    return [position for position, link in enumerate(one.chain.links) if markable(link.block)]


def _end(one: Asked) -> int | None:
    """Return the position of a breakpoint on the last message; None where the API takes none there."""
    last = max(_markable(one), default=None)
    return last if last is not None and one.chain.links[last].block.level == "messages" else None


def _shared_heads(asked: Sequence[Asked]) -> list[int | None]:
    """Return by turn the end of the longest prefix of tools and system that another turn shares, or None."""
    seen = Counter(link.text for one in asked for link in one.chain.links if link.block.level != "messages")
    heads: list[int | None] = []
    for one in asked:
        shared = [
            position
            for position in _markable(one)
            if (link := one.chain.links[position]).block.level != "messages" and seen[link.text] > 1
        ]
        heads.append(shared[-1] if shared else None)
    return heads


@dataclass(frozen=True, slots=True)
class _Bench:
    """Simulates the turns of a run under other breakpoints."""

    run: LaidOut
    asked: Sequence[Asked]
    minimums: Mapping[str, int]

    def as_they_are(self) -> _Placing | None:
        """Price the turns with their own breakpoints; return None if a price is unknown."""
        return self._priced([one.cached for one in self.asked])

    def placed(self, marks: Sequence[Marks], ttl: Ttl) -> _Placing | None:
        """Price the turns with breakpoints at `marks`, left out where the prefix is too short to be cached.

        Return None if a price is unknown.
        """
        turns = [one.cached for one in self.asked]
        least = [minimum(turn.chain.model, self.minimums) for turn in turns]
        long = [
            tuple(p for p in own if turn.sizes[p] >= tokens)
            for turn, own, tokens in zip(turns, marks, least, strict=True)
        ]
        return self._priced([_marked(turn, own, ttl) for turn, own in zip(turns, long, strict=True)])

    def _priced(self, turns: Sequence[CacheTurn]) -> _Placing | None:
        total, read, written = Decimal(0), 0, 0
        for one, outcome in zip(self.asked, simulate(turns, minimums=self.minimums), strict=True):
            tokens = replace(
                one.tokens,
                input_tokens=outcome.uncached,
                ephemeral_5m_input_tokens=outcome.written_5m,
                ephemeral_1h_input_tokens=outcome.written_1h,
                cache_read_input_tokens=outcome.read,
            )
            cost = self.run.cost_of(Usage.of(one.rate, tokens))
            if cost is None:
                return None
            total += cost
            read += outcome.read
            written += tokens.cache_creation_input_tokens
        return _Placing(tuple(tuple(turn.chain.breakpoints) for turn in turns), total, read, written)


def _marked(turn: CacheTurn, marks: Marks, ttl: Ttl) -> CacheTurn:
    return replace(turn, chain=replace(turn.chain, breakpoints=dict.fromkeys(marks, ttl)))


def _places(asked: Sequence[Asked], marks: Sequence[Marks]) -> dict[str, Block]:
    """Return the block of each breakpoint, by the name of its place: the first of each, in order."""
    found: dict[str, Block] = {}
    for one, own in zip(asked, marks, strict=True):
        for mark in own:
            found.setdefault(_where(one, mark), one.chain.links[mark].block)
    return found


def _first(places: Mapping[str, Block], but: Iterable[str] = ()) -> dict[str, Block]:
    """Return as many of the places as are named, without those in `but`."""
    return dict([(name, block) for name, block in places.items() if name not in but][:_NAMED])


def _where(one: Asked, position: int) -> str:
    if position == _end(one):
        return "the last message"
    return place(one.chain.links[position].block, {}).where
