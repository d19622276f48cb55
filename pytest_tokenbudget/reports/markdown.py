"""The report for people on GitHub: a comment of a pull request, or the summary of a job."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.model import FindingKind
from pytest_tokenbudget.reports import text, view
from pytest_tokenbudget.reports.document import Document, FindingEntry, LimitEntry, ScenarioEntry
from pytest_tokenbudget.reports.text import code, crop, html, html_code, prose, shorten
from pytest_tokenbudget.reports.view import cost_cell, row, rows, runs_of, turn_table, ways_out
from pytest_tokenbudget.wording import count, plural, signed

_COMMENT_CHARACTERS = 60_000
"""GitHub refuses a comment of more than 65,536."""
_SUMMARY_BYTES = 1_000_000
"""GitHub drops a step summary of more than 1 MiB, without failing the job."""
_COMMENT = ((50, 10), (50, 3), (25, 1), (10, 0), (3, 0), (0, 0))
_SUMMARY = ((10_000, 500), (2_000, 100), (500, 50), (100, 20), (50, 3), (10, 0), (0, 0))
"""Rows of a table and unfolded details, from the most to the least; the first that fits is taken."""
_NAME_COLUMNS, _WHY_COLUMNS, _TURNS, _FINDINGS = 44, 100, 30, 10
_MISSING, _MISSING_COLUMNS = 20, 300
_SUFFIX = re.compile(r"[\w./ ()]*(-[\w./ ()]+)*")


@dataclass(frozen=True, slots=True)
class Cut:
    """How much of a document is written."""

    rows: int
    details: int
    every: bool
    """Every scenario is a row; else the first few of each cause."""


def markdown(
    document: Document, *, full: bool = False, suffix: str = "", runs_per_month: float | None = None
) -> str:
    """The report, its first line a hidden marker by which a comment is found again and updated.

    Short by default (under 60,000 characters), as `full` at most a megabyte; either is cut by whole rows and
    says how many. Without a change it is one quiet sentence. `suffix` tells the comments of several jobs
    apart; `runs_per_month` is of the scenarios that do not say it themselves. Raises ReportError for a suffix
    that an HTML comment cannot hold.
    """
    if not view.has_news(document):
        return f"{marker(suffix)}\n\n{prose(view.headline(document))}.\n"
    text = ""
    for most, details in _SUMMARY if full else _COMMENT:
        cut = Cut(most, details, every=full)
        text = "\n\n".join([marker(suffix), *_blocks(document, cut, runs_per_month)]) + "\n"
        if len(text.encode()) <= _SUMMARY_BYTES if full else len(text) <= _COMMENT_CHARACTERS:
            break
    return text


def marker(suffix: str = "") -> str:
    """The hidden first line: `<!-- pytest-tokenbudget -->`."""
    if not _SUFFIX.fullmatch(suffix):
        raise ReportError(
            f"The suffix of a report's marker cannot be {suffix!r}. Use letters, digits, spaces and single "
            "characters of ._/()-."
        )
    return f"<!-- pytest-tokenbudget{f' {suffix}' if suffix else ''} -->"


def _blocks(document: Document, cut: Cut, runs: float | None) -> Iterator[str]:
    listed = view.worst_first(document["scenarios"])
    told = [one for one in listed if one["verdict"] != "within"]
    within = [one for one in listed if one["verdict"] == "within"]
    failing = [one for one in told if view.fails(one)]
    shown = [(one, 0) for one in told] if cut.every else view.some_of_each_cause(told)
    yield f"### {prose(view.headline(document))}"
    yield from _listed("not measured", view.missing(document))
    yield from _listed("suspected", view.suspected(document))
    if shown[: cut.rows]:
        yield _table(shown[: cut.rows], runs)
    if left := len(told) - sum(1 + alike for _, alike in shown[: cut.rows]):
        yield f"_And {left:,} more, too many for this page: `tokenbudget report FILE` tells all of the JSON._"
    yield from _ways_out(failing)
    for group in view.by_cause(failing)[: cut.details]:
        yield from _details(*group)
    if within:
        yield from _within(within, cut.rows)
    yield f"<sub>{_footer(document)}</sub>"


def _listed(what: str, lines: Sequence[str]) -> Iterator[str]:
    """Yield lines as a list; each item begins with `what` they are, so that no word of others does."""
    if lines:
        items = [f"- **{what}**: {code(crop(line, _MISSING_COLUMNS))}" for line in lines[:_MISSING]]
        more = [f"- and {len(lines) - _MISSING:,} more"] if len(lines) > _MISSING else []
        yield "\n".join([*items, *more])


def _table(shown: Sequence[tuple[ScenarioEntry, int]], runs: float | None) -> str:
    """One row a scenario, narrow enough for a comment: what belongs together stands below each other."""
    by_month = any(runs_of(one, runs) is not None for one, _ in shown)
    cost = "Cost a run,<br>a month" if by_month else "Cost a run"
    listed = []
    for name, (one, alike) in zip(view.short_names([one for one, _ in shown]), shown, strict=True):
        its = rows(one)
        columns = zip(*((each.baseline, each.now, each.change, each.limit) for each in its), strict=True)
        numbers = ["<br>".join(map(_number, column)) for column in columns]
        month = runs_of(one, runs)
        costs = [cost_cell(one)] if month is None else [cost_cell(one), cost_cell(one, month)]
        listed.append([_about(name, one, alike), *numbers, "<br>".join(map(_number, costs))])
    headers = ("Scenario and cause", "Baseline", "Now", "Change", "Limit", cost)
    return text.markdown(headers, listed, (False, *[True] * 5))


def _about(name: str, scenario: ScenarioEntry, alike: int) -> str:
    verdict = prose(scenario["verdict"])
    if view.fails(scenario):
        verdict = f"**{verdict}**"
    if scenario["verdict"] in ("over", "improved"):
        verdict += f": {', '.join(each.metric for each in rows(scenario))}"
    more = f"_and {alike:,} more like it_" if alike else ""
    return "<br>".join(filter(None, (_name(name), verdict, _why(scenario), more)))


def _name(name: str) -> str:
    """A scenario, a part of the prompt or a place in a cell, which must not grow wide by it."""
    return code(shorten(name, _NAME_COLUMNS), cell=True)


def _number(cell: str) -> str:
    return prose(cell).replace(" ", "&nbsp;")


def _why(scenario: ScenarioEntry) -> str:
    """The first cause in one phrase, with its place."""
    for finding in view.causes(scenario):
        where, tokens = finding["where"], finding["tokens"]
        if finding["kind"] == FindingKind.GROWTH and where and tokens:
            phrase = f"{_name(where)} {signed(tokens, count(tokens))} tokens"
        elif finding["kind"] == FindingKind.CACHE_BREAK and where:
            phrase = f"cache broken at {_name(where)}"
        else:
            phrase = prose(crop(view.sentence(finding), _WHY_COLUMNS))
        place = view.place(finding)
        return f"{phrase}, {_name(place)}" if place else phrase
    return ""


def _ways_out(failing: Sequence[ScenarioEntry]) -> Iterator[str]:
    found = ways_out(failing)
    commands = [f"# {one.what}\n{shlex.join(one.command)}" for one in found if one.command]
    if commands:
        yield "\n".join(["```sh", *commands, "```"])
    yield from (f"{prose(one.what)}." for one in found if not one.command)


def _details(scenario: ScenarioEntry, *alike: ScenarioEntry) -> Iterator[str]:
    """What a reviewer unfolds: every limit, the turns, all causes and what would be cheaper."""
    turns = turn_table(scenario, _TURNS)
    facts = [scenario["verdict"], plural(len(scenario["turns"]), "turn"), *turns.facts]
    more = f" (and {len(alike):,} more like it)" if alike else ""
    yield f"<details><summary>{html_code(scenario['id'])}: {html(', '.join(facts))}{more}</summary>"
    findings = [*view.causes(scenario), *view.levers(scenario)]
    if findings:
        yield "\n".join(_finding(one) for one in findings[:_FINDINGS])
    if scenario["limits"]:
        headers = ("Limit of", "Baseline", "Now", "Change", "Limit")
        yield text.markdown(
            headers, [_limit(one, scenario) for one in scenario["limits"]], (False, *[True] * 4)
        )
    if turns.rows:
        yield text.markdown(turns.headers, [list(map(prose, cells)) for cells in turns.rows], turns.numbers)
    if turns.hidden:
        yield f"_{plural(turns.hidden, 'turn')} not shown._"
    yield "</details>"


def _limit(limit: LimitEntry, scenario: ScenarioEntry) -> list[str]:
    shown = row(limit, scenario)
    name = f"**{shown.metric}**" if limit["over"] else shown.metric
    return [name, *map(prose, (shown.baseline, shown.now, shown.change, shown.limit))]


def _finding(finding: FindingEntry) -> str:
    """A list item. It begins with a word of ours, so that no text can begin a block inside it."""
    label = "could be cheaper" if view.is_lever(finding) else prose(finding["kind"].replace("_", " "))
    facts = list(map(prose, view.facts(finding)))
    more = f" ({', '.join(facts)})" if facts else ""
    return f"- **{label}**: {prose(view.sentence(finding))}{more}"


def _within(scenarios: Sequence[ScenarioEntry], most: int) -> Iterator[str]:
    yield f"<details><summary>{plural(len(scenarios), 'scenario')} within budget</summary>"
    shown = scenarios[:most]
    if shown:
        listed = []
        for name, one in zip(view.short_names(shown), shown, strict=True):
            its = rows(one)[0]
            listed.append([_name(name), *map(prose, (its.now, its.change, its.limit, cost_cell(one)))])
        headers = ("Scenario", "Prompt tokens", "Change", "Limit", "Cost a run")
        yield text.markdown(headers, listed, (False, *[True] * 4))
    if len(scenarios) > most:
        yield f"_And {len(scenarios) - most:,} more._"
    yield "</details>"


def _footer(document: Document) -> str:
    prices = document["prices"]
    parts = [view.mode(document), f"prices of {prose(prices['source'])} {prose(prices['version'])}"]
    if document["commit"]:
        parts.insert(0, f"commit {code(document['commit'][:12])}")
    if any(one["basis"] == "estimated" for one in document["scenarios"]):
        parts.append("\\~ is estimated")
    return " · ".join(parts)
