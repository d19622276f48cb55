"""What needs a decision: the scenarios that fail, those of one cause together, the worst first."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_tokenbudget.reports import view
from pytest_tokenbudget.reports.dashboard.subjects import Finding, Subject
from pytest_tokenbudget.reports.document import Document, ScenarioEntry
from pytest_tokenbudget.reports.rows import approximate, cost_cell, cost_change, rows
from pytest_tokenbudget.reports.ways_out import ways_out
from pytest_tokenbudget.wording import UNKNOWN, count, plural

_DECISIONS, _SCENARIOS, _CAUSES, _BY_HAND = 20, 5, 5, 5
_REASONS = {
    "over": "Past a limit, and no part of the prompt is known to have done it",
    "cap": "Past a cap, which is set by hand",
    "stale": "The recording does not answer what the agent asks",
    "new": "There is no baseline to be held against",
}


@dataclass(frozen=True, slots=True)
class Failing:
    """A failing scenario in one row."""

    name: str
    anchor: str
    numbers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Decision:
    """One cause, and the scenarios that it fails."""

    verdict: str
    causes: Sequence[Finding]
    scenarios: Sequence[Failing]
    more: int


@dataclass(frozen=True, slots=True)
class Decisions:
    """All causes, those left out, and the ways out."""

    shown: Sequence[Decision]
    more: str
    commands: Sequence[tuple[str, str]]
    """What it does, and the command."""
    advice: Sequence[str]
    """What is done by hand."""


def decisions(document: Document, subjects: Sequence[Subject]) -> Decisions:
    """Those of a run."""
    by_id = {one.id: one for one in subjects}
    failing = [one for one in view.worst_first(document["scenarios"]) if view.fails(one)]
    groups = view.by_cause(failing)
    left = groups[_DECISIONS:]
    ways = ways_out(failing)
    return Decisions(
        shown=[_decision(group, by_id) for group in groups[:_DECISIONS]],
        more=f"{plural(len(left), 'more cause')}, of {plural(sum(map(len, left)), 'scenario')}"
        if left
        else "",
        commands=[(way.what, shlex.join(way.command)) for way in ways if way.command],
        advice=[way.what for way in ways if not way.command][:_BY_HAND],
    )


def _decision(group: Sequence[ScenarioEntry], by_id: dict[str, Subject]) -> Decision:
    worst = group[0]
    causes = [Finding.of(found) for found in view.causes(worst)[:_CAUSES]]
    capped = all(limit["metric"].startswith("max_") for limit in worst["limits"] if limit["over"])
    reason = _REASONS["cap" if capped and worst["verdict"] == "over" else worst["verdict"]]
    return Decision(
        verdict=worst["verdict"],
        causes=causes or [Finding(reason, "")],
        scenarios=[_failing(one, by_id[one["id"]]) for one in group[:_SCENARIOS]],
        more=max(0, len(group) - _SCENARIOS),
    )


def _failing(entry: ScenarioEntry, subject: Subject) -> Failing:
    return Failing(subject.name, subject.anchor, _numbers(entry))


def _numbers(entry: ScenarioEntry) -> list[str]:
    """What is over, and what a run costs more where that is not said by it."""
    if entry["verdict"] == "over":
        its = rows(entry)
        told = any(shown.metric.endswith("cost") for shown in its) or not cost_change(entry)
        return [*map(str, its), *([] if told else [f"{cost_cell(entry)} a run"])]
    measured = entry["measured"]
    if entry["verdict"] == "stale" or measured is None:
        return [f"{plural(len(entry['turns']), 'turn')}, tokens {UNKNOWN}"]
    return [
        f"{approximate(entry)}{count(measured['prompt_tokens'])} prompt tokens",
        f"{cost_cell(entry)} a run",
    ]
