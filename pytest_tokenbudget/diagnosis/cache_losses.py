"""What each turn no longer reads from the cache, or no longer caches, beside its recording."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_tokenbudget.diagnosis.places import text_of
from pytest_tokenbudget.metering.cache_chain import Chain, chain
from pytest_tokenbudget.metering.prompt_cache import Outcome
from pytest_tokenbudget.metering.run import Run, Turn
from pytest_tokenbudget.model import Basis, Tokens
from pytest_tokenbudget.sequences import common_prefix
from pytest_tokenbudget.wire.prompt import LEVELS, Block, Level, Prompt

_NUMBERS = re.compile(r"\[(\d+)\]")
_NOISE, _SHARE = 16, 0.02
"""Tokens, and share of what was cached, below which a difference is that of sizes, not of the cache."""

Rank = tuple[int, ...]
"""Where a block stands in the chain: level, then its numbers."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One turn that the cache serves less than it did when recorded."""

    turn: int
    source: int | None
    """The turn whose cached prefix it read when recorded; None where that was cached before the run."""
    recorded: Chain
    now: Chain
    reference: Chain
    """What its prefix had to begin with: what `source` asks now; without one, what was recorded."""
    before: Chain
    """What `source` asked when recorded; without one, the recorded chain itself."""
    warm: bool
    """Whether it read more when recorded than a turn of the run had cached."""
    reads: int
    """Tokens that were read and no longer are, what grew or shrank in that prefix allowed for."""
    cached: int
    """Tokens that were read or written and no longer are."""
    now_cached: int
    """Tokens that are read or written now."""

    @property
    def tokens(self) -> int:
        """What was read and no longer is; else what was cached and no longer is."""
        return self.reads or self.cached


class Chains:
    """The recorded and the new prompts of a run as chains, each laid out once, when it is asked for."""

    def __init__(self, run: Run) -> None:
        self._turns = run.turns
        self._chains: dict[tuple[bool, int], Chain] = {}

    def recorded(self, turn: int) -> Chain:
        """Of the recorded request of a turn."""
        its = self._turns[turn]
        return self._chain((False, turn), its.cache_before, its.pair.recorded.prompt)

    def now(self, turn: int) -> Chain:
        """Of what a turn asks now."""
        its = self._turns[turn]
        same = its.pair.recorded.prompt is its.pair.request.prompt
        return (
            self.recorded(turn) if same else self._chain((True, turn), its.cache_now, its.pair.request.prompt)
        )

    def _chain(self, key: tuple[bool, int], simulated: Outcome | None, prompt: Prompt) -> Chain:
        if key not in self._chains:
            self._chains[key] = simulated.chain if simulated and simulated.chain else chain(prompt)
        return self._chains[key]


def losses(run: Run, chains: Chains) -> Iterator[Loss]:
    """The turns that lost something, in order; nothing is laid out when no turn's split changed."""
    if not any(_may_lose(turn) for turn in run.turns):
        return
    written: dict[str, int] = {}
    for index, turn in enumerate(run.turns):
        if _may_lose(turn):
            found = _loss(index, turn, chains, written)
            if found.tokens:
                yield found
        recorded = chains.recorded(index)
        written.update((recorded.links[position].text, index) for position in recorded.breakpoints)


def _may_lose(turn: Turn) -> bool:
    """Whether the turn's tokens leave room for a loss, wherever in the prompt it grew."""
    if turn.recorded is None or turn.basis == Basis.UNKNOWN or turn.cache_note:
        return False
    was, now = turn.recorded.main_tokens, turn.usage.main_tokens
    grown = sum(part.tokens for part in turn.estimate.parts if part.tokens > 0)
    reads = was.cache_read_input_tokens - now.cache_read_input_tokens + grown
    cached = _served(was) - _served(now) + grown
    return bool(_beyond_noise(reads, was.cache_read_input_tokens) or _beyond_noise(cached, _served(was)))


def _served(tokens: Tokens) -> int:
    """Read or written."""
    return tokens.prompt_tokens - tokens.input_tokens


def _loss(index: int, turn: Turn, chains: Chains, written: Mapping[str, int]) -> Loss:
    assert turn.recorded is not None
    was, now = turn.recorded.main_tokens, turn.usage.main_tokens
    recorded = chains.recorded(index)
    end = max(recorded.breakpoints, default=len(recorded.links) - 1)
    hit, source, warm = _recorded_read(turn, recorded, end, was, written)
    reads = was.cache_read_input_tokens - now.cache_read_input_tokens
    cached = _served(was) - _served(now)
    return Loss(
        turn=index,
        source=source,
        recorded=recorded,
        now=chains.now(index),
        reference=recorded if source is None else chains.now(source),
        before=recorded if source is None else chains.recorded(source),
        warm=warm,
        reads=_beyond_noise(reads + _grown(turn, recorded, hit), was.cache_read_input_tokens),
        cached=_beyond_noise(cached + _grown(turn, recorded, end), _served(was)),
        now_cached=_served(now),
    )


def _recorded_read(
    turn: Turn, recorded: Chain, end: int, was: Tokens, written: Mapping[str, int]
) -> tuple[int, int | None, bool]:
    """Where the recorded read ended, the turn that had cached most of it, and whether that was not all."""
    if not was.cache_read_input_tokens:
        return -1, None, False
    entries = [p for p in range(end + 1) if recorded.links[p].text in written]
    if turn.cache_before and turn.cache_before.hit is not None:
        hit = turn.cache_before.hit
        entries = [p for p in entries if p <= hit]
    else:
        hit = entries[-1] if entries else _position(recorded, was.cache_read_input_tokens, end, _served(was))
    source = written[recorded.links[entries[-1]].text] if entries else None
    return hit, source, not entries or entries[-1] < hit


def _position(recorded: Chain, read: int, end: int, cached: int) -> int:
    """Where a read that no turn of the run wrote probably ended, by the sizes of the texts."""
    if read >= cached:
        return end
    sizes = [len(text_of(link.block)) for link in recorded.links[: end + 1]]
    wanted, reached = sum(sizes) * read / cached, 0
    for position, size in enumerate(sizes):
        reached += size
        if reached >= wanted:
            return position
    return end


def _grown(turn: Turn, recorded: Chain, end: int) -> int:
    """By how much the prefix that ends at `end` of the recorded chain grew."""
    if not 0 <= end < len(recorded.links):
        return 0
    limit = rank(recorded.links[end].block)
    blocks = ((part.was or part.now, part.tokens) for part in turn.estimate.parts)
    return sum(tokens for block, tokens in blocks if block is not None and rank(block) <= limit)


def _beyond_noise(lost: int, base: int) -> int:
    return lost if base and lost > max(_NOISE, _SHARE * base) else 0


def rank(block: Block) -> Rank:
    """Blocks of one prompt are in the order of their ranks."""
    return LEVELS.index(block.level), *map(int, _NUMBERS.findall(block.where))


def shared(one: Chain, other: Chain) -> int:
    """Return how many blocks two chains begin with alike."""
    return common_prefix([link.text for link in one.links], [link.text for link in other.links])


def count_of(blocks: Sequence[Block], level: Level) -> int:
    """How many tools or system blocks there are; of messages, how many messages."""
    if level == "messages":
        return blocks[-1].message + 1 if blocks and blocks[-1].message is not None else 0
    return sum(block.level == level for block in blocks)
