"""What would make a run cheaper, the largest saving first."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from pytest_tokenbudget.advice.caching import caching
from pytest_tokenbudget.advice.context import context
from pytest_tokenbudget.advice.layout import LaidOut, lay_out
from pytest_tokenbudget.advice.routing import CheaperModels, batching, parallelism, routing
from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.model import Finding

WORTH = Fraction(1, 20)
"""Of a run's cost (or, where that is unknown, of its prompt tokens): below it a lever is not told."""
LARGE = Fraction(1, 4)
"""Of a run's prompt tokens: above it a lever is told whatever it saves."""


def advise(
    run: Run,
    *,
    cost: CostOf,
    cheaper: CheaperModels,
    runs_per_month: int | None = None,
    batchable: bool = False,
    minimums: Mapping[str, int] | None = None,
    worth: Fraction = WORTH,
) -> tuple[Finding, ...]:
    """The levers of one run as it is asked now, each with its place, the change to make, and what it saves.

    None where the run left its recording: its numbers answer another question. Savings are negative tokens
    and dollars a run; `runs_per_month` adds the month to their texts. `cheaper` names the models below one
    (`Prices.cheaper_models`). `batchable` is for work that nobody waits for.
    """
    if run.stale:
        return ()
    laid_out = lay_out(run, cost, runs_per_month=runs_per_month)
    if not laid_out.asked:
        return ()
    found = [
        *caching(laid_out, minimums or {}),
        *context(laid_out, worth),
        *routing(laid_out, cheaper),
        *(batching(laid_out) if batchable else ()),
        *parallelism(laid_out),
    ]
    return tuple(sorted((one for one in found if _is_worth(one, laid_out, worth)), key=_saving))


def _is_worth(finding: Finding, run: LaidOut, worth: Fraction) -> bool:
    """By dollars where they are known; a large share of the tokens is worth a line by itself."""
    if -(finding.tokens or 0) >= LARGE * run.prompt_tokens or finding.cost_usd is None or not run.cost:
        return True
    return -Fraction(finding.cost_usd) >= worth * Fraction(run.cost)


def _saving(finding: Finding) -> tuple[Fraction, int]:
    return Fraction(finding.cost_usd or 0), finding.tokens or 0
