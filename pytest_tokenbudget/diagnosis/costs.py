"""Split the cost difference of a turn without remainder: what grew, another model, the cache.

Every token of a part is priced as it was billed, by where it stands in the prompt: read from the cache,
written to it, or after its last breakpoint. Removed tokens are priced as they were billed when recorded.
Another model's share is the recorded tokens at the new rate less the same at the old one. What is then left
of the measured difference belongs to the cache: the same tokens, billed in another category.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate

from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.diagnosis.prompt_parts import size_of
from pytest_tokenbudget.metering.estimate import Part
from pytest_tokenbudget.metering.meter import Turn
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.wire.prompt import Block, Prompt, last_breakpoint

_UNIT = 1_000_000


@dataclass(frozen=True, slots=True)
class TurnCosts:
    """Dollars of one turn; each None where a price is unknown."""

    parts: tuple[Decimal | None, ...]
    """One for each part of the estimate."""
    rate: Decimal | None
    """What another model costs, or another price of the same one."""
    cache: Decimal | None
    """What it costs that tokens are billed in another category than when recorded."""


class Ledger:
    """Splits the cost difference of turns; remembers unit prices and block sizes between them."""

    def __init__(self, cost: CostOf) -> None:
        self._cost = cost
        self._units: dict[tuple[Rate, str], Decimal | None] = {}
        self._sizes: dict[tuple[str, str], int] = {}

    def split(self, turn: Turn) -> TurnCosts:
        """Return the costs of a measured turn in dollars; all are 0 where nothing changed."""
        parts = turn.estimate.parts
        if turn.recorded is None or turn.usage == turn.recorded:
            return TurnCosts((Decimal(0),) * len(parts), Decimal(0), Decimal(0))
        now = turn.usage.main_rate
        categories = _Categories(self, turn)
        priced = tuple(self._part(part, now, categories) for part in parts)
        rate = self._rate(turn.recorded, now)
        change = _minus(self._cost(turn.usage), self._cost(turn.recorded))
        explained = (rate, *priced)
        known = [amount for amount in explained if amount is not None]
        cache = change - sum(known) if change is not None and len(known) == len(explained) else None
        return TurnCosts(priced, rate, cache)

    def unit(self, rate: Rate, count: str) -> Decimal | None:
        """Return the dollars of one token of a count at a rate, or None if the price is unknown."""
        key = (rate, count)
        if key not in self._units:
            price = self._cost(Usage.of(rate, Tokens(**{count: _UNIT}), turns=0))
            self._units[key] = None if price is None else price / _UNIT
        return self._units[key]

    def size(self, block: Block, model: str) -> int:
        """Return about how many characters a block weighs in a prompt; computed once for each content."""
        key = (block.digest, model)
        if key not in self._sizes:
            self._sizes[key] = size_of(block, model) + 8
        return self._sizes[key]

    def _part(self, part: Part, rate: Rate, categories: _Categories) -> Decimal | None:
        if not part.tokens:
            return Decimal(0)
        unit = self.unit(rate, categories.of(part))
        return None if unit is None else unit * part.tokens

    def _rate(self, recorded: Usage, now: Rate) -> Decimal | None:
        if recorded.main_rate == now:
            return Decimal(0)
        moved = recorded.with_main(now, recorded.main_tokens)
        return _minus(self._cost(moved), self._cost(recorded))


class _Categories:
    """The counts of `Tokens` that the parts of one turn were billed in."""

    def __init__(self, ledger: Ledger, turn: Turn) -> None:
        self._ledger = ledger
        self._turn = turn
        self._sides: dict[bool, tuple[Mapping[str, int], list[str]]] = {}

    def of(self, part: Part) -> str:
        """Return the count of `Tokens` that a part was billed in.

        An option or the framing is taken to be billed as the first block.
        """
        removed = part.now is None and part.was is not None
        places, counts = self._side(removed)
        block = part.was if removed else part.now
        if not counts:
            return "input_tokens"
        return counts[places.get(block.where, 0)] if block else counts[0]

    def _side(self, removed: bool) -> tuple[Mapping[str, int], list[str]]:
        if removed not in self._sides:
            pair = self._turn.pair
            request = pair.recorded if removed else pair.request
            usage = (self._turn.recorded if removed else None) or self._turn.usage
            places = {block.where: index for index, block in enumerate(request.prompt.blocks)}
            self._sides[removed] = places, self._counts(request.prompt, usage.main_tokens)
        return self._sides[removed]

    def _counts(self, prompt: Prompt, tokens: Tokens) -> list[str]:
        """Return by block the count that it was billed in: up to the last breakpoint, cached ones.

        The cached blocks share the cached tokens by size: first those read, then those written for an hour,
        then for five minutes.
        """
        cached = tokens.prompt_tokens - tokens.input_tokens
        end = last_breakpoint(prompt) + 1 if cached else 0
        if cached and not end:
            end = len(prompt.blocks)  # a breakpoint that the request does not show: a server tool's own
        sizes = [self._ledger.size(block, prompt.model) for block in prompt.blocks[:end]]
        total = sum(sizes) or 1
        names = ("cache_read_input_tokens", "ephemeral_1h_input_tokens", "ephemeral_5m_input_tokens")
        edges = list(accumulate(getattr(tokens, name) for name in names))
        middles = (
            (reached - size / 2) * cached / total
            for reached, size in zip(accumulate(sizes), sizes, strict=True)
        )
        inside = [names[min(bisect_right(edges, middle), 2)] for middle in middles]
        return inside + ["input_tokens"] * (len(prompt.blocks) - end)


def _minus(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if one is None or other is None else one - other
