"""Tell the history of the committed baselines: its values commit by commit, and its trend in the terminal.

    HISTORY = {"version": 1, "prices": {"source": ..., "version": ...},
      "commits": [{"commit": HASH, "date": "2026-11-21T09:14:02+01:00", "subject": ...}],   oldest first
      "scenarios": {ID: [{"commit": INDEX, "tokens": TOKENS | null}]}}

A scenario has a point only where its baseline changed: INDEX is the place of that commit in `commits`, and
its tokens hold until the next point; null is no baseline any more. A scenario whose test was renamed or
whose file was moved is one series under its newest id. All dollars are at the prices of today, so that
what moves is the agent and not the price list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from pytest_tokenbudget.budget.changes import Series
from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.reports import build
from pytest_tokenbudget.reports.document import TokensEntry, add
from pytest_tokenbudget.reports.text import Line, Paper, named_table, plain, wrap
from pytest_tokenbudget.reports.view import short_ids
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, money, percent, plural, signed

VERSION = 1


class CommitEntry(TypedDict):
    """A commit that changed a baseline."""

    commit: str
    """Full hash."""
    date: str
    """When it was committed, ISO 8601 with its offset."""
    subject: str
    """First line of its message; untrusted text."""


class PointEntry(TypedDict):
    """A change of one baseline."""

    commit: int
    """Index in `commits`."""
    tokens: TokensEntry | None


class History(TypedDict):
    """HISTORY."""

    version: int
    prices: dict[str, str]
    commits: list[CommitEntry]
    scenarios: dict[str, list[PointEntry]]


def from_trends(
    commits: Sequence[CommitEntry], trends: Mapping[str, Series], prices: Mapping[str, str], cost: CostOf
) -> History:
    """HISTORY of the `trends` of scenarios over `commits`."""
    return {
        "version": VERSION,
        "prices": dict(prices),
        "commits": list(commits),
        "scenarios": {
            name: [
                {"commit": place, "tokens": None if usage is None else build.tokens(usage, cost)}
                for place, usage in series
            ]
            for name, series in trends.items()
        },
    }


def states(points: Sequence[PointEntry], commits: int) -> list[TokensEntry | None]:
    """Those of one scenario after each of `commits` commits; None before its first, and once it is gone."""
    found: list[TokensEntry | None] = []
    for point in points:
        held = found[-1] if found else None
        found += [held] * (point["commit"] - len(found))
        found.append(point["tokens"])
    return found + [found[-1] if found else None] * (commits - len(found))


def suite(history: History) -> list[TokensEntry]:
    """What all baselines add up to after each commit."""
    number = len(history["commits"])
    columns = [states(points, number) for points in history["scenarios"].values()]
    return [add([one for one in row if one is not None]) for row in zip(*columns, strict=True)]


def present(history: History) -> Mapping[str, TokensEntry]:
    """The baselines after the newest commit, by id."""
    newest = {name: points[-1]["tokens"] for name, points in history["scenarios"].items() if points}
    return {name: tokens for name, tokens in newest.items() if tokens is not None}


_HEADERS = ("scenario", "prompt then", "now", "change", "a run then", "a run now", "trend of prompt")
_SPARE = ("a run then", "a run now", "prompt then")
_TREND = 20
"""Characters of a trend, one a commit; of more commits, that many, evenly apart and with both ends."""
_BARS, _ASCII_BARS = "·▁▂▃▄▅▆▇█", "._-~=+*%#"
"""What stands for no baseline, then from the least to the most."""
_SUITE = "all baselines"


def history_lines(history: History, *, columns: int, ascii_only: bool = False) -> list[Line]:
    """The suite, then every scenario whose baseline changed, the one that moved most dollars first."""
    commits = history["commits"]
    if not commits:
        return [Line("No commit holds a baseline yet. Write them with `tokenbudget update` and commit them.")]
    number = len(commits)
    series = {name: states(points, number) for name, points in history["scenarios"].items()}
    moved = {name: values for name, values in series.items() if len(history["scenarios"][name]) > 1}
    ordered = sorted(moved, key=lambda name: (-abs(_dollars(moved[name])), name))
    paper = Paper(columns, ascii_only)
    rows: list[Sequence[TokensEntry | None]] = [suite(history), *(moved[name] for name in ordered)]
    cells = [_cells(values, _ASCII_BARS if ascii_only else _BARS) for values in rows]
    lines = list(named_table([_SUITE, *short_ids(ordered)], _HEADERS, cells, paper, _SPARE))
    since, until = commits[0], commits[-1]
    steady = len(series) - len(moved)
    first, last = (f"{one['commit'][:7]} ({one['date'][:10]})" for one in (since, until))
    facts = [
        f"{plural(number, 'commit')} from {first} to {last}" if number > 1 else f"1 commit, {first}",
        f"{plural(steady, 'scenario')} never changed" if steady else "every scenario changed",
        f"all at the prices of {' '.join(history['prices'].values())}",
    ]
    lines += [Line(), *(Line(text) for text in wrap(plain("; ".join(facts)), columns))]
    return list(map(paper.fitted, lines))


def sparkline(values: Sequence[float | None], bars: str) -> str:
    """One character a value: the first of `bars` for none, the others from the least value to the most."""
    gap, steps = bars[0], bars[1:]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    least, span = min(known), max(known) - min(known)
    last = len(steps) - 1
    return "".join(
        gap if value is None else steps[round((value - least) / span * last) if span else 0]
        for value in values
    )


def _cells(values: Sequence[TokensEntry | None], bars: str) -> list[str]:
    known = [value for value in values if value is not None]
    if not known:
        return [NONE] * (len(_HEADERS) - 1)
    first, last = known[0], values[-1]
    prompts = [None if value is None else float(value["prompt_tokens"]) for value in _apart(values)]
    was = first["prompt_tokens"]
    change = NONE
    if last is not None and was and last["prompt_tokens"] != was:
        growth = (last["prompt_tokens"] - was) / was
        change = signed(growth, percent(growth))
    return [
        count(was),
        "removed" if last is None else count(last["prompt_tokens"]),
        change,
        _money(first),
        NONE if last is None else _money(last),
        sparkline(prompts, bars),
    ]


def _apart(values: Sequence[TokensEntry | None]) -> list[TokensEntry | None]:
    if len(values) <= _TREND:
        return list(values)
    return [values[round(place * (len(values) - 1) / (_TREND - 1))] for place in range(_TREND)]


def _money(value: TokensEntry) -> str:
    return UNKNOWN if value["cost_usd"] is None else money(value["cost_usd"])


def _dollars(values: Sequence[TokensEntry | None]) -> float:
    """How far the cost of a run has gone; an unknown one counts as none."""
    costs = [value["cost_usd"] or 0.0 for value in values if value is not None]
    return costs[-1] - costs[0]
