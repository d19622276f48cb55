"""Lay a run out for levers: its turns, the tokens of every prefix, and what each token was billed as."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import accumulate

from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.diagnosis.costs import Ledger
from pytest_tokenbudget.diagnosis.prompt_parts import opening_of, text_of
from pytest_tokenbudget.metering.cache_rules import hidden_sizes
from pytest_tokenbudget.metering.cache_split import Unsized, Weight, beside_blocks, prefix_sizes
from pytest_tokenbudget.metering.counting import BuiltinCounter
from pytest_tokenbudget.metering.meter import Run, Turn
from pytest_tokenbudget.metering.models import Family, model_row
from pytest_tokenbudget.metering.prompt_cache import CacheTurn, Chain, Link, chain
from pytest_tokenbudget.model import Basis, Rate, Tokens, Usage
from pytest_tokenbudget.wire.prompt import Prompt
from pytest_tokenbudget.wording import dollars

_FRAME, _PICTURE = 4, 1500
"""Rough tokens around a block, and of a picture: only proportions count."""
READ_TO_UNCACHED = (
    "cache_read_input_tokens",
    "ephemeral_1h_input_tokens",
    "ephemeral_5m_input_tokens",
    "input_tokens",
)
"""The counts of a prompt, in the order in which its tokens are billed: what is read stands first."""


@dataclass(frozen=True)
class Asked:
    """One measured turn of the run."""

    index: int
    """Index among the run's turns."""
    turn: Turn
    cached: CacheTurn

    @property
    def chain(self) -> Chain:
        """Its prompt as a chain of prefixes."""
        return self.cached.chain

    @property
    def prompt(self) -> Prompt:
        """The prompt that it sends now."""
        return self.turn.pair.request.prompt

    @cached_property
    def rate(self) -> Rate:
        """Return the rate that the request itself is billed at."""
        return self.turn.usage.main_rate

    @cached_property
    def tokens(self) -> Tokens:
        """Return what the request itself bills, at its main rate."""
        return self.turn.usage.main_tokens

    @cached_property
    def sizes(self) -> list[int]:
        """Tokens of each block, by position."""
        ends = self.cached.sizes
        return [end - begin for begin, end in zip((0, *ends), ends, strict=False)]

    @cached_property
    def counts(self) -> list[str]:
        """The count of `Tokens` that most of each block was billed as, by position."""
        edges = list(accumulate(getattr(self.tokens, name) for name in READ_TO_UNCACHED[:3]))
        ends = self.cached.sizes
        middles = ((begin + end) / 2 for begin, end in zip((0, *ends), ends, strict=False))
        return [READ_TO_UNCACHED[bisect_right(edges, middle)] for middle in middles]

    @cached_property
    def head(self) -> int:
        """Tokens of tools and system."""
        sizes = zip(self.sizes, self.chain.links, strict=True)
        return sum(size for size, link in sizes if link.block.level != "messages")


@dataclass(frozen=True)
class LaidOut:
    """The turns that can be counted, in order, with prices."""

    asked: tuple[Asked, ...]
    cost_of: CostOf
    runs_per_month: int | None = None

    @cached_property
    def ledger(self) -> Ledger:
        """Unit prices."""
        return Ledger(self.cost_of)

    @cached_property
    def cost(self) -> Decimal | None:
        """Dollars of a run."""
        return self.cost_of(sum((one.turn.usage for one in self.asked), Usage()))

    @cached_property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all turns."""
        return sum(one.tokens.prompt_tokens for one in self.asked)

    @cached_property
    def conversations(self) -> dict[str, list[Asked]]:
        """Turns by the conversation that they continue."""
        found: dict[str, list[Asked]] = {}
        for one in self.asked:
            found.setdefault(opening_of(one.prompt), []).append(one)
        return found

    def unit(self, one: Asked, count: str) -> Decimal | None:
        """Return the dollars of a token that a turn bills as `count`, or None if unknown."""
        return self.ledger.unit(one.rate, count)

    def saving(self, amount: Decimal) -> str:
        """Return dollars in words: `$0.0120 a run, $12.00 a month`."""
        month = f", {dollars(amount * self.runs_per_month)} a month" if self.runs_per_month else ""
        return f"{dollars(amount)} a run{month}"


def lay_out(run: Run, cost: CostOf, *, runs_per_month: int | None = None) -> LaidOut:
    """Measure every prefix of what a run asks now; turns that cannot be counted are left out.

    Nothing is laid out of a run that was not measured, since its numbers answer another question.
    """
    if not run.is_measured:
        return LaidOut((), cost, runs_per_month)
    known = [
        (index, turn, _chain_of(turn))
        for index, turn in enumerate(run.turns)
        if turn.basis != Basis.UNKNOWN and turn.usage.by_rate
    ]
    weights = _Weights()
    exact: dict[str, int] = {}
    for _, turn, its in known:
        tokens = turn.usage.main_tokens
        cached = tokens.prompt_tokens - tokens.input_tokens
        if cached and its.breakpoints and not hidden_sizes(its.prompt):
            exact.setdefault(its.links[max(its.breakpoints)].key, cached)
    unsized = [Unsized(its, turn.usage.main_tokens.prompt_tokens, weights.of(its)) for _, turn, its in known]
    sizes = prefix_sizes(unsized, exact)
    asked = (
        Asked(index, turn, _cache_turn(turn, its, ends))
        for (index, turn, its), ends in zip(known, sizes, strict=True)
    )
    return LaidOut(tuple(asked), cost, runs_per_month)


def _chain_of(turn: Turn) -> Chain:
    """Return the chain of a turn's prompt, from the simulation if there was one."""
    simulated = turn.cache_now.chain if turn.cache_now else None
    return simulated or chain(turn.pair.request.prompt)


def _cache_turn(turn: Turn, its: Chain, ends: tuple[int, ...]) -> CacheTurn:
    answer = turn.pair.answer
    return CacheTurn(its, ends, turn.usage.main_tokens.prompt_tokens, answer.date, answer.sent)


class _Weights:
    """Weighs blocks for sharing out a known total: each is counted once, however many turns send it."""

    def __init__(self) -> None:
        self._counter = BuiltinCounter()
        self._shares: dict[tuple[Family, str], int] = {}

    def of(self, its: Chain) -> list[Weight]:
        """Return one weight for each block of a chain, by position."""
        family = model_row(its.prompt.model).family
        beside = beside_blocks(its)
        return [
            Weight(beside.get(position, 0), self._share(link, family))
            for position, link in enumerate(its.links)
        ]

    def _share(self, link: Link, family: Family) -> int:
        key = (family, link.digest)
        if key not in self._shares:
            picture = link.block.kind in ("image", "document")
            tokens = _PICTURE if picture else self._counter.count(text_of(link.block), family)
            self._shares[key] = _FRAME + tokens
        return self._shares[key]
