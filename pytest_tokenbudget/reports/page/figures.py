"""The suite over the commits: tokens by kind, dollars, and the cache share of all baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_tokenbudget.reports.axes import Axis, axis_from_zero, compact
from pytest_tokenbudget.reports.dashboard import charts
from pytest_tokenbudget.reports.dashboard.charts import Shown
from pytest_tokenbudget.reports.dashboard.subjects import Past
from pytest_tokenbudget.reports.dashboard.totals import cache_share, words
from pytest_tokenbudget.reports.history import History, suite
from pytest_tokenbudget.reports.page.details import by_kind
from pytest_tokenbudget.wording import UNKNOWN, money, percent

_TALL, _LOW = 220, 84
_CENT = 0.01
"""The axis of what costs nothing."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart under its title."""

    title: str
    svg: str
    """Nothing where nothing is known."""
    note: str = ""


def figures(history: History, past: Past) -> list[Figure]:
    """The three of them."""
    sums = suite(history)
    return [
        _tokens([by_kind(one) for one in sums], past),
        _costs([one["cost_usd"] for one in sums], past),
        _line("Cache share", [cache_share(one) for one in sums], axis_from_zero(1), _percent, past),
    ]


def _costs(costs: Sequence[float | None], past: Past) -> Figure:
    known = [cost for cost in costs if cost is not None]
    if not known:
        return Figure("Cost a run", "", "Unknown: of every commit a price is missing.")
    gap = "A gap: a price is unknown there." if None in costs else ""
    return _line("Cost a run", costs, axis_from_zero(max(known) or _CENT), money, past, gap)


def _tokens(columns: Sequence[Sequence[int]], past: Past) -> Figure:
    told = [words(parts) for parts in columns]
    label = f"Tokens of all baselines: first {told[0]}; last {told[-1]}"
    svg = charts.stacked_trend(columns, label, compact, _ends(past), notes=_notes(told, past), height=_TALL)
    return Figure("Tokens a run, by kind", svg, "A scenario that is added adds its tokens.")


def _line(
    title: str, values: Sequence[float | None], axis: Axis, shown: Shown, past: Past, note: str = ""
) -> Figure:
    told = [UNKNOWN if value is None else shown(value) for value in values]
    label = f"{title} of all baselines: first {told[0]}, last {told[-1]}"
    svg = charts.trend(values, axis, label, shown, _ends(past), notes=_notes(told, past), height=_LOW)
    return Figure(title, svg, note)


def _percent(part: float) -> str:
    return percent(part, 0)


def _ends(past: Past) -> tuple[str, str]:
    return past.date(0), past.date(-1)


def _notes(told: Sequence[str], past: Past) -> list[str]:
    """What is said of each commit when it is pointed at."""
    return [
        f"{past.commit(place)} {past.date(place)} {past.subject(place)}: {text}"
        for place, text in enumerate(told)
    ]
