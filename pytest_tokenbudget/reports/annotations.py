"""GitHub workflow commands: what failed, on the line that caused it."""

from __future__ import annotations

from pytest_tokenbudget.reports import view
from pytest_tokenbudget.reports.document import Document, ScenarioEntry
from pytest_tokenbudget.reports.escaping import command_data, command_property
from pytest_tokenbudget.reports.rows import rows
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.reports.ways_out import ways_out

_MOST = 10
"""GitHub shows ten errors a step, and drops the rest without a word."""


def workflow_commands(document: Document) -> list[str]:
    """At most ten `::error file=...,line=...,title=...::text`, worst first, one for each cause.

    Each stands on the line that caused it where that is known, else on its test. A command must begin its
    line.
    """
    failing = [one for one in view.worst_first(document["scenarios"]) if view.fails(one)]
    groups = view.by_cause(failing)
    if len(groups) <= _MOST:
        return [_error(group) for group in groups]
    left = f"{len(groups) - _MOST + 1:,} more causes of failure: the whole report has them all"
    return [
        *(_error(group) for group in groups[: _MOST - 1]),
        f"::error title=Token budget::{command_data(left)}",
    ]


def _error(group: list[ScenarioEntry]) -> str:
    worst, *alike = group
    found = view.causes(worst)
    placed = next((finding["source"] for finding in found if finding["source"]), None)
    file, line = (placed["file"], placed["line"]) if placed else (worst["file"], worst["line"])
    text = [plain(worst["id"])]
    if worst["verdict"] == "over":
        text += map(str, rows(worst))
    text += [view.sentence(finding) for finding in found[:1]]
    text += [f"{len(alike):,} more like it"] * bool(alike)
    text += map(str, ways_out(group))
    message = command_data("\n".join(text))
    title = command_property(f"Token budget: {worst['verdict']}")
    return f"::error file={command_property(plain(file))},line={line},title={title}::{message}"
