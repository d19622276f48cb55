"""A scenario's numbers as rows of a table: metric, baseline, now, change, limit, dollars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_tokenbudget.reports.document import LimitEntry, ScenarioEntry
from pytest_tokenbudget.wording import NONE, UNKNOWN, apart, cents, count, money, percent, points, signed

METRICS = {
    "prompt_tokens": "prompt tokens",
    "output_tokens": "output tokens",
    "turns": "turns",
    "cache_share": "cache share",
    "cost_usd": "cost",
    "max_prompt_tokens": "max prompt tokens",
    "max_output_tokens": "max output tokens",
    "max_turns": "max turns",
    "max_cost_usd": "max cost",
}
_OF_THE_ANSWER = {"output_tokens", "turns", "max_output_tokens", "max_turns"}
"""Metrics that a replay takes from the recorded answers: never estimated, never unknown."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one scenario, as it is printed."""

    metric: str
    baseline: str
    now: str
    change: str
    limit: str

    def __str__(self) -> str:
        moved = self.now if self.baseline == NONE else f"{self.baseline} → {self.now}"
        change = "" if self.change == NONE else f" ({self.change})"
        return f"{self.metric}: {moved}{change}, limit {self.limit}"


def cost_change(scenario: ScenarioEntry) -> float | None:
    """Dollars a run over the baseline, or all of them where there is none; None where unknown."""
    measured, baseline = scenario["measured"], scenario["baseline"]
    if measured is None or measured["cost_usd"] is None or scenario["verdict"] == "stale":
        return None
    if baseline is None:
        return measured["cost_usd"]
    return None if baseline["cost_usd"] is None else measured["cost_usd"] - baseline["cost_usd"]


def cost_cell(scenario: ScenarioEntry, runs: float = 1) -> str:
    """`+$0.0094`: what the change costs in `runs` runs; without a baseline, what the scenario costs."""
    if scenario["verdict"] == "stale":
        return NONE
    change = cost_change(scenario)
    if change is None:
        return UNKNOWN
    shown = money(change * runs)
    if scenario["baseline"] is not None:
        shown = signed(change, shown) if change else f"+{shown}"  # a bare $0.00 would be what it costs
    return approximate(scenario) + shown


def approximate(scenario: ScenarioEntry) -> str:
    """`~` where the numbers of the prompt are estimated."""
    return "~" if scenario["basis"] == "estimated" else ""


def unpriced(scenario: ScenarioEntry) -> bool:
    """Whether a price is missing, now or in the baseline."""
    sides = (scenario["baseline"], scenario["measured"])
    return any(side is not None and side["cost_usd"] is None for side in sides)


def rows(scenario: ScenarioEntry) -> list[Row]:
    """What a table says of the scenario: what is over; else the one number that its verdict is about."""
    limits, verdict = scenario["limits"], scenario["verdict"]
    if verdict == "over":
        about = [limit for limit in limits if limit["over"]]
    elif verdict == "improved":
        about = sorted(limits, key=_growth)[:1]
    else:
        about = [limit for limit in limits if limit["metric"] == "prompt_tokens"]
    return [row(limit, scenario) for limit in about] or [_prompt(scenario)]


def _prompt(scenario: ScenarioEntry) -> Row:
    """The prompt tokens of a scenario that is not held against limits; why not, in the place of a number."""
    baseline, measured = scenario["baseline"], scenario["measured"]
    was = "new" if baseline is None else count(baseline["prompt_tokens"])
    now = UNKNOWN if measured is None else approximate(scenario) + count(measured["prompt_tokens"])
    return Row(METRICS["prompt_tokens"], was, "stale" if scenario["verdict"] == "stale" else now, NONE, NONE)


def row(limit: LimitEntry, scenario: ScenarioEntry) -> Row:
    """One limit as it is printed, with enough decimals to tell what is measured from what is allowed."""
    name, was, now, most = limit["metric"], limit["baseline"], limit["measured"], limit["limit"]
    about = "" if name in _OF_THE_ANSWER or now is None else approximate(scenario)
    shown: Callable[[float, int], str]
    if name == "cache_share":
        shown, scale, digits = percent, 100, 1
    elif name.endswith("cost_usd"):
        shown, scale, digits = (
            money,
            1,
            max(cents(number) for number in (was, now, most) if number is not None),
        )
    else:
        shown, scale, digits = count, 1, 0
    if now is not None:
        digits = apart(now * scale, most * scale, digits)
    return Row(
        metric=METRICS[name],
        baseline=NONE if was is None else shown(was, digits),
        now=UNKNOWN if now is None else about + shown(now, digits),
        change=_change(limit, about),
        limit=shown(most, digits),
    )


def _change(limit: LimitEntry, about: str) -> str:
    change = limit["change"]
    if change is None:
        return NONE
    return about + (points(change) if limit["metric"] == "cache_share" else signed(change, percent(change)))


def _growth(limit: LimitEntry) -> float:
    change = limit["change"] or 0.0
    return -change if limit["metric"] == "cache_share" else change
