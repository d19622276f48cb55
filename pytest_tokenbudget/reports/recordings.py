"""What a recording run has written, and what it cost, at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from pytest_tokenbudget.wording import money, plural

_MOST = 20
"""Cassettes that are named without -v."""


class RecordedEntry(TypedDict):
    """One cassette that was written; builtins only, so that it crosses processes."""

    cassette: str
    """Its path, absolute."""
    turns: int
    """That it holds."""
    called: int
    """Turns that were really called for it."""
    cost_usd: float | None
    """Of these; None where nobody knows."""


class Recordings:
    """All cassettes that a run has written."""

    def __init__(self) -> None:
        self._entries: dict[str, RecordedEntry] = {}

    def add(self, entry: RecordedEntry) -> None:
        """Take in one; of a test that runs again, all its calls were paid for."""
        before = self._entries.get(entry["cassette"])
        if before is not None:
            one, other = before["cost_usd"], entry["cost_usd"]
            cost = None if one is None or other is None else one + other
            entry = {**entry, "called": before["called"] + entry["called"], "cost_usd": cost}
        self._entries[entry["cassette"]] = entry

    def lines(self, shown: Callable[[Path], object], verbosity: int = 0) -> Iterator[str]:
        """A line for each cassette, its path as it is `shown`, and one for all; that one only under -q."""
        entries = list(self._entries.values())
        named = entries if verbosity > 0 else entries[:_MOST] if verbosity == 0 else []
        for one in named:
            yield f"wrote {shown(Path(one['cassette']))}: {_facts([one])}"
        if 0 < len(named) < len(entries):
            yield f"and {len(entries) - len(named):,} cassettes more: -v shows them all"
        if len(entries) > 1 or (entries and not named):
            yield f"recorded {plural(len(entries), 'cassette')}: {_facts(entries)}"


def _facts(entries: Sequence[RecordedEntry]) -> str:
    """`3 turns, 2 called, $0.0123`"""
    turns, called = sum(one["turns"] for one in entries), sum(one["called"] for one in entries)
    facts = [plural(turns, "turn"), *([] if called == turns else [f"{called:,} called"])]
    known = [one["cost_usd"] for one in entries if one["cost_usd"] is not None]
    cost = money(sum(known))
    if len(known) < len(entries):
        cost = f"at least {cost}" if sum(known) else "cost unknown"
    return ", ".join([*facts, cost])
