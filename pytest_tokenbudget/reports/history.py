"""The history of the committed baselines: its types, and its values commit by commit.

    HISTORY = {"version": 1, "prices": {"source": ..., "version": ...},
      "commits": [{"commit": HASH, "date": "2026-11-21T09:14:02+01:00", "subject": ...}],   oldest first
      "scenarios": {ID: [{"commit": INDEX, "tokens": TOKENS | null}]}}

A scenario has a point only where its baseline changed: INDEX is the place of that commit in `commits`, and
its tokens hold until the next point; null is no baseline any more. A scenario whose test was renamed or whose
file was moved is one series under its newest id. All dollars are at the prices of today, so that what moves
is the agent and not the price list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from pytest_tokenbudget.budget.trend import Series
from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.reports import build
from pytest_tokenbudget.reports.document import TokensEntry, add

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
