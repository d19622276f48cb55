"""The table of scenarios: its columns, and a row of cells for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_tokenbudget.model import Verdict
from pytest_tokenbudget.reports.dashboard import charts
from pytest_tokenbudget.reports.dashboard.subjects import Subject
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, money, percent, signed


@dataclass(frozen=True, slots=True)
class Cell:
    """Words, the number by which they are sorted (None: last), and what is drawn beside them."""

    text: str
    value: float | None = None
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column after the one of the names."""

    title: str
    cell: Callable[[Subject], Cell]


def columns(subjects: Sequence[Subject], judged: bool) -> list[Column]:
    """Those that have something to say of any of `subjects`; `judged`: whether there was a run."""
    spend = sum(one.now["cost_usd"] or 0 for one in subjects if one.now)

    def share_of_spend(one: Subject) -> Cell:
        cost = one.now["cost_usd"] if one.now else None
        part = cost / spend if cost is not None and spend else None
        return Cell(NONE) if part is None else Cell(percent(part), part)

    found = [
        Column("Prompt tokens", _prompt),
        Column("Prompt change", _prompt_change),
        Column("Output", _output),
        Column("Cache share", _cache_share),
        Column("Cost a run", _cost),
        Column("Cost change", _cost_change),
    ]
    if judged:
        found.insert(0, Column("Verdict", _verdict))
    if any(one.runs is not None for one in subjects):
        found.append(Column("Cost a month", _month))
    return [*found, Column("Of the spend", share_of_spend)]


def _verdict(one: Subject) -> Cell:
    return Cell(one.verdict, list(Verdict).index(Verdict(one.verdict)))


def _prompt(one: Subject) -> Cell:
    if one.now is None:
        return Cell("stale" if one.verdict == "stale" else UNKNOWN)
    return Cell(one.about + count(one.now["prompt_tokens"]), one.now["prompt_tokens"])


def _prompt_change(one: Subject) -> Cell:
    if one.now is None:
        return Cell(NONE)
    if one.was is None:
        return Cell("new")
    change = one.now["prompt_tokens"] - one.was["prompt_tokens"]
    if not one.was["prompt_tokens"]:
        return Cell(signed(change, count(change)))
    ratio = change / one.was["prompt_tokens"]
    return Cell((one.about if change else "") + signed(ratio, percent(ratio)), ratio)


def _output(one: Subject) -> Cell:
    if one.now is None:
        return Cell(NONE)
    return Cell(count(one.now["output_tokens"]), one.now["output_tokens"])


def _cache_share(one: Subject) -> Cell:
    if one.now is None or not one.now["prompt_tokens"]:
        return Cell(NONE)
    part = one.now["cache_read_input_tokens"] / one.now["prompt_tokens"]
    return Cell(one.about + percent(part), part, charts.share(part))


def _cost(one: Subject) -> Cell:
    if one.now is None:
        return Cell(NONE)
    cost = one.now["cost_usd"]
    return Cell(UNKNOWN) if cost is None else Cell(one.about + money(cost), cost)


def _cost_change(one: Subject) -> Cell:
    if one.now is None:
        return Cell(NONE)
    if one.was is None:
        return Cell("new")
    change = one.cost_change
    if change is None:
        return Cell(UNKNOWN)
    return Cell((one.about if change else "") + signed(change, money(change)), change)


def _month(one: Subject) -> Cell:
    if one.now is None or one.runs is None:
        return Cell(NONE)
    cost = one.now["cost_usd"]
    return Cell(UNKNOWN) if cost is None else Cell(one.about + money(cost * one.runs), cost * one.runs)
