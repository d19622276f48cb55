"""Build the dashboard of a run, a history, or both: one HTML file that requests nothing from anywhere.

The one user of Jinja2. First comes what needs a decision: the changes, each told once with the scenarios
that it touches, the worst first; then what fails for another reason.
"""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.reports import change_view, run_view, scenario_view
from pytest_tokenbudget.reports.change_view import Change
from pytest_tokenbudget.reports.dashboard import charts, scenarios
from pytest_tokenbudget.reports.dashboard.scenarios import (
    Cell,
    Details,
    Finding,
    Past,
    Subject,
    Trend,
    details,
    subjects,
    trend,
)
from pytest_tokenbudget.reports.dashboard.totals import (
    FOLDER_HEADERS,
    MODEL_HEADERS,
    MOVE_HEADERS,
    NAMES,
    Figure,
    FolderRow,
    Makeup,
    ModelRow,
    Savings,
    Spend,
    SuiteMove,
    Totals,
    figures,
    folders,
    makeup,
    models,
    moves,
    savings,
    spend,
    totals,
)
from pytest_tokenbudget.reports.document import Document, ScenarioEntry, is_measured
from pytest_tokenbudget.reports.history import History
from pytest_tokenbudget.reports.scenario_view import (
    approximate,
    cost_cell,
    cost_change,
    months,
    other_start,
    rows,
    ways_out,
)
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.wording import UNKNOWN, count, next_step, plural

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_EMBEDDED_CHARACTERS = 500_000
"""A longer document is embedded compressed, so that 500 scenarios stay a file of a few megabytes."""


def dashboard(
    document: Document | None, history: History | None, *, runs_per_month: float | None = None
) -> str:
    """Return the HTML page of a run, of a history, or of both, with its style, pictures, script and data.

    Its content policy allows that style and that script by their hashes and nothing else. Raises ReportError
    if Jinja2 is not installed.
    """
    shown = page(document, history, runs_per_month)
    style, script = _text("dashboard.css") + _labels(shown), _text("dashboard.js")
    packed = _packed(document) if document else None
    return _template().render(
        page=shown,
        patterns=charts.PATTERNS,
        style=style,
        script=script,
        policy=_policy(style, script),
        document=document,
        packed=packed,
    )


def _template() -> Template:
    try:
        import jinja2  # noqa: F401  # said here, however often a page was made before
    except ImportError as error:
        raise ReportError(
            "The HTML report needs Jinja2. "
            + next_step("Install it", 'pip install "pytest-tokenbudget[html]"')
        ) from error
    return _environment().get_template("dashboard.html")


@cache
def _environment() -> Environment:
    """Return the environment of all pages: it keeps the templates that it compiled."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pytest_tokenbudget.reports.dashboard"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def _text(name: str) -> str:
    """Read a file of the templates, as it will stand in the page: hashes are of characters."""
    return files("pytest_tokenbudget.reports.dashboard").joinpath("templates", name).read_text("utf-8")


def _labels(page: Page) -> str:
    """Return style that names in each cell its column, for screens without room for headers."""
    titles = [*page.columns, *(["Trend"] if page.trends else [])]
    tables = {
        "scenarios > tbody > tr:first-child >": titles,
        "models": page.model_headers,
        "folders": page.folder_headers,
        "steps": page.move_headers,
    }
    return "".join(
        f'.{table} td:nth-child({place}) {{ --column: "{title}"; }}\n'
        for table, headers in tables.items()
        for place, title in enumerate(headers, 2)
    )


def _policy(style: str, script: str) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _packed(document: Document) -> str | None:
    """Return a long document as JSON, gzipped, in base64, or None if it is short enough to embed as it is."""
    text = json.dumps(document, separators=(",", ":"))
    if len(text) <= _EMBEDDED_CHARACTERS:
        return None
    return b64encode(gzip.compress(text.encode(), mtime=0)).decode()


_MISSING = 20
_MANY = 200
"""If there are more scenarios, those without a change have pictures only: a page has its limits, too."""
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
    """Everything that the dashboard shows."""

    judged: bool
    """Whether there was a run."""
    headline: str
    missing: Sequence[str]
    """Lines that say what was not measured."""
    facts: Sequence[str]
    verdicts: Sequence[tuple[str, int]]
    """The verdicts of a run and how often each was given, the worst first."""
    then: str
    """The name of the time that everything is compared with."""
    totals: Totals
    decisions: Decisions | None
    figures: Sequence[Figure]
    """The suite over the commits, where there are at least two."""
    moves: Sequence[SuiteMove]
    """The commits that moved the suite."""
    makeup: Makeup
    """The parts of the bill of all scenarios."""
    folders: Sequence[FolderRow]
    """The totals of the scenarios of each folder; empty if there is only one."""
    trends: bool
    """Whether there is a history."""
    columns: Sequence[str]
    rows: Sequence[ScenarioRow]
    legend: Sequence[tuple[str, str]]
    """Swatch and name of each kind of tokens, from the bottom of a stack."""
    brief: str
    """A sentence that says what is left out of the rows; empty if nothing is."""
    spend: Spend
    models: Sequence[ModelRow]
    model_headers: Sequence[str]
    folder_headers: Sequence[str]
    move_headers: Sequence[str]
    savings: Savings
    bases: Sequence[tuple[str, int]]
    """What numbers are based on, and how many scenarios have that basis."""


def page(document: Document | None, history: History | None, runs_per_month: float | None) -> Page:
    """Return the page; with neither a run nor a history, one that says so."""
    past = Past(history["commits"]) if history and history["scenarios"] else None
    listed = subjects(document, history, runs_per_month)
    columns = scenarios.columns(listed, judged=document is not None)
    brief = _in_brief(listed)
    verdicts = document["totals"]["verdicts"] if document else {}
    then = "baseline" if document else "first baseline"
    return Page(
        judged=document is not None,
        headline=run_view.opening(document) if document else _trend_headline(listed, past),
        missing=_some(run_view.missing(document)) if document else [],
        facts=list(_facts(document, history, past, runs_per_month)),
        verdicts=[(name, number) for name, number in verdicts.items() if number],
        then=then,
        totals=totals(listed, then, alarmed=bool(verdicts.get("over"))),
        decisions=decisions(document, listed) if document else None,
        figures=figures(history, past) if history and past and len(past.commits) > 1 else [],
        moves=moves(history, runs_per_month) if history else [],
        makeup=makeup(document) if document else Makeup(),
        folders=folders(listed),
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
        folder_headers=FOLDER_HEADERS,
        move_headers=MOVE_HEADERS,
        savings=savings(document, runs_per_month) if document else Savings(),
        bases=_bases(document) if document else [],
    )


def _some(missing: Sequence[str]) -> list[str]:
    more = [f"and {len(missing) - _MISSING:,} more"] if len(missing) > _MISSING else []
    return [*missing[:_MISSING], *more]


def _row(one: Subject, columns: Sequence[scenarios.Column], past: Past | None, brief: bool) -> ScenarioRow:
    return ScenarioRow(
        subject=one,
        cells=[column.cell(one) for column in columns],
        details=details(one, brief=brief),
        trend=trend(one, past, brief=brief) if past else None,
    )


def _in_brief(listed: Sequence[Subject]) -> set[str]:
    """Return the ids of the scenarios that are shown in brief: if there are many, those without a change."""
    steady = {one.id for one in listed if one.entry and not scenario_view.is_news(one.entry)}
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
        yield run_view.mode(document)
    if past:
        first, last, number = past.date(0), past.date(-1), plural(len(past.commits), "commit")
        yield f"history of {number} " + (f"of {first}" if first == last else f"from {first} to {last}")
    priced = document or history
    if priced:
        prices = priced["prices"]
        yield f"prices of {plain(prices['source'])} {plain(prices['version'])}"
    if document:
        comparable = [one for one in document["scenarios"] if scenario_view.is_comparable(one)]
        yield from [of_month] if (of_month := run_view.month(comparable)) else []
        yield f"{plain(document['tool']['name'])} {plain(document['tool']['version'])}"
    elif history:
        yield from months(runs, history.get("start"))
    if history:
        yield from other_start(history.get("other_start", ()), "in the trends")


def _bases(document: Document) -> list[tuple[str, int]]:
    found = Counter(one["basis"] for one in document["scenarios"])
    return [
        (_BASES.get(basis, basis), found[basis])
        for basis in (*_BASES, *(found.keys() - _BASES))
        if found[basis]
    ]


_DECISIONS, _SCENARIOS, _CAUSES, _BY_HAND = 20, 5, 5, 5
_REASONS = {
    "over": "Past a limit, and no part of the prompt is known to have done it",
    "cap": "Past a cap, which is set by hand",
    "stale": "The recording does not answer what the agent asks",
    "unknown": "Nobody can tell offline whether it is within its budget",
    "unrecorded": "It asks, and has no cassette",
    "new": "There is no baseline to be held against",
}
_NOT_KNOWN = "A verdict of a newer version"


@dataclass(frozen=True, slots=True)
class Failing:
    """A failing scenario in one row."""

    name: str
    anchor: str
    numbers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Decision:
    """One change, or one other reason, and the scenarios that it fails."""

    verdict: str
    title: str
    """Its place in words; empty if it has none."""
    amounts: str
    causes: Sequence[Finding]
    scenarios: Sequence[Failing]
    more: int


@dataclass(frozen=True, slots=True)
class Decisions:
    """The causes of failing scenarios, how many are left out, and the ways out."""

    shown: Sequence[Decision]
    more: str
    commands: Sequence[tuple[str, Sequence[str]]]
    """What is to be done, and the commands that do it."""
    advice: Sequence[str]
    """What has to be done by hand."""


def decisions(document: Document, subjects: Sequence[Subject]) -> Decisions:
    """Return the causes of the failing scenarios of a run, and the ways out."""
    by_id = {one.id: one for one in subjects}
    failing = [one for one in scenario_view.worst_first(document["scenarios"]) if scenario_view.fails(one)]
    changes = change_view.changes(document) if failing else []
    found = [_of_change(change, by_id) for change in changes if change.failing]
    found += [_of_reason(group, by_id) for group in change_view.unexplained(document, changes)]
    left = found[_DECISIONS:]
    others = sum(len(one.scenarios) + one.more for one in left)
    ways = ways_out(failing)
    return Decisions(
        shown=found[:_DECISIONS],
        more=f"{plural(len(left), 'more cause')}, of {plural(others, 'scenario')}" if left else "",
        commands=[(way.what, way.commands) for way in ways if way.commands],
        advice=[way.what for way in ways if not way.commands][:_BY_HAND],
    )


def _of_change(change: Change, by_id: dict[str, Subject]) -> Decision:
    return Decision(
        verdict=scenario_view.worst_first(change.failing)[0]["verdict"],
        title=change.title,
        amounts=", ".join(filter(None, (change.amounts, change.extent))),
        causes=[Finding.of(found) for found in change.findings[:_CAUSES]],
        scenarios=[_failing(one, by_id[one["id"]]) for one in change.failing[:_SCENARIOS]],
        more=max(0, len(change.failing) - _SCENARIOS),
    )


def _of_reason(group: Sequence[ScenarioEntry], by_id: dict[str, Subject]) -> Decision:
    worst = group[0]
    causes = [Finding.of(found) for found in change_view.reasons(worst)[:_CAUSES]]
    capped = all(limit["metric"].startswith("max_") for limit in worst["limits"] if limit["over"])
    reason = _REASONS.get("cap" if capped and worst["verdict"] == "over" else worst["verdict"], _NOT_KNOWN)
    return Decision(
        verdict=worst["verdict"],
        title="",
        amounts="",
        causes=causes or [Finding(reason, "")],
        scenarios=[_failing(one, by_id[one["id"]]) for one in group[:_SCENARIOS]],
        more=max(0, len(group) - _SCENARIOS),
    )


def _failing(entry: ScenarioEntry, subject: Subject) -> Failing:
    return Failing(subject.name, subject.anchor, _numbers(entry))


def _numbers(entry: ScenarioEntry) -> list[str]:
    """Return what is over in a failing scenario, and what a run costs more if that does not say it."""
    if entry["verdict"] == "over":
        its = rows(entry)
        told = any(shown.metric.endswith("cost") for shown in its) or not cost_change(entry)
        return [*map(str, its), *([] if told else [f"{cost_cell(entry)} a run"])]
    measured = entry["measured"]
    if measured is None or not is_measured(entry):
        return [f"{plural(len(entry['turns']), 'turn')}, tokens {UNKNOWN}"]
    return [
        f"{approximate(entry)}{count(measured['prompt_tokens'])} prompt tokens",
        f"{cost_cell(entry)} a run",
    ]
