"""A run as levers look at it: its turns, the tokens of every prefix, and what each token was billed as."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import accumulate

from pytest_tokenbudget.budget.compare import CostOf
from pytest_tokenbudget.diagnosis.ledger import Ledger, main_rate
from pytest_tokenbudget.diagnosis.places import opening_of
from pytest_tokenbudget.diagnosis.wording import dollars
from pytest_tokenbudget.metering.builtin_counter import BuiltinCounter
from pytest_tokenbudget.metering.cache_chain import Chain
from pytest_tokenbudget.metering.cache_recording import RecordedTurn, study
from pytest_tokenbudget.metering.counting import Memo
from pytest_tokenbudget.metering.prompt_cache import CacheTurn
from pytest_tokenbudget.metering.run import Run, Turn
from pytest_tokenbudget.model import Basis, Tokens, Usage
from pytest_tokenbudget.wire.prompt import Prompt

_READ_TO_UNCACHED = (
    "cache_read_input_tokens",
    "ephemeral_1h_input_tokens",
    "ephemeral_5m_input_tokens",
    "input_tokens",
)


@dataclass(frozen=True)
class Asked:
    """One measured turn of the run."""

    index: int
    """Among the run's turns."""
    turn: Turn
    cached: CacheTurn

    @property
    def chain(self) -> Chain:
        """Its prompt as a chain of prefixes."""
        return self.cached.chain

    @property
    def prompt(self) -> Prompt:
        """What it asks now."""
        return self.turn.pair.request.prompt

    @cached_property
    def tokens(self) -> Tokens:
        """What it bills at its main rate."""
        return self.turn.usage.by_rate.get(main_rate(self.turn.usage), Tokens())

    @cached_property
    def sizes(self) -> list[int]:
        """Tokens of each block, by position."""
        ends = self.cached.sizes
        return [end - begin for begin, end in zip((0, *ends), ends, strict=False)]

    @cached_property
    def counts(self) -> list[str]:
        """By position: the count that most of the block was billed as."""
        edges = list(accumulate(getattr(self.tokens, name) for name in _READ_TO_UNCACHED[:3]))
        ends = self.cached.sizes
        middles = ((begin + end) / 2 for begin, end in zip((0, *ends), ends, strict=False))
        return [_READ_TO_UNCACHED[bisect_right(edges, middle)] for middle in middles]

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
        """Of all turns."""
        return sum(one.tokens.prompt_tokens for one in self.asked)

    @cached_property
    def conversations(self) -> dict[str, list[Asked]]:
        """Turns by the conversation that they continue."""
        found: dict[str, list[Asked]] = {}
        for one in self.asked:
            found.setdefault(opening_of(one.prompt), []).append(one)
        return found

    def unit(self, one: Asked, count: str) -> Decimal | None:
        """Dollars of a token that a turn bills as `count`."""
        return self.ledger.unit(main_rate(one.turn.usage), count)

    def saving(self, amount: Decimal) -> str:
        """`$0.0120 a run, $12.00 a month`."""
        month = f", {dollars(amount * self.runs_per_month)} a month" if self.runs_per_month else ""
        return f"{dollars(amount)} a run{month}"


def lay_out(
    run: Run, cost: CostOf, *, runs_per_month: int | None = None, minimums: Mapping[str, int] | None = None
) -> LaidOut:
    """Measure every prefix of what a run asks now; turns that cannot be counted are left out."""
    known = [
        (index, turn)
        for index, turn in enumerate(run.turns)
        if turn.basis != Basis.UNKNOWN and turn.usage.by_rate
    ]
    turns = [
        RecordedTurn(
            turn.pair.request.prompt, turn.usage.by_rate[main_rate(turn.usage)], turn.pair.answer.date
        )
        for _, turn in known
    ]
    measured = study(turns, minimums or {}, Memo(BuiltinCounter())).turns
    asked = (Asked(index, turn, cached) for (index, turn), cached in zip(known, measured, strict=True))
    return LaidOut(tuple(asked), cost, runs_per_month)
