"""A scenario as the run and the history know it, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_tokenbudget.reports import view
from pytest_tokenbudget.reports.document import Document, FindingEntry, ScenarioEntry, TokensEntry
from pytest_tokenbudget.reports.history import CommitEntry, History, PointEntry, present
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.reports.view import approximate, runs_of


@dataclass(frozen=True, slots=True)
class Subject:
    """One scenario; where there was no run, its baseline of today stands for what it takes."""

    id: str
    name: str
    anchor: str
    entry: ScenarioEntry | None
    points: Sequence[PointEntry]
    runs: float | None
    """A month."""

    @property
    def now(self) -> TokensEntry | None:
        """What a run takes; None where it is unknown or stale."""
        if self.entry is None:
            return self.points[-1]["tokens"] if self.points else None
        return None if self.entry["verdict"] == "stale" else self.entry["measured"]

    @property
    def was(self) -> TokensEntry | None:
        """What it is held against: its baseline, else its first one in the history."""
        if self.entry is not None:
            return self.entry["baseline"]
        return next((point["tokens"] for point in self.points if point["tokens"]), None)

    @property
    def verdict(self) -> str:
        """Nothing where there was no run."""
        return self.entry["verdict"] if self.entry else ""

    @property
    def about(self) -> str:
        """`~` where the numbers of the prompt are estimated."""
        return approximate(self.entry) if self.entry else ""

    @property
    def cost_change(self) -> float | None:
        """Dollars a run; None where unknown, or where there is nothing to hold it against."""
        was, now = self.was, self.now
        if was is None or now is None or was["cost_usd"] is None or now["cost_usd"] is None:
            return None
        return now["cost_usd"] - was["cost_usd"]


@dataclass(frozen=True, slots=True)
class Past:
    """The commits that the trends go over, oldest first; at least one."""

    commits: Sequence[CommitEntry]

    def date(self, index: int) -> str:
        """`2026-11-21`."""
        return plain(self.commits[index]["date"][:10])

    def commit(self, index: int) -> str:
        """`9f2c41d`."""
        return plain(self.commits[index]["commit"][:7])

    def subject(self, index: int) -> str:
        """The first line of the message."""
        return plain(self.commits[index]["subject"])


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause, or what would be cheaper, in words."""

    text: str
    facts: str

    @classmethod
    def of(cls, found: FindingEntry) -> Finding:
        """With its place and what it amounts to, as far as they are known."""
        return cls(view.sentence(found), ", ".join(view.facts(found)))


def subjects(document: Document | None, history: History | None, runs: float | None) -> list[Subject]:
    """Those of the run, the worst first; without a run those that have a baseline, the dearest first."""
    points: Mapping[str, Sequence[PointEntry]] = history["scenarios"] if history else {}
    entries = {one["id"]: one for one in view.worst_first(document["scenarios"])} if document else {}
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
        for index, (one, name) in enumerate(zip(ids, view.short_ids(ids), strict=True))
    ]
