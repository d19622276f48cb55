"""Split a changed run's prompt tokens into read, written and uncached: the recorded split, corrected.

Both sides are simulated. One side is the recorded turns, with what the recording shows of its cache: exact
sizes, minimums, what was warm, what could not be read. The other is the turns as they are asked now, with the
same knowledge. Only the difference is applied, so that what the simulation gets wrong on both sides cancels,
and an unchanged run keeps its recorded numbers.

Two kinds of sizes are known exactly and kept: the whole prompt of each turn, and each prefix that an answer
reports as read or written. Between two known prefixes the blocks share the difference by their weights. A
prefix that two turns share has one size.

Foreign reads are what the turns of a run read from the prompt cache although the run had not put it there:
whoever recorded a minute before, or another test of the same recording session, had. They tell from which
start a run was measured, and are no doing of the agent. Two recordings are compared with the foreign reads of
both taken as writes, which is what they cost on an empty cache.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from pytest_tokenbudget.metering.cache_rules import after_last_block, hidden_sizes, minimum, tool_prompt
from pytest_tokenbudget.metering.counting import BuiltinCounter, Counter, Memo
from pytest_tokenbudget.metering.estimate import Part
from pytest_tokenbudget.metering.models import MODELS, Family, model_row
from pytest_tokenbudget.metering.prompt_cache import (
    Cache,
    CacheTurn,
    Chain,
    Outcome,
    Shown,
    chain,
    refused,
    same_prompt,
    simulate,
    visible,
)
from pytest_tokenbudget.metering.rendering import block_weights
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.wire.prompt import LEVELS, Block, Level, Prompt, breakpoints

CLOSE = 0.1
"""How far an interpolated size may be off what was read, as a part of it, to be taken for that prefix."""

_LENIENT = Shown(timeless=True, loose=True)

Lean = Literal["first", "last"]
"""Which of several blocks of hidden size takes what the others leave of a total."""
_SLIGHT = 1e-6
"""The next hidden block gets this part of the share of the one before: next to nothing."""

_DOUBT = 0.05
"""How far above a minimum, as a part of it, an interpolated size must be to contradict it."""


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """A recorded request and what its answer billed."""

    prompt: Prompt
    tokens: Tokens | None
    """What its answer billed; None where it does not say (an aborted stream)."""
    began: datetime | None = None
    """When its answer began (its `Date` header)."""
    sent: datetime | None = None
    """When it was sent, where the recording tells, on the same clock."""
    is_later: bool = False
    """Whether it was recorded in a later session than others: its total holds, its split and times do not."""
    worked: str | None = None
    """What the API did by itself for the answer, so that other prompts than this one were billed."""

    @property
    def tells(self) -> bool:
        """Whether its split says something about the cache; a refusal bills nothing and says nothing."""
        return bool(self.tokens and self.tokens.prompt_tokens) and self.worked is None

    @property
    def cached(self) -> int:
        """Tokens read and written."""
        return _cached(self.tokens) if self.tokens else 0


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording, ready to be simulated."""

    turns: tuple[CacheTurn, ...]
    shown: Mapping[int, Shown]
    """What the recording shows of its cache, by turn."""
    minimums: Mapping[str, int]
    """The given overrides, and what the recording shows of models that they do not name."""


def study(
    recorded: Sequence[RecordedTurn], minimums: Mapping[str, int], counter: Counter, lean: Lean = "first"
) -> Recording:
    """Measure every prefix of a recording, and find what its requests alone do not explain.

    `minimums` overrides the tables (tokens by model). `counter` serves to share out known totals, so a cheap
    one will do. `lean` says which of several blocks of hidden size is taken for the largest.
    """
    totals = [turn.tokens if turn.tells else None for turn in recorded]
    told = [None if turn.is_later else tokens for turn, tokens in zip(recorded, totals, strict=True)]
    laid_out = lay_out(recorded, totals, counter, lean)
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


def from_one_start(
    recorded: Sequence[RecordedTurn], *, minimums: Mapping[str, int], counter: Counter
) -> tuple[Tokens | None, ...]:
    """Return the tokens of each turn as if all had been recorded in one session; None where unknown.

    A turn that was recorded later keeps its prompt and output tokens. Its split is what the simulated cache
    gives from the state that the turns before it leave. It stays as it is where the answer tells no split.
    """
    if not any(turn.is_later for turn in recorded):
        return tuple(turn.tokens for turn in recorded)
    recording = study(recorded, minimums, counter)
    outcomes = simulate(recording.turns, shown=recording.shown, minimums=recording.minimums)
    return tuple(
        replace(
            turn.tokens,
            input_tokens=outcome.uncached,
            ephemeral_5m_input_tokens=outcome.written_5m,
            ephemeral_1h_input_tokens=outcome.written_1h,
            cache_read_input_tokens=outcome.read,
        )
        if turn.tokens and turn.is_later and turn.tells
        else turn.tokens
        for turn, outcome in zip(recorded, outcomes, strict=True)
    )


def lay_out(
    recorded: Sequence[RecordedTurn],
    told: Sequence[Tokens | None],
    counter: Counter,
    lean: Lean = "first",
) -> list[Unsized]:
    """Return the prefixes of each turn, to be measured by the totals in `told` (None: unknown)."""
    chains = [chain(turn.prompt) for turn in recorded]
    return [
        Unsized(its, tokens.prompt_tokens if tokens else None, cheap_weights(its, counter, lean))
        for its, tokens in zip(chains, told, strict=True)
    ]


def measure(
    recorded: Sequence[RecordedTurn], laid_out: Sequence[Unsized], exact: Mapping[str, int]
) -> tuple[CacheTurn, ...]:
    """Return the recorded turns with the tokens of their prefixes; `exact` holds known sizes by key."""
    return tuple(
        CacheTurn(its.chain, sizes, its.whole(sizes), turn.began, turn.sent)
        for its, sizes, turn in zip(laid_out, prefix_sizes(laid_out, exact), recorded, strict=True)
    )


def _ends(its: Chain, tokens: Tokens, hit: int | None) -> Iterator[tuple[int, int]]:
    """Yield (position, exact size) of the prefix that was read, and of that written for an hour."""
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
    """Find by turn what makes the simulation read what was recorded, and up to which position it was read.

    Returns both by index of the turn. A None in `recorded` is a turn that tells nothing.
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
    """Return the position where the prefix that was read ends, or None if nothing was read.

    If nothing was written, it is the last breakpoint. Else it is the position whose size fits: a cached one,
    or else a breakpoint, or else any.
    """
    read = tokens.cache_read_input_tokens
    if not read:
        return None
    if not tokens.cache_creation_input_tokens:
        return marked[-1]

    def off_by(position: int) -> int:
        return abs(turn.sizes[position] - read)

    # Something was written, and what ends at the last breakpoint is written last: that much was not read.
    before = [p for p in visible(marked) if p < marked[-1]]
    cached = [p for p in before if cache.can_read(turn, p, _LENIENT)]
    for candidates in (cached, marked[:-1]):
        nearest = min(candidates, key=off_by, default=None)
        if nearest is not None and off_by(nearest) <= CLOSE * read:
            return nearest
    return min(before, key=off_by, default=marked[-1])


def _unreadable(
    cache: Cache, turn: CacheTurn, readable: Sequence[int], hit: int | None
) -> frozenset[tuple[int, Level]]:
    """Return the writers whose longer prefixes a turn did not read, each with the levels concerned.

    `readable` are the positions that it could have read, `hit` the one it did read, None where it read
    nothing: then all levels count.
    """
    links = turn.chain.links
    passed = [p for p in readable if hit is None or p > hit]
    first = 0 if hit is None else min((LEVELS.index(links[p].block.level) for p in passed), default=0)
    writers = {writer for p in passed for writer in cache.writers(turn, p, Shown())}
    return frozenset((writer, level) for writer in writers for level in LEVELS[first:])


def _shown_minimums(
    turns: Sequence[CacheTurn], recorded: Sequence[Tokens | None], overrides: Mapping[str, int]
) -> dict[str, int]:
    """Return the shortest cacheable prefix by model (tokens), where the recording contradicts the tables.

    A prefix that was not cached raises the minimum to the next one that is documented for any model. One that
    is longer than the highest documented minimum has another cause.
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


@dataclass(frozen=True, slots=True)
class Split:
    """One turn's tokens now, split by the cache."""

    tokens: Tokens | None
    """They add up to the current prompt tokens; as recorded where those are unknown; None where nothing was
    recorded, or where nothing is asked now. In the worst case, where the split is known within bounds."""
    note: str | None = None
    """Why the split is known within bounds only; None where it is known."""
    best: Tokens | None = None
    """The split in the best case; None where `tokens` is known."""
    before: Outcome | None = None
    """Simulated, as recorded; None where nothing in the run changed, so that nothing had to be simulated."""
    now: Outcome | None = None
    """Simulated, as asked now."""


def resplit(
    recorded: Sequence[RecordedTurn],
    current: Sequence[CurrentTurn | None],
    *,
    minimums: Mapping[str, int] | None = None,
    counter: Counter | None = None,
    lasting: Callable[[int], bool] = lambda _: True,
) -> tuple[Split, ...]:
    """Split each current prompt into read, written and uncached tokens.

    Both sequences hold the same turns, in recorded order; `current` has None where a recorded turn is no
    longer asked for. Both sides are simulated in that order, since the order of concurrent requests is
    chance. `minimums` overrides the shortest cacheable prefix by model (tokens). Only proportions are taken
    from `counter`, so it needs no tokenizer: pass one `Memo(BuiltinCounter())` for many runs.

    What was in the cache before the recording, an earlier run had written. Earlier runs of the changed agent
    will have written its changed prefix likewise, unless that prefix differs in every process: `lasting` is
    False for a turn (by index) of which that is proved.
    """
    same = [
        now is not None and same_prompt(now.prompt, was.prompt)
        for was, now in zip(recorded, current, strict=True)
    ]
    if all(same):
        return tuple(Split(turn.tokens) for turn in recorded)
    if not any(map(touches_cache, recorded, current)):
        return tuple(map(_uncached, recorded, current))
    return Resplit(recorded, minimums or {}, counter or Memo(BuiltinCounter())).add(current, lasting)


class Resplit:
    """Both sides of a changed run, simulated as far as its turns are known.

    Turns are added in recorded order, as the tests that share a cassette ask for them: what was simulated
    stays, and each turn is simulated once.
    """

    def __init__(
        self, recorded: Sequence[RecordedTurn], minimums: Mapping[str, int], counter: Counter
    ) -> None:
        """Take the arguments of `resplit`; nothing is simulated before the first turn is added."""
        self._recorded = recorded
        self._minimums = minimums
        self._counter = counter
        self._current: list[CurrentTurn | None] = []
        self._sides: dict[Lean, _Sides] = {}
        self._changed: int | None = None  # the first turn that asks something else
        self._several: str | None = None

    @property
    def known(self) -> int:
        """How many turns were added; only turns from this one on can be."""
        return len(self._current)

    def add(self, current: Sequence[CurrentTurn | None], lasting: Callable[[int], bool]) -> tuple[Split, ...]:
        """Add turns behind those that are known, None for each that is not asked; return their splits."""
        begin = self.known
        recorded = self._recorded[begin : begin + len(current)]
        same = [
            now is not None and same_prompt(now.prompt, was.prompt)
            for was, now in zip(recorded, current, strict=True)
        ]
        if self._changed is None and False in same:
            self._changed = begin + same.index(False)
        self._current += current
        if self._several is None:
            self._several = _several_hidden(self._recorded if begin == 0 else (), current)
        splits = self._splits("first", begin, same, lasting)
        if self._several is None:
            return splits
        return _between(splits, self._splits("last", begin, same, lasting), self._several)

    def _splits(
        self, lean: Lean, begin: int, same: Sequence[bool], lasting: Callable[[int], bool]
    ) -> tuple[Split, ...]:
        if lean not in self._sides:
            recording = study(self._recorded, self._minimums, self._counter, lean)
            self._sides[lean] = _Sides(recording, self._counter, lean)
        sides = self._sides[lean]
        sides.follow(self._current, lasting)
        return tuple(
            self._split(begin + place, is_same, sides.before[begin + place], sides.after[begin + place])
            for place, is_same in enumerate(same)
        )

    def _split(self, index: int, is_same: bool, before: Outcome, after: Outcome) -> Split:
        was, now = self._recorded[index], self._current[index]
        tokens = was.tokens
        if now is None or after.chain is None or before.chain is None:
            return Split(None, None, None, before, after)
        is_unchanged = self._changed is None or index < self._changed
        if tokens is None or now.prompt_tokens is None or is_unchanged:
            return Split(tokens, None, None, before, after)
        note = _why_unknown(was, before.chain, after.chain)
        if note is None:
            return Split(_shifted(tokens, before, after, now.prompt_tokens), None, None, before, after)
        if is_same and before.read == after.read:
            return Split(tokens, None, None, before, after)
        best = _kept(tokens, now.prompt_tokens)
        return Split(_lost(best), note, best, before, after)


class _Sides:
    """A simulated recording, and the simulation of its turns as they are asked now, as far as it goes."""

    def __init__(self, recording: Recording, counter: Counter, lean: Lean) -> None:
        self.before = simulate(recording.turns, shown=recording.shown, minimums=recording.minimums)
        self.after: list[Outcome] = []
        self._recording = recording
        self._measured = CurrentSizes(recording.turns, counter, lean)
        self._cache = Cache(recording.minimums)
        self._gone: list[tuple[Chain, tuple[int, ...]]] = []  # what was warm before turns that are not asked

    def follow(self, current: Sequence[CurrentTurn | None], lasting: Callable[[int], bool]) -> None:
        """Simulate the turns of `current` that were not simulated yet."""
        begin = len(self.after)
        for index, turn in enumerate(self._measured.add(current[begin:]), begin):
            shown = self._recording.shown.get(index, Shown())
            if turn is None:
                self._gone += [shown.warm] if shown.warm else []
                self.after.append(Outcome())
                continue
            shown = self._as_at_the_start(index, shown)
            if shown.warm and lasting(index):
                shown = _carried_over(shown, turn, self._recording.minimums)
            self.after.append(self._cache.ask(index, turn, shown))

    def _as_at_the_start(self, index: int, shown: Shown) -> Shown:
        """Return `shown` with what was warm before turns that are not asked now, if this turn read it then.

        That a turn is gone takes nothing out of the cache that the run began with.
        """
        hit, its = self.before[index].hit, self._recording.turns[index].chain
        places = {
            link.key: position for position, link in enumerate(its.links[: -1 if hit is None else hit + 1])
        }
        keys = {chain.links[position].key for chain, positions in self._gone for position in positions}
        found = {places[key] for key in keys & places.keys()}
        if hit is None or not found:
            return shown
        known = shown.warm[1] if shown.warm else ()
        return replace(shown, warm=(its, tuple(sorted({*found, *known}))))


def _several_hidden(recorded: Sequence[RecordedTurn], current: Sequence[CurrentTurn | None]) -> str | None:
    """Return a sentence that names the blocks of hidden size of the first prompt that has several.

    None if no prompt has more than one.
    """
    prompts = (turn.prompt for turn in (*recorded, *current) if turn is not None)
    several = (reasons for prompt in prompts if len(reasons := hidden_sizes(prompt)) > 1)
    first = next(several, None)
    if first is None:
        return None
    return f"{len(first)} blocks of its prompt have no known size ({'; '.join(list(first.values())[:2])})"


def _between(splits: Sequence[Split], others: Sequence[Split], note: str) -> tuple[Split, ...]:
    """Join two splits of the same turns into one with bounds; what is alike in both is known."""
    joined = []
    for split, other in zip(splits, others, strict=True):
        sides = sorted(
            (tokens for one in (split, other) for tokens in (one.tokens, one.best) if tokens is not None),
            key=lambda tokens: (tokens.cache_read_input_tokens, tokens.input_tokens),
        )
        if not sides or sides[0] == sides[-1]:
            joined.append(split)
        else:
            worst = split if split.tokens == sides[0] else other
            joined.append(replace(worst, tokens=sides[0], note=split.note or note, best=sides[-1]))
    return tuple(joined)


def touches_cache(was: RecordedTurn, now: CurrentTurn | None = None) -> bool:
    """Return whether a turn reads or writes the cache, or asks for it, as recorded or now."""
    return bool(was.cached or breakpoints(was.prompt) or (now is not None and breakpoints(now.prompt)))


def _uncached(was: RecordedTurn, now: CurrentTurn | None) -> Split:
    """Return the split of a turn in a run without any cache: all of its prompt is uncached."""
    if now is None or was.tokens is None or now.prompt_tokens is None:
        return Split(was.tokens if now is not None else None)
    return Split(replace(was.tokens, input_tokens=now.prompt_tokens))


def _carried_over(shown: Shown, now: CacheTurn | None, minimums: Mapping[str, int]) -> Shown:
    """Return `shown` with the current turn's prefixes warm where the recorded turn's were.

    Only prefixes that somebody still writes count, and that are long enough to be cached: the same prefix as
    recorded is, whatever its size.
    """
    if shown.warm is None or now is None:
        return shown
    chain, positions = shown.warm
    counterparts = {position: _counterpart(chain, position, now.chain) for position in positions}
    shortest = minimum(now.chain.model, minimums)
    found = {
        p
        for position, p in counterparts.items()
        if p is not None and (now.sizes[p] >= shortest or now.chain.links[p].key == chain.links[position].key)
    }
    return replace(shown, warm=(now.chain, tuple(sorted(found))) if found else None)


def _counterpart(was: Chain, position: int, now: Chain) -> int | None:
    """Return the position on `now` that answers to `position` on `was`, or None.

    The end of a level answers to the end of that level, any other block to the same one or to the one at its
    place. A breakpoint answers only to a breakpoint, and one that conversations share to such a one: nobody
    writes a prefix whose mark is gone. It may stand on another block of a level that has as many breakpoints
    as before. Where the system prompt moved into the first message, or out of it, the last of these answers.
    """
    is_shared = position in _shared_breakpoints(was)
    answers = _shared_breakpoints(now) if is_shared else [*now.breakpoints]
    if is_shared and _has_system(was) != _has_system(now):
        return max(answers, default=None)
    block = was.links[position].block
    level = [p for p, link in enumerate(now.links) if link.block.level == block.level]
    ends_level = position + 1 == len(was.links) or was.links[position + 1].block.level != block.level
    if ends_level:
        level = level[-1:]
    else:
        level = [
            p
            for p in level
            if now.links[p].block.digest == block.digest or now.links[p].block.where == block.where
        ]
    found = [p for p in level if p in answers or position not in was.breakpoints]
    if found:
        return found[-1]
    before, after = (_breakpoints_beside(its, block) for its in (was, now))
    return after[before.index(position)] if position in before and len(before) == len(after) else None


def _breakpoints_beside(its: Chain, block: Block) -> list[int]:
    """Return the breakpoints on the level of a block; of messages, only those on its message."""
    places = ((position, its.links[position].block) for position in its.breakpoints)
    return [p for p, other in places if (other.level, other.message) == (block.level, block.message)]


def _has_system(its: Chain) -> bool:
    return any(link.block.level == "system" for link in its.links)


def _shared_breakpoints(its: Chain) -> list[int]:
    """Return the breakpoints of tools, system, and of the first message before its end: others share them."""
    return [
        position
        for position in its.breakpoints
        if its.links[position].block.level != "messages"
        or (position + 1 < len(its.links) and its.links[position + 1].block.message == 0)
    ]


def _why_unknown(was: RecordedTurn, before: Chain, now: Chain) -> str | None:
    """Return why a turn's split cannot be told, or None if it can, or if no cache touches the turn."""
    if was.cached and not before.breakpoints:
        return "the recorded answer reports a cache that the request does not ask for"
    if not was.cached and not now.breakpoints:
        return None
    return was.worked or refused(now.prompt)


def _kept(tokens: Tokens, total: int) -> Tokens:
    """Return the recorded split of a prompt that has `total` tokens now: what it grew by is uncached."""
    read = tokens.cache_read_input_tokens
    hour = read + tokens.ephemeral_1h_input_tokens
    return _divided(tokens, read, hour, hour + tokens.ephemeral_5m_input_tokens, total)


def _lost(tokens: Tokens) -> Tokens:
    """Return a split that reads nothing: what was read is written, for an hour where all writes are."""
    read, hour = tokens.cache_read_input_tokens, tokens.ephemeral_1h_input_tokens
    if hour and not tokens.ephemeral_5m_input_tokens:
        return replace(tokens, cache_read_input_tokens=0, ephemeral_1h_input_tokens=hour + read)
    written = tokens.ephemeral_5m_input_tokens + read
    return replace(tokens, cache_read_input_tokens=0, ephemeral_5m_input_tokens=written)


def _shifted(tokens: Tokens, was: Outcome, now: Outcome, total: int) -> Tokens:
    """Return the recorded split of a prompt of `total` tokens, each boundary moved as it moves in simulation.

    The boundaries are the ends of what is read, then written for an hour, then for five minutes. What is no
    longer read or written is 0, whatever the recorded side was off by.
    """
    read = tokens.cache_read_input_tokens
    hour = read + tokens.ephemeral_1h_input_tokens
    last = hour + tokens.ephemeral_5m_input_tokens
    read = 0 if was.read and not now.read else read + now.read - was.read
    hour = read if was.written_1h and not now.written_1h else hour + now.through_1h - was.through_1h
    last = hour if was.written_5m and not now.written_5m else last + now.through_5m - was.through_5m
    return _divided(tokens, read, hour, last, total)


def _divided(tokens: Tokens, read: int, hour: int, last: int, total: int) -> Tokens:
    """Return `tokens` with a prompt of `total` tokens, divided where reads, 1h writes and 5m writes end."""
    read = min(max(read, 0), total)
    hour = min(max(hour, read), total)
    last = min(max(last, hour), total)
    return replace(
        tokens,
        input_tokens=total - last,
        ephemeral_5m_input_tokens=last - hour,
        ephemeral_1h_input_tokens=hour - read,
        cache_read_input_tokens=read,
    )


_BlockSizes = Mapping[tuple[Family, str], int]
"""Tokens of blocks by tokenizer and content, without what tools add beside them. Negative where a recording
has less than that."""


@dataclass(frozen=True, slots=True)
class CurrentTurn:
    """The request that a recorded turn answers now."""

    prompt: Prompt
    prompt_tokens: int | None
    """Tokens of the whole prompt; None where they cannot be counted."""
    parts: tuple[Part, ...] = ()
    """The difference to what was recorded, by block."""
    equal: bool = False
    """Whether it is the recorded prompt as JSON, in any order of keys: each block keeps its recorded size."""


class CurrentSizes:
    """Measures the turns as they are asked now, each beside the recorded one that answers it.

    A prefix that was measured once keeps its size.
    """

    def __init__(self, recorded: Sequence[CacheTurn], counter: Counter, lean: Lean = "first") -> None:
        """Take the measured recording; `lean` says which hidden blocks are the largest."""
        self._recorded = recorded
        self._counter = counter
        self._lean: Lean = lean
        self._known = 0
        self._prefixes: dict[str, int] = {}
        for turn in recorded:
            for link, size in zip(turn.chain.links, turn.sizes, strict=True):
                self._prefixes.setdefault(link.key, size)
        self._blocks = [_block_sizes(turn) for turn in recorded]
        self._anywhere = {key: size for sizes in reversed(self._blocks) for key, size in sizes.items()}

    def add(self, current: Sequence[CurrentTurn | None]) -> list[CacheTurn | None]:
        """Return the next turns, measured.

        None stands for a turn that is not asked. An unchanged turn is the recorded one. A turn whose prompt
        tokens are unknown is measured by its weights, so that it can keep its place.
        """
        begin, self._known = self._known, self._known + len(current)
        turns: list[CacheTurn | None] = [None] * len(current)
        asked: dict[int, Unsized] = {}
        for place, now in enumerate(current):
            was = self._recorded[begin + place]
            if now is None:
                continue
            if same_prompt(now.prompt, was.chain.prompt):
                turns[place] = was
                continue
            its = chain(now.prompt)
            if now.equal and len(its.links) == len(was.sizes):
                turns[place] = replace(was, chain=its)
                self._learn(its, was.sizes)
                continue
            total = now.prompt_tokens
            if its.links and was.sizes and total is not None:
                after = was.total - was.sizes[-1]
                self._prefixes.setdefault(its.links[-1].key, max(total - after, 0))
            sizes = ChainMap(self._blocks[begin + place], self._anywhere)
            asked[place] = Unsized(its, total, _weights(its, now.parts, sizes, self._counter, self._lean))
        measured = prefix_sizes(list(asked.values()), self._prefixes)
        for (place, unsized), sizes_now in zip(asked.items(), measured, strict=True):
            total, was = unsized.whole(sizes_now), self._recorded[begin + place]
            turns[place] = replace(was, chain=unsized.chain, sizes=sizes_now, total=total)
            self._learn(unsized.chain, sizes_now)
        return turns

    def _learn(self, its: Chain, sizes: Sequence[int]) -> None:
        for link, size in zip(its.links, sizes, strict=True):
            self._prefixes.setdefault(link.key, size)


def beside_blocks(its: Chain) -> dict[int, int]:
    """Return the tokens that tools add beside their definitions, by the position that they are counted to.

    They stand before the tools and after the system prompt: before the first message.
    """
    whole, late = tool_prompt(its.prompt)
    if not whole or not its.links:
        return {}
    first = next((p for p, link in enumerate(its.links) if link.block.level == "messages"), None)
    if first == 0:
        return {0: whole}
    return {0: whole - late} | ({} if first is None else {first: late})


def _block_sizes(turn: CacheTurn) -> dict[tuple[Family, str], int]:
    """Return the tokens of the blocks of a recorded turn."""
    family, beside = model_row(turn.chain.prompt.model).family, beside_blocks(turn.chain)
    sizes: dict[tuple[Family, str], int] = {}
    begin = 0
    for position, (link, end) in enumerate(zip(turn.chain.links, turn.sizes, strict=True)):
        sizes.setdefault((family, link.digest), end - begin - beside.get(position, 0))
        begin = end
    return sizes


def _weights(
    its: Chain, parts: Sequence[Part], blocks: _BlockSizes, counter: Counter, lean: Lean
) -> tuple[Weight, ...]:
    """Return by position the recorded size of a block, else what was counted, else a cheap weight."""
    family, beside = model_row(its.prompt.model).family, beside_blocks(its)
    counted = {part.now.where: part for part in parts if part.now is not None}
    weights: list[Weight | None] = []
    for position, link in enumerate(its.links):
        added = beside.get(position, 0)
        part = counted.get(link.block.where)
        size = blocks.get((family, link.digest))
        before = blocks.get((family, part.was.digest)) if part and part.was else 0
        if size is not None:
            weights.append(Weight(fixed=max(size + added, 0)))
        elif part is not None and before is not None:
            size_now = before + part.tokens
            weights.append(Weight(max(added + min(size_now, 0), 0), max(size_now, 0)))
        else:
            weights.append(None)
    if None not in weights:
        return tuple(weight for weight in weights if weight)
    cheap = cheap_weights(its, counter, lean)
    return tuple(weight or cheap[position] for position, weight in enumerate(weights))


@dataclass(frozen=True, slots=True)
class Weight:
    """What one block takes of a known total: a size that is kept, and a share of what the others leave."""

    fixed: float = 0.0
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Unsized:
    """One turn whose prefixes are to be measured."""

    chain: Chain
    total: int | None
    """Tokens of the whole prompt; None where they are not known: the weights are then taken as sizes."""
    weights: Sequence[Weight]
    """One weight a block, by position."""

    def whole(self, sizes: tuple[int, ...]) -> int:
        """Return the tokens of the whole prompt; where no total is known, by the `sizes` of its prefixes."""
        if self.total is not None:
            return self.total
        return (sizes[-1] if sizes else 0) + after_last_block(self.chain.prompt)


def cheap_weights(chain: Chain, counter: Counter, lean: Lean = "first") -> tuple[Weight, ...]:
    """Return one weight by position, to share out a known total; no tokenizer is loaded.

    What tools add after the system prompt is counted to the first message. A block whose size is hidden takes
    what the others leave: of several the first or the last, as `lean` says.
    """
    shares = block_weights(chain.prompt, counter)
    weights = [Weight(share=shares[link.index]) for link in chain.links]
    if beside := beside_blocks(chain):
        weights[0] = Weight(share=max(weights[0].share - model_row(chain.prompt.model).tools, 0.0))
        weights = [replace(weight, fixed=beside.get(place, 0)) for place, weight in enumerate(weights)]
    hidden = hidden_sizes(chain.prompt)
    places = [position for position, link in enumerate(chain.links) if link.index in hidden]
    if not places:
        return tuple(weights)
    shared = {p: _SLIGHT**n for n, p in enumerate(places if lean == "first" else reversed(places))}
    return tuple(
        Weight(weight.fixed, max(weight.share, 1.0) * shared[position])
        if position in shared
        else Weight(weight.fixed + weight.share)
        for position, weight in enumerate(weights)
    )


def prefix_sizes(turns: Sequence[Unsized], exact: Mapping[str, int]) -> tuple[tuple[int, ...], ...]:
    """Return by turn and position the tokens of the prefix that ends there.

    Sizes never decrease and never exceed the total. `exact` holds known sizes by key of the prefix. Linear in
    the blocks of all turns.
    """
    sizes = dict(exact)
    for turn in turns:
        if turn.chain.links and turn.total is not None:
            end = max(turn.total - after_last_block(turn.chain.prompt), 0)
            sizes.setdefault(turn.chain.links[-1].key, end)
    measured: dict[int, tuple[int, ...]] = {}
    for index in sorted(range(len(turns)), key=lambda index: turns[index].total is None):
        measured[index] = _between_known(turns[index], sizes)
        for link, size in zip(turns[index].chain.links, measured[index], strict=True):
            sizes.setdefault(link.key, size)
    return tuple(measured[index] for index in range(len(turns)))


def _between_known(turn: Unsized, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the sizes of one turn's prefixes; a known size that contradicts a later one is passed over."""
    known: list[tuple[int, int]] = []
    limit = turn.total
    for position in reversed(range(len(turn.chain.links))):
        size = sizes.get(turn.chain.links[position].key)
        if size is not None and (limit is None or size <= limit):
            known.append((position, size))
            limit = size
    measured: list[int] = []
    begin = 0
    for position, end in reversed(known):
        measured += _shared_out(begin, end, turn.weights[len(measured) : position + 1])
        begin = end
    rest = turn.weights[len(measured) :]
    end = turn.total if turn.total is not None else begin + round(sum(w.fixed + w.share for w in rest))
    return (*measured, *_shared_out(begin, end, rest))


def _shared_out(begin: int, end: int, weights: Sequence[Weight]) -> list[int]:
    """Return the prefix sizes after each of `weights`, from `begin` to `end`; fixed ones stay if they fit."""
    fixed = sum(weight.fixed for weight in weights)
    shares = sum(weight.share for weight in weights)
    room = end - begin
    if not weights:
        return []
    if shares > 0 and fixed <= room:
        parts = [weight.fixed + weight.share * (room - fixed) / shares for weight in weights]
    elif fixed + shares > 0:
        parts = [(weight.fixed + weight.share) * room / (fixed + shares) for weight in weights]
    else:
        parts = [room / len(weights)] * len(weights)
    sizes = []
    reached = float(begin)
    for part in parts:
        reached += part
        sizes.append(min(round(reached), end))
    sizes[-1] = end
    return sizes


ForeignReads = Mapping[Rate, Mapping[str, int]]
"""Tokens by rate, then by the lifetime for which the run would have written them (`5m`, `1h`); never 0."""

SAME_START = 0.05
"""Up to which part of the larger one two amounts of foreign reads are the same start."""


def foreign_reads(
    turns: Sequence[RecordedTurn], *, minimums: Mapping[str, int], counter: Counter
) -> tuple[Mapping[str, int], ...]:
    """Return by turn, and then by lifetime (`5m`, `1h`), the tokens it read that the run had not cached.

    A turn that reads R tokens, of which the run had written or read W before, has R - W. The breakpoints of
    its request tell for which lifetime. The size of a prefix between those that answers report is shared out
    by `counter`. `minimums` overrides the shortest cacheable prefix by model (tokens).

    The rounds of a server tool are billed in one sum, which holds the prefix of the request once for each
    round. At most that prefix is foreign, once, and none of it where the turn wrote as much itself. What the
    rounds wrote after it belongs to the run, for its later turns.
    """
    if not any(turn.tokens and turn.tokens.cache_read_input_tokens for turn in turns):
        return tuple({} for _ in turns)  # a cold start: nothing is laid out
    recording = study(turns, minimums, counter)
    filled = _Filled()
    foreign = []
    for turn, laid_out in zip(turns, recording.turns, strict=True):
        tokens = turn.tokens or Tokens()
        shortest = minimum(laid_out.chain.model, recording.minimums)
        if turn.worked is not None:
            shortest = 0  # what its rounds add may make a short prefix long enough
        marks = [p for p in laid_out.chain.breakpoints if laid_out.sizes[p] >= shortest]
        foreign.append(_of_turn(turn, laid_out, filled) if tokens.cache_read_input_tokens and marks else {})
        if turn.cached and marks:
            filled.add(turn, laid_out, marks)
    return tuple(foreign)


@dataclass(slots=True)
class _Filled:
    """The prefixes that the turns of a run so far read or wrote."""

    began: dict[str, list[datetime | None]] = field(default_factory=dict)
    """By key of the prefix: when the answers of the turns that read or wrote it began."""
    exact: dict[str, int] = field(default_factory=dict)
    """Sizes that answers report, by key of the prefix; with what server tools may have written after it."""

    def add(self, turn: RecordedTurn, laid_out: CacheTurn, marks: Sequence[int]) -> None:
        """Enter what `turn` read or wrote; `marks` are its breakpoints that are long enough."""
        tokens, links = turn.tokens or Tokens(), laid_out.chain.links
        read = [p for p, size in enumerate(laid_out.sizes) if size == tokens.cache_read_input_tokens]
        for position in {*marks, *read}:
            self.began.setdefault(links[position].key, []).append(turn.began)
        last = turn.cached
        if turn.worked is not None:  # its rounds write on, behind the prompt that it was sent
            last = laid_out.sizes[marks[-1]] + tokens.cache_creation_input_tokens
        self.exact.setdefault(links[marks[-1]].key, last)

    def longest(self, turn: RecordedTurn, laid_out: CacheTurn, read: int) -> int:
        """Return how many of the `read` tokens of a turn the run itself had put into the cache."""
        sizes = [
            self.exact.get(link.key, size)
            for link, size in zip(laid_out.chain.links, laid_out.sizes, strict=True)
            if any(_begun(began, turn.sent) for began in self.began.get(link.key, ()))
        ]
        if not turn.tells and any(abs(size - read) <= CLOSE * read for size in sizes):
            return read
        return min(max(sizes, default=0), read)


def _begun(began: datetime | None, sent: datetime | None) -> bool:
    """Return whether an answer had begun when a request was sent; True where a time is unknown."""
    return began is None or sent is None or began <= sent


def _of_turn(turn: RecordedTurn, laid_out: CacheTurn, filled: _Filled) -> dict[str, int]:
    tokens, marks = turn.tokens or Tokens(), laid_out.chain.breakpoints
    read = tokens.cache_read_input_tokens
    if turn.worked is not None:
        read = min(read, laid_out.sizes[max(marks)])
    own = filled.longest(turn, laid_out, read)
    if turn.worked is not None and tokens.cache_creation_input_tokens >= read - own:
        return {}
    last_hour = max((laid_out.sizes[p] for p, ttl in marks.items() if ttl == "1h"), default=0)
    if "5m" not in marks.values():
        last_hour = read
    hour = min(max(last_hour, own), read) - own
    by_ttl = {"5m": read - own - hour, "1h": hour}
    return {ttl: amount for ttl, amount in by_ttl.items() if amount}


def by_rate(foreign: Iterable[tuple[Rate, Mapping[str, int]]]) -> ForeignReads:
    """Add up the foreign reads of turns, by rate and lifetime."""
    sums: dict[Rate, dict[str, int]] = {}
    for rate, amounts in foreign:
        for ttl, amount in amounts.items():
            of_rate = sums.setdefault(rate, {})
            of_rate[ttl] = of_rate.get(ttl, 0) + amount
    return sums


def same_start(one: ForeignReads, other: ForeignReads) -> bool:
    """Return whether two runs began with the same cache: foreign reads at most `SAME_START` apart."""
    return all(
        abs(a - b) <= SAME_START * max(a, b)
        for rate in one.keys() | other.keys()
        for ttl in ("5m", "1h")
        for a, b in [(one.get(rate, {}).get(ttl, 0), other.get(rate, {}).get(ttl, 0))]
    )


def as_written(usage: Usage, foreign: ForeignReads) -> Usage:
    """Return the usage as it is on an empty cache, with foreign reads as writes."""
    return Usage(
        usage.turns,
        {rate: _as_written(tokens, foreign.get(rate, {})) for rate, tokens in usage.by_rate.items()},
    )


def least_warm(usage: Usage, foreign: ForeignReads) -> Usage:
    """Return the least that a run bills whose prefix is in the cache already, from its turns' sum alone.

    Which turn wrote the prefix is not known then: all that a model wrote is taken as read, unless the model
    has `foreign` reads and so began warm. It is exact for a run of one turn, and one that wrote nothing.
    """
    began_warm = {rate.model for rate, amounts in foreign.items() if any(amounts.values())}
    return Usage(
        usage.turns,
        {
            rate: tokens if rate.model in began_warm else _as_read(tokens)
            for rate, tokens in usage.by_rate.items()
        },
    )


def as_warm(turns: Iterable[Usage]) -> Usage:
    """Return what the turns of a run bill together where their prefix is in the cache already.

    The first turn of a model that caches anything reads what it wrote, if it read nothing: each model has its
    own cache. Where a breakpoint stands behind the first question, that is taken for a part of the prefix.
    """
    total, seen = Usage(), set[str]()
    for usage in turns:
        tokens, rate = usage.main_tokens, usage.main_rate
        written, read = tokens.cache_creation_input_tokens, tokens.cache_read_input_tokens
        if rate.model not in seen and (written or read):
            seen.add(rate.model)
            if not read:
                usage = usage.with_main(rate, _as_read(tokens))
        total += usage
    return total


def _as_read(tokens: Tokens) -> Tokens:
    """Return tokens with what was written to the cache as read from it."""
    return replace(
        tokens,
        ephemeral_5m_input_tokens=0,
        ephemeral_1h_input_tokens=0,
        cache_read_input_tokens=tokens.cache_read_input_tokens + tokens.cache_creation_input_tokens,
    )


def _as_written(tokens: Tokens, amounts: Mapping[str, int]) -> Tokens:
    hour = min(amounts.get("1h", 0), tokens.cache_read_input_tokens)
    short = min(amounts.get("5m", 0), tokens.cache_read_input_tokens - hour)
    return replace(
        tokens,
        cache_read_input_tokens=tokens.cache_read_input_tokens - hour - short,
        ephemeral_1h_input_tokens=tokens.ephemeral_1h_input_tokens + hour,
        ephemeral_5m_input_tokens=tokens.ephemeral_5m_input_tokens + short,
    )
