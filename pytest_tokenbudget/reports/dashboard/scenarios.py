"""Show the table of scenarios, and what unfolds below each: causes, advice, limits, trend, turns.

A `Subject` is a scenario as the run and the history know it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from pytest_tokenbudget.reports import change_view, scenario_view
from pytest_tokenbudget.reports.dashboard import charts
from pytest_tokenbudget.reports.dashboard.charts import Bar, axis_from_zero, compact
from pytest_tokenbudget.reports.document import (
    Document,
    FindingEntry,
    ScenarioEntry,
    TokensEntry,
    TurnEntry,
    is_measured,
)
from pytest_tokenbudget.reports.history import CommitEntry, History, PointEntry, present, states
from pytest_tokenbudget.reports.scenario_view import Row, TurnTable, approximate, row, runs_of, turn_table
from pytest_tokenbudget.reports.text import crop, plain
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, listed, money, percent, plural, signed


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
    """Return the columns that have something to say of any of `subjects`; `judged` if there was a run."""
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
    return Cell(one.verdict, scenario_view.rank(one.verdict))


def _prompt(one: Subject) -> Cell:
    if one.now is None:
        return Cell(one.verdict if one.entry and scenario_view.is_departed(one.entry) else UNKNOWN)
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


_TURNS, _FINDINGS = 40, 10
"""How many are listed at most; of more turns, those that changed. The chart shows all turns."""


@dataclass(frozen=True, slots=True)
class Details:
    """What unfolds below a scenario; without a run, only its id and how many turns it has."""

    id: str
    facts: Sequence[str]
    causes: Sequence[Finding] = ()
    levers: Sequence[Finding] = ()
    limits: Sequence[tuple[Row, bool]] = ()
    """Each limit, and whether it is passed; empty if nothing changed."""
    turns: TurnTable | None = None
    chart: str = ""
    context: TurnTable | None = None
    """The parts of each turn's bill, as shares."""
    conversations: Sequence[Sequence[str]] = ()
    """One row for each conversation of an agent with subagents; else empty."""


def details(one: Subject, *, brief: bool = False) -> Details:
    """Return what is known of one scenario; if `brief`, its turns only as a picture."""
    entry = one.entry
    if entry is None:
        turns = plural(one.now["turns"], "turn") if one.now else f"turns {UNKNOWN}"
        return Details(plain(one.id), [turns])
    table = turn_table(entry, _TURNS if len(entry["turns"]) > _TURNS else None)
    if not scenario_view.is_news(entry):
        table = table.without("was").without("change")
    return Details(
        id=plain(one.id),
        facts=[
            f"line {entry['line']}",
            plural(len(entry["turns"]), "turn"),
            *(table.facts if table.rows else ()),
        ],
        causes=[Finding.of(found) for found in change_view.causes(entry)[:_FINDINGS]],
        levers=[Finding.of(found) for found in change_view.levers(entry)[:_FINDINGS]],
        limits=[(row(limit, entry), limit["over"]) for limit in entry["limits"]]
        if scenario_view.is_news(entry)
        else [],
        turns=table if table.rows and not brief else None,
        chart=_chart(entry) if entry["turns"] else "",
        context=None if brief else _context(entry),
        conversations=_conversations(entry),
    )


def _context(entry: ScenarioEntry) -> TurnTable | None:
    """Return the parts of each turn's bill, or None if no turn has a price."""
    parts = [part for part in entry["context"]["parts"] if part["tokens"]] if "context" in entry else []
    columns = [part["turns"][:_TURNS] for part in parts]
    rows = []
    for index, costs in enumerate(zip(*columns, strict=False)):
        known = [cost for cost in costs if cost is not None]
        total = sum(known)
        if total and len(known) == len(costs):
            rows.append((str(index + 1), *(percent(cost / total, 0) if cost else NONE for cost in known)))
    headers = ("turn", *(plain(part["part"]) for part in parts))
    return TurnTable(headers, tuple(rows), ()) if rows else None


def _conversations(entry: ScenarioEntry) -> list[Sequence[str]]:
    """Return number, model, turns, tokens, dollars and share of each conversation; none of one alone."""
    found = entry["context"]["conversations"] if "context" in entry else []
    if len(found) < 2:
        return []
    total = sum(one["cost_usd"] or 0.0 for one in found)
    return [
        (
            f"{number}, {plain(one['model'])}",
            listed([str(turn + 1) for turn in one["turns"][:_TURNS]]),
            count(one["tokens"]),
            UNKNOWN if one["cost_usd"] is None else money(one["cost_usd"]),
            NONE if one["cost_usd"] is None or not total else percent(one["cost_usd"] / total),
        )
        for number, one in enumerate(found, 1)
    ]


def by_kind(tokens: TokensEntry) -> tuple[int, int, int, int]:
    """Return the token counts in the order of `charts.KINDS`."""
    return (
        tokens["cache_read_input_tokens"],
        tokens["cache_creation_input_tokens"],
        tokens["input_tokens"],
        tokens["output_tokens"],
    )


def _chart(entry: ScenarioEntry) -> str:
    bars = [_bar(turn) for turn in entry["turns"]]
    known = [sum(bar.parts) for bar in bars if bar.parts]
    label = f"Tokens of {plural(len(bars), 'turn')}"
    if known:
        label += f", from {count(min(known))} to {count(max(known))}"
    return charts.stacked_bars(bars, label, compact)


def _bar(turn: TurnEntry) -> Bar:
    tokens, recorded = turn["tokens"], turn["recorded"]
    return Bar(
        parts=None if tokens is None else by_kind(tokens),
        was=None if recorded is None else sum(by_kind(recorded)),
    )


_MOVES, _SUBJECT_COLUMNS = 3, 48
_LARGER = "The same trend in large"

Pair = tuple[PointEntry, PointEntry]


@dataclass(frozen=True, slots=True)
class Move:
    """A commit that changed the baseline, and what it made of it."""

    commit: str
    date: str
    subject: str
    prompt: str
    change: str
    cost: str


@dataclass(frozen=True, slots=True)
class Trend:
    """The trend of one scenario; `growth` is that of its prompt over all commits, None where unknown."""

    spark: str
    chart: str
    """SVG; empty if the baseline never changed."""
    growth: float | None
    moves: Sequence[Move]
    hidden: int
    """How many changes are not among the moves."""


def trend(one: Subject, past: Past, *, brief: bool = False) -> Trend | None:
    """Return the trend of a scenario, or None if no commit holds a baseline of it.

    The run, if there was one, comes last. If `brief`, the table of moves is left out.
    """
    number = len(past.commits)
    values: list[float | None] = [
        None if held is None else held["prompt_tokens"] for held in states(one.points, number)
    ]
    known = [value for value in values if value is not None]
    if not known:
        return None
    first, last = past.date(0), past.date(-1)
    changes = plural(len(one.points) - 1, "change")
    label = (
        f"{count(known[0])} to {count(known[-1])} prompt tokens in {plural(number, 'commit')}, "
        f"{changes}, at most {count(max(known))}"
    )
    if one.entry is not None and one.now is not None:
        values.append(one.now["prompt_tokens"])
        last = "this run"
        label += f"; {one.about}{count(one.now['prompt_tokens'])} now"
    axis, path = axis_from_zero(max(value for value in values if value is not None) or 1), f"{one.anchor}t"
    pairs = _largest(one.points)
    dots = [after["commit"] for _, after in pairs]
    return Trend(
        spark=charts.sparkline(path, values, axis, label, one.verdict),
        chart=charts.trend_again(path, values, axis, _LARGER, compact, (first, last), dots=dots)
        if pairs
        else "",
        growth=known[-1] / known[0] - 1 if known[0] else None,
        moves=[] if brief else [_move(pair, past) for pair in pairs],
        hidden=max(0, len(one.points) - 1 - len(pairs)),
    )


def _largest(points: Sequence[PointEntry]) -> list[Pair]:
    """Return the changes that moved most dollars, among equal ones most tokens; the newest first."""

    def size(pair: Pair) -> tuple[float, float]:
        before, after = pair[0]["tokens"], pair[1]["tokens"]
        if before is None or after is None:
            return inf, 0
        dollars = (after["cost_usd"] or 0) - (before["cost_usd"] or 0)
        return abs(dollars), abs(after["prompt_tokens"] - before["prompt_tokens"])

    largest = sorted(pairwise(points), key=size, reverse=True)[:_MOVES]
    return sorted(largest, key=lambda pair: pair[1]["commit"], reverse=True)


def _move(pair: Pair, past: Past) -> Move:
    before, after = pair[0]["tokens"], pair[1]["tokens"]
    index = pair[1]["commit"]
    commit, date, subject = past.commit(index), past.date(index), crop(past.subject(index), _SUBJECT_COLUMNS)
    if after is None:
        return Move(commit, date, subject, "removed", NONE, NONE)
    change = "again" if before is None else _signed(after["prompt_tokens"] - before["prompt_tokens"])
    cost = UNKNOWN if after["cost_usd"] is None else money(after["cost_usd"])
    return Move(commit, date, subject, count(after["prompt_tokens"]), change, cost)


def _signed(number: int) -> str:
    return signed(number, count(number))


@dataclass(frozen=True, slots=True)
class Subject:
    """One scenario; without a run, its baseline of today stands for what it takes."""

    id: str
    name: str
    anchor: str
    entry: ScenarioEntry | None
    points: Sequence[PointEntry]
    runs: float | None
    """Runs a month; None if unknown."""

    @property
    def now(self) -> TokensEntry | None:
        """Tokens of a run now; None where they are unknown, stale or unrecorded."""
        if self.entry is None:
            return self.points[-1]["tokens"] if self.points else None
        return self.entry["measured"] if is_measured(self.entry) else None

    @property
    def was(self) -> TokensEntry | None:
        """Tokens that `now` is compared with: the baseline; without a run, the first one in the history."""
        if self.entry is not None:
            return self.entry["baseline"]
        return next((point["tokens"] for point in self.points if point["tokens"]), None)

    @property
    def verdict(self) -> str:
        """The verdict of the run; empty if there was none."""
        return self.entry["verdict"] if self.entry else ""

    @property
    def about(self) -> str:
        """`~` if the numbers of the prompt are estimated, else nothing."""
        return approximate(self.entry) if self.entry else ""

    @property
    def cost_change(self) -> float | None:
        """Dollars a run more than `was`; None if a cost is unknown, or there is nothing to compare with."""
        was, now = self.was, self.now
        if was is None or now is None or was["cost_usd"] is None or now["cost_usd"] is None:
            return None
        return now["cost_usd"] - was["cost_usd"]


@dataclass(frozen=True, slots=True)
class Past:
    """The commits that the trends go over, oldest first; at least one."""

    commits: Sequence[CommitEntry]

    def date(self, index: int) -> str:
        """Return the date of a commit: `2026-11-21`."""
        return plain(self.commits[index]["date"][:10])

    def commit(self, index: int) -> str:
        """Return the short hash of a commit: `9f2c41d`."""
        return plain(self.commits[index]["commit"][:7])

    def subject(self, index: int) -> str:
        """Return the first line of a commit's message."""
        return plain(self.commits[index]["subject"])


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause, or what would be cheaper, in words."""

    text: str
    facts: str

    @classmethod
    def of(cls, found: FindingEntry) -> Finding:
        """Return a finding with its place and what it amounts to, as far as they are known."""
        return cls(change_view.sentence(found), ", ".join(change_view.facts(found)))


def subjects(document: Document | None, history: History | None, runs: float | None) -> list[Subject]:
    """Return the scenarios of a run, the worst first; without one, those with a baseline, the dearest first.

    `runs` is how often a month a scenario runs, if its marker or the settings of its run do not say it.
    """
    points: Mapping[str, Sequence[PointEntry]] = history["scenarios"] if history else {}
    entries = {one["id"]: one for one in scenario_view.worst_first(document["scenarios"])} if document else {}
    ids = list(entries)
    if document is None and history is not None:
        living = present(history)
        ids = sorted(living, key=lambda name: (-(living[name]["cost_usd"] or 0), name))
    return [
        Subject(
            id=one,
            name=name,
            anchor=f"s{index}",
            entry=entries.get(one),
            points=points.get(one, ()),
            runs=runs_of(entries[one], runs) if one in entries else runs,
        )
        for index, (one, name) in enumerate(zip(ids, scenario_view.short_ids(ids), strict=True))
    ]
