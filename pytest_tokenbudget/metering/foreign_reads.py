"""Find the foreign reads of a run: what its turns read from the prompt cache and the run had not put there.

They tell from which start a run was measured. Whoever recorded a minute before, or another test of the same
recording session, had filled the cache; that is no doing of the agent. Two recordings are compared with the
foreign reads of both taken as writes, which is what they cost on an empty cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from pytest_tokenbudget.metering.cache_rules import minimum
from pytest_tokenbudget.metering.cache_split import CLOSE, RecordedTurn, study
from pytest_tokenbudget.metering.counting import Counter
from pytest_tokenbudget.metering.prompt_cache import CacheTurn
from pytest_tokenbudget.model import Rate, Tokens, Usage

ForeignReads = Mapping[Rate, Mapping[str, int]]
"""Tokens by rate, then by the lifetime for which the run would have written them (`5m`, `1h`); none is 0."""

SAME_START = 0.05
"""Up to which part of the larger one two amounts of foreign reads are the same start."""


def foreign_reads(
    turns: Sequence[RecordedTurn], *, minimums: Mapping[str, int], counter: Counter
) -> tuple[Mapping[str, int], ...]:
    """Return by turn the tokens that it read and no turn of the run had read or written before, by ttl.

    A turn that reads R tokens, of which the run had written or read W before, has R - W. What it read for
    which ttl is told by the breakpoints of its request. The size of a prefix between those that answers
    report is shared out by `counter`. `minimums` overrides the shortest cacheable prefix by model.

    The rounds of a server tool are billed in one sum, which holds the prefix of the request once a round: at
    most that prefix is foreign, once, and none of it where the turn wrote as much itself. What the rounds
    wrote behind it is the run's own to later turns.
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
    """By key of the prefix: when the answers began of the turns that read or wrote it."""
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
        """Return how many of the `read` tokens of a turn were there by the run's own doing."""
        sizes = [
            self.exact.get(link.key, size)
            for link, size in zip(laid_out.chain.links, laid_out.sizes, strict=True)
            if any(_begun(began, turn.sent) for began in self.began.get(link.key, ()))
        ]
        if not turn.tells and any(abs(size - read) <= CLOSE * read for size in sizes):
            return read
        return min(max(sizes, default=0), read)


def _begun(began: datetime | None, sent: datetime | None) -> bool:
    """Whether an answer had begun when a request was sent; it had where nobody tells."""
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
    """Add up the foreign reads of turns."""
    sums: dict[Rate, dict[str, int]] = {}
    for rate, amounts in foreign:
        for ttl, amount in amounts.items():
            of_rate = sums.setdefault(rate, {})
            of_rate[ttl] = of_rate.get(ttl, 0) + amount
    return sums


def same_start(one: ForeignReads, other: ForeignReads) -> bool:
    """Whether two runs began with the same cache: their foreign reads differ by at most `SAME_START`."""
    return all(
        abs(a - b) <= SAME_START * max(a, b)
        for rate in one.keys() | other.keys()
        for ttl in ("5m", "1h")
        for a, b in [(one.get(rate, {}).get(ttl, 0), other.get(rate, {}).get(ttl, 0))]
    )


def as_written(usage: Usage, foreign: ForeignReads) -> Usage:
    """Return the usage as it is on an empty cache: foreign reads are writes."""
    return Usage(
        usage.turns,
        {rate: _as_written(tokens, foreign.get(rate, {})) for rate, tokens in usage.by_rate.items()},
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
