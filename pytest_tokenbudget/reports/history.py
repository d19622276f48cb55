"""Tell the history of the committed baselines, and what a log says of the runs that were made.

    HISTORY = {"version": 1, "prices": {"source": ..., "version": ...},
      "web": "https://github.com/owner/name" | null,   where the remote is known
      "commits": [{"commit": HASH, "date": "2026-11-21T09:14:02+01:00", "subject": ...}],   oldest first
      "scenarios": {ID: [{"commit": INDEX, "tokens": TOKENS | null}]},
      "other_start": [ID, ...],   left out where there are none
      "start": {...}}   what all baselines of now cost, by what the prompt cache holds when a run begins

A scenario has a point only where its baseline changed. INDEX is the place of that commit in `commits`, and
its tokens hold until the next point; null says that the baseline is gone. A scenario whose test was renamed
or whose file was moved is one series under its newest id. All dollars are at the prices of today, so that
changes of the agent show and not those of the price list. `other_start` names scenarios whose recordings
began with different prompt caches: what these read from a cache that they did not fill counts as written
throughout.

A log (`--token-budget-log`) has one line of JSON (LogEntry) for each scenario that was metered, in the order
in which they ended.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NotRequired, TypedDict, cast

from pytest_tokenbudget.budget.changes import Series
from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.metering.meter import Run
from pytest_tokenbudget.model import Basis
from pytest_tokenbudget.reports import build
from pytest_tokenbudget.reports.document import StartsEntry, TokensEntry, add, problems
from pytest_tokenbudget.reports.scenario_view import months, other_start, short_ids
from pytest_tokenbudget.reports.text import Line, Paper, crop, named_table, plain, wrap
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
    """The baselines of all scenarios over the commits: HISTORY."""

    version: int
    prices: dict[str, str]
    web: NotRequired[str | None]
    """The address of the repository on its GitHub; None if unknown."""
    commits: list[CommitEntry]
    scenarios: dict[str, list[PointEntry]]
    other_start: NotRequired[list[str]]
    """Ids of scenarios that were recorded from different caches: foreign reads count as writes."""
    start: NotRequired[StartsEntry]
    """What the baselines after the newest commit cost, from the start of each recording and from others."""


def from_trends(
    commits: Sequence[CommitEntry],
    trends: Mapping[str, Series],
    prices: Mapping[str, str],
    cost: CostOf,
    web: str | None = None,
) -> History:
    """Return the HISTORY of the `trends` of scenarios over `commits`."""
    return {
        "version": VERSION,
        "prices": dict(prices),
        "web": web,
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
    """Return the tokens of one scenario after each of `commits` commits.

    None stands for no baseline: before its first one, and once it is gone.
    """
    found: list[TokensEntry | None] = []
    for point in points:
        held = found[-1] if found else None
        found += [held] * (point["commit"] - len(found))
        found.append(point["tokens"])
    return found + [found[-1] if found else None] * (commits - len(found))


def suite(history: History) -> list[TokensEntry]:
    """Return the sum of all baselines after each commit."""
    number = len(history["commits"])
    columns = [states(points, number) for points in history["scenarios"].values()]
    return [add([one for one in row if one is not None]) for row in zip(*columns, strict=True)]


def present(history: History) -> Mapping[str, TokensEntry]:
    """Return the baselines after the newest commit, by id."""
    newest = {name: points[-1]["tokens"] for name, points in history["scenarios"].items() if points}
    return {name: tokens for name, tokens in newest.items() if tokens is not None}


@dataclass(frozen=True, slots=True)
class Step:
    """A commit that moved the suite, and by how much, all baselines together."""

    commit: CommitEntry
    tokens: int
    """Prompt tokens a run more than before."""
    dollars: float | None
    """Dollars a run more than before; None if a price is missing."""
    changed: int
    """How many baselines it changed."""
    added: int
    removed: int

    @property
    def pull_request(self) -> int | None:
        """Return the number of the pull request that the commit's subject names, as GitHub writes it."""
        found = _PULL_REQUEST.search(self.commit["subject"])
        return int(found[1] or found[2]) if found else None

    @property
    def scenarios(self) -> str:
        """Return how many baselines it moved, in words: `5 changed, 1 added`."""
        counts = (self.changed, "changed"), (self.added, "added"), (self.removed, "removed")
        return ", ".join(f"{number:,} {what}" for number, what in counts if number)


_PULL_REQUEST = re.compile(r"^Merge pull request #(\d{1,9})\b|\(#(\d{1,9})\)$")


def steps(history: History, most: int) -> list[Step]:
    """Return the commits after the first that moved the suite most, in dollars, then tokens; newest first."""
    moved: dict[int, list[tuple[TokensEntry | None, TokensEntry | None]]] = defaultdict(list)
    for points in history["scenarios"].values():
        before: TokensEntry | None = None
        for point in points:
            moved[point["commit"]].append((before, point["tokens"]))
            before = point["tokens"]
    found = [_step(history["commits"][place], sides) for place, sides in sorted(moved.items()) if place]
    largest = sorted(found, key=lambda step: (-abs(step.dollars or 0.0), -abs(step.tokens)))[:most]
    return [step for step in reversed(found) if step in largest]


def _step(commit: CommitEntry, sides: Sequence[tuple[TokensEntry | None, TokensEntry | None]]) -> Step:
    costs = [0.0 if side is None else side["cost_usd"] for pair in sides for side in pair]
    was, now = (sum(side["prompt_tokens"] for side in column if side) for column in zip(*sides, strict=True))
    signs = [-1, 1] * len(sides)
    known = [sign * cost for sign, cost in zip(signs, costs, strict=True) if cost is not None]
    kinds = [(before is None, after is None) for before, after in sides]
    dollars = round(sum(known), 10) if len(known) == len(costs) else None
    counts = (kinds.count(kind) for kind in ((False, False), (True, False), (False, True)))
    return Step(commit, now - was, dollars, *counts)


_HEADERS = ("scenario", "prompt then", "now", "change", "a run then", "a run now", "trend of prompt")
_SPARE = ("a run then", "a run now", "prompt then", "a month now")
_STEPS, _STEP_HEADERS = 8, ("commit", "baselines", "prompt", "a run", "a month")
_SUBJECT = 60
_STEPS_TITLE = "The commits that moved it most, the newest first"
_TREND = 20
"""Most characters of a trend, one a commit; of more commits, as many, evenly apart and with both ends."""
_BARS, _ASCII_BARS = "·▁▂▃▄▅▆▇█", "._-~=+*%#"
"""The character for no baseline, then those from 0 to the largest value."""
_SUITE = "all baselines"


def history_lines(
    history: History, *, columns: int, ascii_only: bool = False, runs_per_month: float | None = None
) -> list[Line]:
    """Return the suite, every scenario that changed, the one that moved most dollars first, and the commits.

    `runs_per_month` adds dollars a month.
    """
    commits = history["commits"]
    if not commits:
        return [Line("No commit holds a baseline yet. Write them with `tokenbudget update` and commit them.")]
    number = len(commits)
    series = {name: states(points, number) for name, points in history["scenarios"].items()}
    moved = {name: values for name, values in series.items() if len(history["scenarios"][name]) > 1}
    ordered = sorted(moved, key=lambda name: (-abs(_dollars(moved[name])), name))
    paper = Paper(columns, ascii_only)
    rows: list[Sequence[TokensEntry | None]] = [suite(history), *(moved[name] for name in ordered)]
    cells = [_cells(values, _ASCII_BARS if ascii_only else _BARS, runs_per_month) for values in rows]
    headers = (*_HEADERS[:-1], *(("a month now",) if runs_per_month else ()), _HEADERS[-1])
    lines = list(named_table([_SUITE, *short_ids(ordered)], headers, cells, paper, _SPARE))
    if moves := steps(history, _STEPS):
        lines += [Line(), *_step_lines(moves, paper, runs_per_month)]
    since, until = commits[0], commits[-1]
    steady = len(series) - len(moved)
    first, last = (f"{one['commit'][:7]} ({one['date'][:10]})" for one in (since, until))
    facts = [
        f"{plural(number, 'commit')} from {first} to {last}" if number > 1 else f"1 commit, {first}",
        f"{plural(steady, 'scenario')} never changed" if steady else "every scenario changed",
        f"all at the prices of {' '.join(history['prices'].values())}",
        *other_start(history.get("other_start", ()), "throughout"),
    ]
    notes = ["; ".join(facts), *months(runs_per_month, history.get("start"))]
    lines += [Line(), *(Line(text) for note in notes for text in wrap(plain(note), columns))]
    return list(map(paper.fitted, lines))


def _step_lines(moves: Sequence[Step], paper: Paper, runs: float | None) -> Iterator[Line]:
    """Yield a row a commit: when, its hash, its subject, and what it made of the suite."""
    names = [
        plain(
            f"{step.commit['date'][:10]} {step.commit['commit'][:7]} {crop(step.commit['subject'], _SUBJECT)}"
        )
        for step in moves
    ]
    cells = []
    for step in moves:
        dollars = [step.dollars, None if step.dollars is None or not runs else step.dollars * runs]
        money_cells = [UNKNOWN if amount is None else signed(amount, money(amount)) for amount in dollars]
        cells.append(
            [step.scenarios, signed(step.tokens, count(step.tokens)), *money_cells[: 2 if runs else 1]]
        )
    yield from (Line(text, "bold") for text in wrap(_STEPS_TITLE, paper.columns))
    headers = _STEP_HEADERS if runs else _STEP_HEADERS[:-1]
    yield from named_table(names, headers, cells, paper, ("baselines", "a month"))


def sparkline(values: Sequence[float | None], bars: str) -> str:
    """Return a character a value: the first of `bars` for none, the others from 0 to the largest value."""
    gap, steps = bars[0], bars[1:]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    most, last = max(known), len(steps) - 1
    return "".join(
        gap if value is None else steps[round(value / most * last) if most else 0] for value in values
    )


def _cells(values: Sequence[TokensEntry | None], bars: str, runs: float | None) -> list[str]:
    known = [value for value in values if value is not None]
    if not known:
        return [NONE] * (len(_HEADERS) - (0 if runs else 1))
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
        *([NONE if last is None else _money(last, runs)] if runs else ()),
        sparkline(prompts, bars),
    ]


def _apart(values: Sequence[TokensEntry | None]) -> list[TokensEntry | None]:
    if len(values) <= _TREND:
        return list(values)
    return [values[round(place * (len(values) - 1) / (_TREND - 1))] for place in range(_TREND)]


def _money(value: TokensEntry, runs: float = 1) -> str:
    return UNKNOWN if value["cost_usd"] is None else money(value["cost_usd"] * runs)


def _dollars(values: Sequence[TokensEntry | None]) -> float:
    """Return how many dollars the last cost is above the first; an unknown cost counts as 0."""
    costs = [value["cost_usd"] or 0.0 for value in values if value is not None]
    return costs[-1] - costs[0]


class LogTurn(TypedDict):
    """One turn of a line of the log."""

    model: str | None
    basis: str
    tokens: TokensEntry | None


class LogEntry(TypedDict):
    """One line of the log."""

    version: int
    time: str
    """When the scenario was over: ISO 8601, UTC."""
    id: str
    commit: str | None
    mode: str
    outcome: str
    """Its verdict; without one `passed`, `failed`, `skipped`, `stopped` (a cap) or `not_run` (a limit)."""
    measured: TokensEntry | None
    """The tokens of the run; None if any turn is unknown."""
    turns: list[LogTurn]
    paid_usd: float
    """Dollars that its real calls billed, as far as they are known."""
    paid_unknown: int
    """How many of its real calls did not say what they billed."""


_LOG_VERSION = 1
ENDED_EARLY = frozenset({"failed", "skipped", "stopped", "not_run", "stale", "unrecorded", "unknown"})
"""Outcomes of runs that did not come to their end, so that they are not compared."""


def log_entry(
    name: str,
    run: Run | None,
    cost: CostOf,
    *,
    time: datetime,
    commit: str | None,
    mode: str,
    outcome: str,
    paid: Decimal,
    unknown: int,
) -> LogEntry:
    """Return the line of one scenario; `run` is None if it is not known what it did."""
    run = run or Run()
    is_known = bool(run.turns) and run.basis != Basis.UNKNOWN
    return {
        "version": _LOG_VERSION,
        "time": time.isoformat(timespec="milliseconds"),
        "id": name,
        "commit": commit,
        "mode": mode,
        "outcome": outcome,
        "measured": build.tokens(run.usage, cost) if is_known else None,
        "turns": [
            {"model": turn["model"], "basis": turn["basis"], "tokens": turn["tokens"]}
            for turn in build.turns(run, cost)
        ],
        "paid_usd": round(float(paid), 10),
        "paid_unknown": unknown,
    }


def read_log(text: str, name: str) -> list[LogEntry]:
    """Read the lines of a log. Raises ReportError with `name`, the line and what is wrong with it."""
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{name}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ReportError(f"{where} is not JSON: {error}. Delete the line.") from error
        if (
            isinstance(entry, dict)
            and isinstance(entry.get("version"), int)
            and entry["version"] > _LOG_VERSION
        ):
            raise ReportError(f"{where} was written by a newer pytest-tokenbudget. Upgrade it.")
        wrong = next(problems(entry, _LOG_RULE), None)
        if wrong is not None:
            raise ReportError(f"{where}: {wrong}. Delete the line.")
        entries.append(cast("LogEntry", entry))
    return entries


_TOKENS_OR_NONE = {"anyOf": [{"$ref": "#/$defs/tokens"}, {"type": "null"}]}
_LOG_RULE = {
    "type": "object",
    "required": list(LogEntry.__annotations__),
    "properties": {
        "version": {"const": _LOG_VERSION},
        "time": {"type": "string"},
        "id": {"type": "string"},
        "commit": {"type": ["string", "null"]},
        "mode": {"type": "string"},
        "outcome": {"type": "string"},
        "measured": _TOKENS_OR_NONE,
        "turns": {"type": "array", "items": {"type": "object"}},
        "paid_usd": {"type": "number", "minimum": 0},
        "paid_unknown": {"type": "integer", "minimum": 0},
    },
}
"""A schema in the part of JSON Schema that the document's schema uses, whose definitions it refers to."""

_LOG_HEADERS = ("scenario", "runs", "prompt", "spread", "a run", "paid", "ended early", "trend of cost")


def log_lines(entries: Sequence[LogEntry], *, columns: int, ascii_only: bool = False) -> list[Line]:
    """Return the scenarios of a log, the one that was paid most for first, and what was paid in all."""
    if not entries:
        return [Line("The log is empty. Runs add to it with --token-budget-log=FILE.")]
    runs: dict[str, list[LogEntry]] = defaultdict(list)
    for entry in entries:
        runs[entry["id"]].append(entry)
    paper = Paper(columns, ascii_only)
    ordered = sorted(runs, key=lambda name: (-sum(entry["paid_usd"] for entry in runs[name]), name))
    cells = [_log_cells(runs[name], _ASCII_BARS if ascii_only else _BARS) for name in ordered]
    lines = list(named_table(short_ids(ordered), _LOG_HEADERS, cells, paper, ("spread", "ended early")))
    commits = len({entry["commit"] for entry in entries if entry["commit"]})
    facts = [
        f"{plural(len(entries), 'line')}, {plural(commits, 'commit')}",
        f"{entries[0]['time'][:10]} to {entries[-1]['time'][:10]}",
        f"paid {log_paid(entries)}",
    ]
    lines += [Line(), *(Line(text) for text in wrap(plain("; ".join(facts)), columns))]
    return list(map(paper.fitted, lines))


def log_paid(entries: Sequence[LogEntry]) -> str:
    """Return what the real calls of some lines billed: `$0.0512`, or at least that."""
    usd, unknown = (
        sum(entry["paid_usd"] for entry in entries),
        any(entry["paid_unknown"] for entry in entries),
    )
    if unknown:
        return f"at least {money(usd)}" if usd else UNKNOWN
    return money(usd)


def _log_cells(entries: Sequence[LogEntry], bars: str) -> list[str]:
    measured = [
        entry["measured"]
        for entry in entries
        if entry["measured"] is not None and entry["outcome"] not in ENDED_EARLY
    ]
    prompts = [tokens["prompt_tokens"] for tokens in measured]
    costs = [tokens["cost_usd"] for tokens in measured]
    known = [cost for cost in costs if cost is not None]
    mean = statistics.fmean(prompts) if prompts else 0
    is_spread = len(prompts) > 1 and mean
    shown = costs if len(costs) <= _TREND else costs[-_TREND:]
    return [
        count(len(entries)),
        count(mean) if prompts else NONE,
        f"±{percent(statistics.stdev(prompts) / mean)}" if is_spread else NONE,
        money(statistics.fmean(known)) if known else NONE,
        log_paid(entries),
        count(len(entries) - len(measured)),
        sparkline(shown, bars),
    ]
