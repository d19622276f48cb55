"""Add up the real calls of a whole run, in all its processes, and hold them below one limit in dollars.

What a call costs is bounded before it is made: by the least that it counts, and the most that it may bill.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pytest_tokenbudget.errors import RecordingError
from pytest_tokenbudget.metering.cache_rules import hidden_sizes, server_tools
from pytest_tokenbudget.metering.meter import Meter, Run, Turn
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.metering.rendering import block_weights
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.replay.playback import Call
from pytest_tokenbudget.settings import RecordMode
from pytest_tokenbudget.wire.answers import asked_modifiers
from pytest_tokenbudget.wire.exchange import Request
from pytest_tokenbudget.wire.prompt import Prompt, as_mapping, mappings
from pytest_tokenbudget.wording import dollars, plural

if TYPE_CHECKING:
    import sqlite3

_PATIENCE = 600.0
"""Seconds that a call waits for those under way to settle: as long as the SDKs wait for an answer."""
_POLL = 0.05  # seconds
_OPTION = "--token-budget-max-spend"
_NOT_RUN = "not run: spend limit"
_TABLES = """
CREATE TABLE IF NOT EXISTS spent (id INTEGER PRIMARY KEY, usd TEXT, calls INTEGER);
CREATE TABLE IF NOT EXISTS held (id INTEGER PRIMARY KEY AUTOINCREMENT, usd TEXT, open INTEGER);
CREATE TABLE IF NOT EXISTS first (id INTEGER PRIMARY KEY, model TEXT, usd TEXT);
CREATE TABLE IF NOT EXISTS refused (scenario TEXT PRIMARY KEY);
INSERT OR IGNORE INTO spent VALUES (1, '0', 0);
"""
"""`spent` has what was billed, and by how many calls. `held` has the worst cases of calls that are not
settled; `open` is 0 where nobody waits for the answer any more, so that it never will be. Amounts are
decimals as text, 0 where there is no limit to hold."""


@dataclass(frozen=True, slots=True)
class Paid:
    """The real calls of a run so far, and what they billed."""

    calls: int
    """All that may have been billed."""
    usd: Decimal
    unknown: int
    """How many of the calls did not say what they billed."""

    def __str__(self) -> str:
        """Return it in words: `9 real calls, $0.0512`; at least that, if not all is known."""
        if not self.unknown:
            return f"{plural(self.calls, 'real call')}, {dollars(self.usd)}"
        known = f"at least {dollars(self.usd)}" if self.usd else "cost unknown"
        return f"{plural(self.calls, 'real call')}, {known}: nobody knows what {self.unknown:,} billed"


class Spending:
    """What a run has spent and may still spend. Thread-safe, and shared by all processes with one `purse`.

    A call holds its worst case until its answer tells what was billed; if none does, it holds it for good. So
    does a batch. Without a limit nothing is held back, and all is added up.
    """

    def __init__(
        self, limit: Decimal | None, prices: Prices, purse: Path, *, allow_unbounded: bool = False
    ) -> None:
        """Take `purse`, the file that the processes of the run share; it need not exist."""
        self._limit = limit
        self._prices = prices
        self._purse = purse
        self._allow_unbounded = allow_unbounded
        self._rows: dict[Call, int] = {}
        self._lock = threading.Lock()
        with contextlib.closing(self._connection()) as made:
            made.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")

    def hold(self, call: Call) -> None:
        """Set the worst case of a call aside; wait while calls under way may still make room for it.

        Raises RecordingError if it could pass the limit, or if its worst case is unknown.
        """
        worst = Decimal(0) if self._limit is None else self._worst(call)
        deadline = time.monotonic() + _PATIENCE
        while not self._holds(call, worst):
            if time.monotonic() > deadline:
                raise self._refused(call, worst)
            time.sleep(_POLL)

    def settle(self, call: Call, cost: Decimal | None) -> None:
        """Count what a call has billed, in dollars; None is unknown, so that its worst case stays."""
        with self._lock:
            row = self._rows.pop(call, None)
        if row is None:
            return
        with self._opened() as purse:
            if cost is None:
                purse.execute("UPDATE held SET open = 0 WHERE id = ?", (row,))
                return
            purse.execute("DELETE FROM held WHERE id = ?", (row,))
            usd = str(_spent(purse) + cost)
            purse.execute("UPDATE spent SET usd = ?, calls = calls + ?", (usd, int(cost > 0)))

    def close_left(self) -> None:
        """Let no other process wait for calls that were left in this one: their worst case stays held."""
        if any(call.left for call in list(self._rows)):
            with self._lock, self._opened() as purse:
                self._close_left(purse)

    def _close_left(self, purse: sqlite3.Connection) -> None:
        for left, row in [(left, row) for left, row in self._rows.items() if left.left]:
            purse.execute("UPDATE held SET open = 0 WHERE id = ?", (row,))
            del self._rows[left]

    def paid(self) -> Paid:
        """Return what was billed so far; a call that is under way counts as one of unknown cost."""
        with self._opened() as purse:
            usd, (calls,) = _spent(purse), purse.execute("SELECT calls FROM spent").fetchone()
            unknown = len(_held(purse))
        return Paid(calls + unknown, usd, unknown)

    def opening(self) -> str | None:
        """Return how many calls the limit allows at once, or None before the first."""
        with self._opened() as purse:
            first = purse.execute("SELECT model, usd FROM first").fetchone()
        if first is None or self._limit is None:
            return None
        model, worst = first[0], Decimal(first[1])
        times = int(self._limit / worst) if worst else 0
        allowed = f"{times:,} at once" if times else "none"
        return f"one call of {model} can cost {dollars(worst)}: {_OPTION}={self._limit} allows {allowed}"

    def closing(self) -> str | None:
        """Return what was spent and how many tests the limit kept from running; None if it kept none."""
        with self._opened() as purse:
            (refused,) = purse.execute("SELECT COUNT(*) FROM refused").fetchone()
            spent, held = _spent(purse), sum((usd for _, usd, _ in _held(purse)), Decimal(0))
        if not refused:
            return None
        unknown = f", and at most {dollars(held)} for answers that never came whole" if held else ""
        billed = f"{dollars(spent)} billed{unknown}"
        return f"not run: {plural(refused, 'test')}, by {_OPTION}={self._limit} ({billed})"

    def _worst(self, call: Call) -> Decimal:
        """Return the dollars that a call bills at most. Raises RecordingError if that is unknown."""
        for request in call.requests:
            reason = unbounded(request.prompt)
            if not call.is_whole:
                reason = "it continues a message thread whose text is unknown"
            if reason and not self._allow_unbounded:
                self._note_refused(call.asker)
                raise RecordingError(
                    f"{_NOT_RUN}. Nobody can say what a call to {request.prompt.model} costs at most "
                    f"({reason}), so that {_OPTION}={self._limit} cannot be held. Drop the limit, or set "
                    "max_spend_unbounded = true, and such calls count as if they had one round."
                )
        costs = [self._prices.cost(self._prices.tiered(most(request))) for request in call.requests]
        if any(cost is None for cost in costs):
            self._note_refused(call.asker)
            raise RecordingError(
                f"{_NOT_RUN}. No price is known for {call.requests[0].prompt.model}, so that nobody "
                f"can tell whether its call stays below {_OPTION}={self._limit}. Name a model with a known "
                "price, or drop the limit."
            )
        return sum((cost for cost in costs if cost is not None), Decimal(0))

    def _holds(self, call: Call, worst: Decimal) -> bool:
        """Set the worst case aside and return True, or False if there may be room later.

        Raises RecordingError if there will be no room.
        """
        with self._lock, self._opened() as purse:
            self._close_left(purse)
            model = call.requests[0].prompt.model
            purse.execute("INSERT OR IGNORE INTO first VALUES (1, ?, ?)", (model, str(worst)))
            held = _held(purse)
            taken = _spent(purse) + sum((usd for _, usd, _ in held), Decimal(0))
            if self._limit is None or taken + worst <= self._limit:
                added = purse.execute("INSERT INTO held (usd, open) VALUES (?, 1)", (str(worst),))
                self._rows[call] = int(added.lastrowid or 0)
                return True
            # What this very thread has under way cannot be answered while it waits here.
            own = {row for other, row in self._rows.items() if other.thread == call.thread}
            settles = sum((usd for row, usd, is_open in held if is_open and row not in own), Decimal(0))
            if taken - settles + worst <= self._limit:
                return False
        raise self._refused(call, worst)

    def _refused(self, call: Call, worst: Decimal) -> RecordingError:
        """Return the error for a call that could pass the limit; in full for the first test of the run."""
        model = call.requests[0].prompt.model
        if not self._note_refused(call.asker):
            return RecordingError(f"{_NOT_RUN} ({_OPTION}={self._limit})")
        with self._opened() as purse:
            spent, held = _spent(purse), sum((usd for _, usd, _ in _held(purse)), Decimal(0))
        under_way = f", {dollars(held)} is held for calls without a whole answer" if held else ""
        return RecordingError(
            f"{_NOT_RUN}. {dollars(spent)} is spent{under_way}, and a call to {model} could cost "
            f"{dollars(worst)} more, past {_OPTION}={self._limit}. Raise it, or lower the agent's max_tokens."
        )

    def _note_refused(self, scenario: str) -> bool:
        """Note that a scenario was refused a call; return whether it is the first one of the run."""
        with self._opened() as purse:
            purse.execute("INSERT OR IGNORE INTO refused VALUES (?)", (scenario,))
            (first,) = purse.execute("SELECT scenario FROM refused ORDER BY rowid LIMIT 1").fetchone()
        return bool(first == scenario)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Yield the purse for one transaction, which no other thread or process sees half of."""
        with contextlib.closing(self._connection()) as purse:
            purse.execute("BEGIN IMMEDIATE")
            yield purse
            purse.execute("COMMIT")

    def _connection(self) -> sqlite3.Connection:
        import sqlite3

        connection = sqlite3.connect(self._purse, timeout=60, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")  # it need not survive the machine
        return connection


def _spent(purse: sqlite3.Connection) -> Decimal:
    return Decimal(purse.execute("SELECT usd FROM spent").fetchone()[0])


def _held(purse: sqlite3.Connection) -> list[tuple[int, Decimal, bool]]:
    """Return row, dollars and whether it is open, of each call that is not settled."""
    rows = purse.execute("SELECT id, usd, open FROM held").fetchall()
    return [(row, Decimal(usd), bool(is_open)) for row, usd, is_open in rows]


_MARGIN = 1.5
"""The factor by which a prompt may differ from its cheap count: more than any error in docs/accuracy.md."""
_API_TOOL = 1_500
"""Tokens that a tool of the API's own may add beside what the request shows, more than any documented one:
computer use adds 735 and a system prompt of 499 ("Tool use", pricing)."""


def unbounded(prompt: Prompt) -> str | None:
    """Return why it cannot be said before a call what it costs at most, or None if it can.

    Server tools, MCP and advisors bill rounds inside one answer, a compaction its own summary, a fallback
    another model. A PDF, a file and an image by URL have no known size.
    """
    if reason := server_tools(prompt) or next(iter(hidden_sizes(prompt).values()), None):
        return reason
    edits = as_mapping(prompt.options.get("context_management")).get("edits")
    if any(str(edit.get("type", "")).startswith("compact") for edit in mappings(edits)):
        return "context_management: a compaction bills a summary beside the answer"
    for option in ("fallbacks", "fallback"):
        if prompt.options.get(option):
            return f"{option}: another model may answer, and bill, as well"
    return None


def most(request: Request) -> Usage:
    """Return the usage that one request bills at most.

    That is its prompt written to the cache for an hour, and an answer of `max_tokens`. It is a bound only if
    `unbounded` returns None.
    """
    prompt = request.prompt
    tools = sum(block.content.get("type", "custom") != "custom" for block in prompt.level("tools"))
    counted = _MARGIN * sum(block_weights(prompt)) + _API_TOOL * tools
    tokens = Tokens(ephemeral_1h_input_tokens=int(counted) + 1, output_tokens=prompt.max_tokens or 0)
    batch = () if request.custom_id is None else ("batch",)
    return Usage.of(Rate(prompt.model, (*asked_modifiers(request), *batch)), tokens)


def least(request: Request) -> Usage:
    """Return the usage that one request cannot stay below once it is answered.

    That is its prompt read from the cache, and one token of output. What cannot be counted counts 0.
    """
    prompt = request.prompt
    counted = sum(block_weights(prompt, unknown_rate=0.0)) / _MARGIN
    tokens = Tokens(cache_read_input_tokens=int(counted), output_tokens=0 if prompt.max_tokens == 0 else 1)
    return Usage.of(Rate(prompt.model, tuple(asked_modifiers(request))), tokens)


class PlanEntry(TypedDict):
    """The part of one process in what a recording would call; builtins only."""

    scenarios: int
    """How many scenarios would call a model."""
    unchanged: int
    """How many scenarios would be answered from their cassettes."""
    calls: int
    usd: str
    """Decimal dollars of `calls`, one after the other, on an empty prompt cache."""
    most: str | None
    """Dollars that `calls` bill at most; None where nobody can say."""
    unknown: list[str]
    """Scenarios that ask what no recording and no baseline tells, so that they may call more."""


class Planned:
    """Adds up in a replay what a recording would call, and what that would bill."""

    def __init__(self, mode: RecordMode, meter: Meter, prices: Prices) -> None:
        self._all = mode == RecordMode.ALL
        self._meter = meter
        self._prices = prices
        self._turns: list[Turn] = []
        self._untold: list[Usage] = []
        self._entry: PlanEntry = {
            "scenarios": 0,
            "unchanged": 0,
            "calls": 0,
            "usd": "0",
            "most": "0",
            "unknown": [],
        }

    def add(self, scenario: str, run: Run, baseline: Usage | None, *, is_recorded: bool) -> None:
        """Take in a scenario that was replayed; `is_recorded` if it has a cassette."""
        called = [turn for turn in run.turns if self._all or not _is_to_the_letter(turn)]
        if not is_recorded and baseline is not None:
            self._untold.append(baseline)
        elif run.misses or run.problems or not is_recorded:
            self._entry["unknown"].append(scenario)
        elif not called and not run.unplayed:
            self._entry["unchanged"] += 1
            return
        self._entry["scenarios"] += 1
        self._turns += called

    def entry(self) -> PlanEntry:
        """Return what was added up."""
        usages = (*self._meter.cold(self._turns), *self._untold)
        costs = [self._prices.cost(usage) for usage in usages]
        worst = [self._worst(turn.pair.request) for turn in self._turns]
        is_bounded = None not in worst and not self._untold and not self._entry["unknown"]
        most = str(sum((cost for cost in worst if cost is not None), Decimal(0))) if is_bounded else None
        usd = str(sum((cost for cost in costs if cost is not None), Decimal(0)))
        calls = sum(usage.turns for usage in usages)
        return {**self._entry, "calls": calls, "usd": usd, "most": most}

    def _worst(self, request: Request) -> Decimal | None:
        return None if unbounded(request.prompt) else self._prices.cost(self._prices.tiered(most(request)))


def _is_to_the_letter(turn: Turn) -> bool:
    """Return whether `--token-budget-record=changed` answers a turn from its cassette."""
    pair = turn.pair
    return pair.is_recorded and turn.accepted is None and pair.request.digest == pair.recorded.digest
