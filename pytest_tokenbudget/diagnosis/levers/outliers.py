"""Over the whole suite: which scenarios and turns hold the spend, and which are far from the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import log
from statistics import mean, median

from pytest_tokenbudget.budget.compare import CostOf
from pytest_tokenbudget.diagnosis.findings import Finding
from pytest_tokenbudget.diagnosis.wording import dollars, listed, percent, plural
from pytest_tokenbudget.model import Usage

_FEW = Fraction(1, 20)
"""The share of scenarios whose share of the spend is told."""
_LEAST = 5
"""Scenarios below which a suite has no distribution."""
_FAR = 3.5
"""Modified z-score from which a value is an outlier (Iglewicz and Hoaglin, 1993)."""
_MEDIAN, _MEAN = 1.4826, 1.2533
"""Make the median and the mean absolute deviation comparable to a standard deviation of normal values."""
_TURN = Fraction(1, 4)
"""The share of a suite that makes a single turn worth naming."""
_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Spend:
    """What a scenario or a turn holds: dollars where every price is known, else tokens."""

    name: str
    size: Decimal
    tokens: int
    cost: Decimal | None

    @property
    def amount(self) -> str:
        """For people."""
        return plural(self.tokens, "token") if self.cost is None else f"{dollars(self.cost)} a run"


def outliers(suite: Mapping[str, Sequence[Usage]], cost: CostOf) -> Iterator[Finding]:
    """Where the spend of a suite is; `suite` holds the usage of each turn, by scenario.

    By dollars where every price is known, else by tokens. Findings name scenarios, or `suite`.
    """
    used = {name: sum(turns, Usage()) for name, turns in suite.items() if turns}
    priced = all(cost(usage) is not None for usage in used.values())
    ranked = sorted(
        (_spend(name, usage, cost, priced) for name, usage in used.items()), key=lambda s: -s.size
    )
    total = sum((spend.size for spend in ranked), Decimal(0))
    if len(ranked) < _LEAST or not total:
        return
    few = ranked[: max(1, round(len(ranked) * _FEW))]
    share, held = Fraction(len(few), len(ranked)), sum((spend.size for spend in few), Decimal(0)) / total
    text = (
        f"{percent(share)} of scenarios, {percent(float(held))} of {'spend' if priced else 'tokens'}: "
        f"{listed([spend.name for spend in few[:_NAMED]])}"
    )
    amount = sum((spend.size for spend in few), Decimal(0)) if priced else None
    yield Finding("lever_outliers", "suite", text, sum(spend.tokens for spend in few), amount)
    for spend, times in _far(ranked):
        text = f"{spend.name} is far from the rest: {spend.amount}, {times:.0f} times the median scenario"
        yield Finding("lever_outliers", spend.name, text, spend.tokens, spend.cost)
    for name, turns in suite.items():
        for index, usage in enumerate(turns):
            turn = _spend(name, usage, cost, priced)
            if turn.size > total * Decimal(float(_TURN)):
                text = (
                    f"turn {index + 1} of {name} alone holds {percent(float(turn.size / total))} of the suite"
                )
                yield Finding("lever_outliers", name, text, turn.tokens, turn.cost)


def _spend(name: str, usage: Usage, cost: CostOf, priced: bool) -> _Spend:
    tokens, amount = usage.tokens.total, cost(usage) if priced else None
    return _Spend(name, Decimal(tokens) if amount is None else amount, tokens, amount)


def _far(ranked: Sequence[_Spend]) -> Iterator[tuple[_Spend, float]]:
    """Scenarios far above the rest, on the scale of factors, since spend is skewed; and how many times."""
    spends = [spend for spend in ranked if spend.size]
    logs = [log(float(spend.size)) for spend in spends]
    middle = median(logs)
    deviations = [abs(value - middle) for value in logs]
    spread = _MEDIAN * median(deviations) or _MEAN * mean(deviations)
    for spend, value in zip(spends, logs, strict=True):
        if spread and (value - middle) / spread >= _FAR:
            yield spend, float(spend.size / spends[len(spends) // 2].size)
