"""How a scenario's baseline went over the commits: a sparkline, a larger chart, and what moved it most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from pytest_tokenbudget.reports.axes import axis_around, compact
from pytest_tokenbudget.reports.dashboard import charts
from pytest_tokenbudget.reports.dashboard.subjects import Past, Subject
from pytest_tokenbudget.reports.history import PointEntry, states
from pytest_tokenbudget.reports.text import crop
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, money, plural, signed

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
    """Nothing where the baseline never changed."""
    growth: float | None
    moves: Sequence[Move]
    hidden: int
    """Changes that are not among the moves."""


def trend(one: Subject, past: Past, *, brief: bool = False) -> Trend | None:
    """None where no commit holds a baseline of the scenario. The run, where there was one, comes last.

    `brief`: without the table of moves.
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
    axis, path = axis_around(values, 1), f"{one.anchor}t"
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
    """The changes that moved most dollars, among equal ones most tokens; the newest first."""

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
