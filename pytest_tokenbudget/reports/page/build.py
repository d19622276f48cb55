"""The whole page, out of a run, a history, or both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_tokenbudget.reports import view
from pytest_tokenbudget.reports.dashboard import charts, scenarios
from pytest_tokenbudget.reports.dashboard.scenarios import Cell
from pytest_tokenbudget.reports.dashboard.subjects import Past, Subject, subjects
from pytest_tokenbudget.reports.dashboard.totals import NAMES, Totals, totals
from pytest_tokenbudget.reports.document import Document
from pytest_tokenbudget.reports.facts import usual_month
from pytest_tokenbudget.reports.history import History
from pytest_tokenbudget.reports.page.decisions import Decisions, decisions
from pytest_tokenbudget.reports.page.details import Details, details
from pytest_tokenbudget.reports.page.figures import Figure, figures
from pytest_tokenbudget.reports.page.spend import (
    MODEL_HEADERS,
    ModelRow,
    Savings,
    Spend,
    models,
    savings,
    spend,
)
from pytest_tokenbudget.reports.page.trend import Trend, trend
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.wording import plural

_MANY = 200
"""Scenarios, above which those where nothing changed have pictures only: a page has its limits, too."""
_MODES = {
    "replay": "replayed from recordings",
    "record": "recorded from real calls",
    "live": "measured by real calls",
}
_BASES = {
    "recorded": "recorded: the answer to this very request said so",
    "live": "live: a real call of this run said so",
    "counted": "counted: recorded, plus the exact count of what changed",
    "estimated": "estimated, marked ~: recorded, plus a calibrated estimate of what changed",
    "unknown": "unknown: it cannot be told, and is never added up as 0",
}


@dataclass(frozen=True, slots=True)
class ScenarioRow:
    """One scenario of the table, and what unfolds below it."""

    subject: Subject
    cells: Sequence[Cell]
    details: Details
    trend: Trend | None


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that is shown."""

    judged: bool
    """Whether there was a run."""
    headline: str
    facts: Sequence[str]
    verdicts: Sequence[tuple[str, int]]
    """Of a run, those that are there, the worst first."""
    then: str
    """What the time is called that everything is compared with."""
    totals: Totals
    decisions: Decisions | None
    figures: Sequence[Figure]
    """The suite over the commits, where there are at least two."""
    trends: bool
    """Whether there is a history."""
    columns: Sequence[str]
    rows: Sequence[ScenarioRow]
    legend: Sequence[tuple[str, str]]
    """Swatch and name of each kind of tokens, from the bottom of a stack."""
    brief: str
    """What is left out of the rows."""
    spend: Spend
    models: Sequence[ModelRow]
    model_headers: Sequence[str]
    savings: Savings
    bases: Sequence[tuple[str, int]]
    """What the numbers are based on, and how many scenarios."""


def page(document: Document | None, history: History | None, runs_per_month: float | None) -> Page:
    """The page; with neither a run nor a history, one that says so."""
    past = Past(history["commits"]) if history and history["scenarios"] else None
    listed = subjects(document, history, runs_per_month)
    columns = scenarios.columns(listed, judged=document is not None)
    brief = _in_brief(listed)
    verdicts = document["totals"]["verdicts"] if document else {}
    then = "baseline" if document else "first baseline"
    return Page(
        judged=document is not None,
        headline=view.headline(document) if document else _trend_headline(listed, past),
        facts=list(_facts(document, history, past, runs_per_month)),
        verdicts=[(name, number) for name, number in verdicts.items() if number],
        then=then,
        totals=totals(listed, then, alarmed=bool(verdicts.get("over"))),
        decisions=decisions(document, listed) if document else None,
        figures=figures(history, past) if history and past and len(past.commits) > 1 else [],
        trends=past is not None,
        columns=[column.title for column in columns],
        rows=[_row(one, columns, past, one.id in brief) for one in listed],
        legend=[(charts.swatch(kind), NAMES[kind]) for kind in charts.KINDS],
        brief=f"The tables of {plural(len(brief), 'scenario')} where nothing changed are left out."
        if brief
        else "",
        spend=spend(listed),
        models=models(listed),
        model_headers=MODEL_HEADERS,
        savings=savings(document, runs_per_month) if document else Savings(),
        bases=_bases(document) if document else [],
    )


def _row(one: Subject, columns: Sequence[scenarios.Column], past: Past | None, brief: bool) -> ScenarioRow:
    return ScenarioRow(
        subject=one,
        cells=[column.cell(one) for column in columns],
        details=details(one, brief=brief),
        trend=trend(one, past, brief=brief) if past else None,
    )


def _in_brief(listed: Sequence[Subject]) -> set[str]:
    """Which of many scenarios are shown in brief."""
    steady = {one.id for one in listed if one.entry and not view.is_news(one.entry)}
    return steady if len(listed) > _MANY else set()


def _trend_headline(listed: Sequence[Subject], past: Past | None) -> str:
    if past is None:
        return "No commit holds a baseline yet"
    return f"{plural(len(listed), 'baseline')} over {plural(len(past.commits), 'commit')}"


def _facts(
    document: Document | None, history: History | None, past: Past | None, runs: float | None
) -> Iterator[str]:
    if document:
        if document["commit"]:
            yield f"commit {plain(document['commit'][:12])}"
        yield _MODES[document["mode"]]
    if past:
        first, last, number = past.date(0), past.date(-1), plural(len(past.commits), "commit")
        yield f"history of {number} " + (f"of {first}" if first == last else f"from {first} to {last}")
    priced = document or history
    if priced:
        prices = priced["prices"]
        yield f"prices of {plain(prices['source'])} {plain(prices['version'])}"
    if document:
        yield f"{plain(document['tool']['name'])} {plain(document['tool']['version'])}"
    elif runs is not None:
        yield usual_month(runs)


def _bases(document: Document) -> list[tuple[str, int]]:
    found = Counter(one["basis"] for one in document["scenarios"])
    return [(words, found[basis]) for basis, words in _BASES.items() if found[basis]]  # type: ignore[index]
