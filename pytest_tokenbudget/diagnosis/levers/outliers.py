"""Over the whole suite: which scenarios and turns hold the spend, which are far from the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import log
from statistics import mean, median

from pytest_tokenbudget.diagnosis.findings import Finding
from pytest_tokenbudget.diagnosis.ledger import last_breakpoint
from pytest_tokenbudget.diagnosis.levers.laid_out import Asked, LaidOut
from pytest_tokenbudget.diagnosis.wording import dollars, listed, percent, plural
from pytest_tokenbudget.metering.cache_rules import minimum

_FEW = Fraction(1, 20)
"""The share of scenarios whose share of the spend is told."""
_LEAST = 5
"""Scenarios below which a suite has no distribution."""
_FAR = 3.5
"""Modified z-score from which a value is an outlier (Iglewicz and Hoaglin, 1993)."""
_MEDIAN, _MEAN = 1.4826, 1.2533
"""Make the median and the mean absolute deviation comparable to a standard deviation of normal values."""
_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Spend:
    name: str
    amount: Decimal
    tokens: int


def outliers(suite: Mapping[str, LaidOut]) -> Iterator[Finding]:
    """Where the spend is, by dollars where every price is known, else by tokens."""
    spends = [_Spend(name, run.cost or Decimal(0), _tokens(run)) for name, run in suite.items() if run.asked]
    priced = all(run.cost is not None for run in suite.values() if run.asked)
    total = sum((_size(spend, priced=priced) for spend in spends), Decimal(0))
    if len(spends) < _LEAST or not total:
        return
    ranked = sorted(spends, key=lambda spend: -_size(spend, priced=priced))
    few = ranked[: max(1, round(len(ranked) * _FEW))]
    held = sum((_size(spend, priced=priced) for spend in few), Decimal(0)) / total
    of = "spend" if priced else "tokens"
    text = (
        f"{percent(Fraction(len(few), len(ranked)))} of scenarios, {percent(float(held))} of {of}: "
        f"{listed([spend.name for spend in few[:_NAMED]])}"
    )
    yield Finding("lever_outliers", "suite", text, sum(s.tokens for s in few), _sum(few) if priced else None)
    yield from _far(ranked, priced=priced)
    yield from _turns(suite, total, priced=priced)


def _far(ranked: Sequence[_Spend], *, priced: bool) -> Iterator[Finding]:
    """Scenarios far above the rest, on the scale of factors: spend is skewed by nature."""
    logs = [log(float(_size(spend, priced=priced))) for spend in ranked if _size(spend, priced=priced)]
    middle = median(logs)
    deviations = [abs(value - middle) for value in logs]
    spread = _MEDIAN * median(deviations) or _MEAN * mean(deviations)
    if not spread:
        return
    for spend, value in zip(ranked, logs, strict=False):
        if (value - middle) / spread < _FAR:
            break
        times = float(_size(spend, priced=priced)) / float(_size(ranked[len(ranked) // 2], priced=priced))
        amount = f"{dollars(spend.amount)} a run" if priced else plural(spend.tokens, "token")
        text = f"{spend.name} is far from the rest: {amount}, {times:.0f} times the median scenario"
        yield Finding("lever_outliers", spend.name, text, spend.tokens, spend.amount if priced else None)


def _turns(suite: Mapping[str, LaidOut], total: Decimal, *, priced: bool) -> Iterator[Finding]:
    """Single turns that hold a large share of the suite."""
    for name, run in suite.items():
        for one in run.asked:
            cost = run.cost_of(one.turn.usage) or Decimal(0)
            size = cost if priced else Decimal(one.turn.usage.tokens.total)
            if size > total / 4:
                text = (
                    f"turn {one.index + 1} of {name} alone holds {percent(float(size / total))} of the suite"
                )
                yield Finding(
                    "lever_outliers", name, text, one.turn.usage.tokens.total, cost if priced else None
                )


def shared_prefixes(suite: Mapping[str, LaidOut], minimum_of: Mapping[str, int]) -> Iterator[Finding]:
    """Tools and system that several scenarios begin with, and that none of them marks."""
    groups: dict[str, list[tuple[str, LaidOut, Asked]]] = {}
    for name, run in suite.items():
        keys: dict[str, Asked] = {}
        for one in run.asked:
            heads = [link for link in one.chain.links if link.block.level != "messages"]
            if heads and last_breakpoint(one.prompt) < 0:
                keys.setdefault(heads[-1].key, one)
        for key, one in keys.items():
            groups.setdefault(key, []).append((name, run, one))
    for group in groups.values():
        if finding := _shared(group, minimum_of):
            yield finding


def _shared(group: Sequence[tuple[str, LaidOut, Asked]], minimum_of: Mapping[str, int]) -> Finding | None:
    _, run, one = group[0]
    if len(group) < 2 or one.head < minimum(one.chain.model, minimum_of):
        return None
    counts = ("input_tokens", "ephemeral_5m_input_tokens", "cache_read_input_tokens")
    prices = [run.unit(one, count) for count in counts]
    known = [price for price in prices if price is not None]
    names = listed([name for name, _, _ in group[:_NAMED]])
    where = next(link.block.name for link in reversed(one.chain.links) if link.block.level != "messages")
    many = plural(len(group), "scenario")
    text = f"{where}: {many} begin with the same {one.head:,} tokens, unmarked ({names})"
    tokens = one.head * (len(group) - 1)
    if len(known) < len(prices):
        return Finding("lever_caching", where, f"{text}; cache_control there lets them share it", -tokens)
    full, write, read = known
    saved = one.head * ((len(group) - 1) * (full - read) - (write - full))
    if saved <= 0:
        return None
    text += f"; cache_control there saves {dollars(saved)} when they run within five minutes of each other"
    return Finding("lever_caching", where, text, -tokens, -saved)


def _size(spend: _Spend, *, priced: bool) -> Decimal:
    return spend.amount if priced else Decimal(spend.tokens)


def _sum(spends: Sequence[_Spend]) -> Decimal:
    return sum((spend.amount for spend in spends), Decimal(0))


def _tokens(run: LaidOut) -> int:
    return sum(one.turn.usage.tokens.total for one in run.asked)
