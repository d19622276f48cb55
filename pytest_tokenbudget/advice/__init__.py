"""Say what would make a run cheaper, the largest saving first, and where a whole suite spends most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import log
from statistics import mean, median

from pytest_tokenbudget.advice.caching import Locate, caching
from pytest_tokenbudget.advice.context import context
from pytest_tokenbudget.advice.layout import LaidOut
from pytest_tokenbudget.advice.routing import CheaperModels, batching, parallelism, routing
from pytest_tokenbudget.model import Finding, FindingKind
from pytest_tokenbudget.wording import listed, unsigned_percent

WORTH = Fraction(1, 20)
"""The least share of a run's cost (of its prompt tokens, if that is unknown) that a lever must save."""
LARGE = Fraction(1, 4)
"""The share of a run's prompt tokens from which on a lever is told whatever it saves."""


def advise(
    laid_out: LaidOut,
    *,
    cheaper: CheaperModels,
    batchable: bool = False,
    minimums: Mapping[str, int] | None = None,
    worth: Fraction = WORTH,
    locate: Locate = lambda _: None,
) -> tuple[Finding, ...]:
    """Return the levers of one run as it is asked now: each says its place, the change to make, the saving.

    Savings are negative tokens and dollars a run; the texts have the month too, if the layout knows the runs.
    `cheaper` names the models that cost less than a model (`Prices.cheaper_models`). `batchable` is for work
    that nobody waits for. `worth` is the share of a run's cost that a lever must save. `locate` finds the
    lines of a block that should carry `cache_control`.
    """
    if not laid_out.asked:
        return ()
    found = [
        *caching(laid_out, minimums or {}, locate),
        *context(laid_out, worth),
        *routing(laid_out, cheaper),
        *(batching(laid_out) if batchable else ()),
        *parallelism(laid_out),
    ]
    return tuple(sorted((one for one in found if _is_worth(one, laid_out, worth)), key=_saving))


def _is_worth(finding: Finding, run: LaidOut, worth: Fraction) -> bool:
    """Return whether a lever saves enough dollars to be told.

    It is also told if it saves a large share of the tokens, or if dollars are unknown.
    """
    if -(finding.tokens or 0) >= LARGE * run.prompt_tokens or finding.cost_usd is None or not run.cost:
        return True
    return -Fraction(finding.cost_usd) >= worth * Fraction(run.cost)


def _saving(finding: Finding) -> tuple[Fraction, int]:
    return Fraction(finding.cost_usd or 0), finding.tokens or 0


_FEW = Fraction(1, 20)
"""The dearest part of the scenarios, whose share of the spend is told."""
_LEAST = 5
"""The least number of scenarios that make a distribution."""
_FAR = 3.5
"""Modified z-score from which a value is an outlier (Iglewicz and Hoaglin, 1993)."""
_MEDIAN, _MEAN = 1.4826, 1.2533
"""Make the median and the mean absolute deviation comparable to a standard deviation of normal values."""
_TURN = Decimal("0.25")
"""The share of a suite's spend above which a single turn is named."""
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Spend:
    """The spend of a turn, a scenario or a suite; if the dollars of a part are unknown, so is their sum."""

    tokens: int = 0
    cost_usd: Decimal | None = Decimal(0)

    def __add__(self, other: Spend) -> Spend:
        costs = (self.cost_usd, other.cost_usd)
        return Spend(
            self.tokens + other.tokens,
            None if costs[0] is None or costs[1] is None else costs[0] + costs[1],
        )


def outliers(suite: Mapping[str, Sequence[Spend]]) -> Iterator[Finding]:
    """Yield how much of a suite's spend the dearest scenarios have, then each turn that alone has much of it.

    `suite` holds the turns of each scenario, by name. Spend is in dollars if every price is known, else in
    tokens.
    """
    spends = {name: sum(turns, Spend()) for name, turns in suite.items() if turns}
    total = sum(spends.values(), Spend())
    priced = total.cost_usd is not None

    def size(spend: Spend) -> Decimal:
        return spend.cost_usd or Decimal(0) if priced else Decimal(spend.tokens)

    if len(spends) < _LEAST or not size(total):
        return
    ranked = sorted(spends, key=lambda name: -size(spends[name]))
    few = ranked[: max(1, round(len(ranked) * _FEW))]
    held = sum((spends[name] for name in few), Spend())
    share, of = unsigned_percent(float(size(held) / size(total))), "spend" if priced else "tokens"
    text = f"{unsigned_percent(len(few) / len(ranked))} of scenarios, {share} of {of}: {listed(few[:_NAMED])}"
    yield _finding("suite", text, held)
    for name, turns in suite.items():
        for index, turn in enumerate(turns):
            if size(turn) > size(total) * _TURN:
                share = unsigned_percent(float(size(turn) / size(total)))
                yield _finding(name, f"turn {index + 1} of {name} alone holds {share} of the suite", turn)


def _finding(where: str, text: str, spend: Spend) -> Finding:
    return Finding(FindingKind.LEVER_OUTLIERS, where, text, spend.tokens, spend.cost_usd)


def far_above(sizes: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Yield the name of what is far above the rest, and how many times the median it is.

    `sizes` are positive and compared by their logarithms, since spend is skewed. Of fewer than five, nothing
    is far above.
    """
    if len(sizes) < _LEAST:
        return
    logs = {name: log(value) for name, value in sizes.items()}
    middle = median(logs.values())
    deviations = [abs(value - middle) for value in logs.values()]
    spread = _MEDIAN * median(deviations) or _MEAN * mean(deviations)
    for name, value in logs.items():
        if spread and (value - middle) / spread >= _FAR:
            yield name, sizes[name] / median(sizes.values())
