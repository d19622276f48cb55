"""Decide which real calls a scenario may make: by its caps, and by the spend limit of the run.

A cap refuses a call that is sure to pass it. The spend limit bounds what a call may cost at worst.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pytest_tokenbudget.errors import RecordingError, ReplayMiss
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import Usage
from pytest_tokenbudget.replay.playback import Call
from pytest_tokenbudget.replay.traffic import Sent, answer_to
from pytest_tokenbudget.reports import text
from pytest_tokenbudget.run.spending import Spending, least
from pytest_tokenbudget.settings import Caps
from pytest_tokenbudget.wire.exchange import Answer, Request
from pytest_tokenbudget.wire.prompt import mappings
from pytest_tokenbudget.wording import UNKNOWN, count, dollars, plural

_LOOP = 3
"""How many times the same thing in a row looks like a loop."""
_SHOWN = 12
"""The last turns that are told."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """One answered call of a scenario."""

    request: Request
    usage: Usage | None
    """What it billed; None if unknown."""
    tools: tuple[str, ...] = ()
    """Names of the tools that its answer calls."""
    inputs: str = ""
    """The inputs that it calls them with."""


class Allowance:
    """The real calls of one run of one scenario. Thread-safe."""

    def __init__(self, caps: Caps, prices: Prices, spending: Spending | None) -> None:
        self.stop: str | None = None
        """Why the first refused call was refused; nothing is called after it."""
        self.paid = Decimal(0)
        """Dollars that its answered calls billed, as far as anybody knows."""
        self._unknown = 0
        self.is_spent = False
        """Whether the spend limit was the one that refused it."""
        self._caps = caps
        self._prices = prices
        self._spending = spending
        self._turns: list[_Turn] = []
        self._under_way: list[Call] = []
        self._lock = threading.Lock()

    def begin(self, call: Call) -> None:
        """Take note of a call that is about to be sent. Raises ReplayMiss if it must not be sent."""
        with self._lock:
            if self.stop is None and (passed := self._passed(call)):
                self.stop = "\n".join(_stopped(*passed, self._turns, call, self._prices))
            if self.stop is not None:
                raise ReplayMiss(self.stop)
            self._under_way.append(call)
        if self._spending is None:
            return
        try:
            self._spending.hold(call)
        except RecordingError as error:
            with self._lock:
                self._under_way.remove(call)
                self.is_spent = self.is_spent or self.stop is None
                self.stop = self.stop or str(error)
            raise ReplayMiss(str(error)) from None

    def finish(self, call: Call) -> None:
        """Take note of the answer to a call, which is `call.answer`."""
        assert call.answer is not None
        turns, cost = self._answered(call.sent, call.requests, call.answer)
        with self._lock:
            self._turns += turns
            self.paid += cost or 0
            self._unknown += cost is None
            if call in self._under_way:
                self._under_way.remove(call)
        if self._spending is not None:
            self._spending.settle(call, cost)

    def close(self) -> None:
        """End the scenario: other processes need not wait for a call that it has left."""
        if self._spending is not None:
            self._spending.close_left()

    def forget(self) -> None:
        """Drop the turns of a scenario that is over: they hold what was asked."""
        with self._lock:
            self._turns.clear()

    @property
    def unknown(self) -> int:
        """How many of its calls did not say what they billed."""
        return self._unknown + len(self._under_way)

    def replayed(self, sent: Sent, answer: Mapping[str, Any]) -> None:
        """Take note of a turn that the recording answered."""
        turns, _ = self._answered(sent, sent.requests, answer)
        with self._lock:
            self._turns += turns

    def _answered(
        self, sent: Sent, requests: Sequence[Request], answer: Mapping[str, Any]
    ) -> tuple[list[_Turn], Decimal | None]:
        """Return the turns of an answer in vcr's shape, and its dollars; None if these are unknown."""
        assert sent.request is not None
        read = answer_to(sent.request, answer)
        if not read.billed:
            return [], Decimal(0)
        if sent.entries:
            return [_Turn(request, None) for request in requests], None
        if read.usage is None:
            return [_turn(requests[0], None, read)], None
        usage = self._prices.tiered(read.usage)
        # A stream that the API ended by an error may have billed more than it had told by then.
        return [_turn(requests[0], usage, read)], None if read.error else self._prices.cost(usage)

    def _passed(self, call: Call) -> tuple[str, str, str] | None:
        """Return the cap that a call is sure to pass, its limit and the new value as text; None if there is
        none.
        """
        under_way = [other for other in self._under_way if _is_under_way(other)]
        coming = sum((least(request) for one in (*under_way, call) for request in one.requests), Usage())
        usage = sum((turn.usage for turn in self._turns if turn.usage is not None), Usage()) + coming
        caps, tokens = self._caps, usage.tokens
        counts = (
            ("max_turns", caps.max_turns, len(self._turns) + coming.turns),
            ("max_prompt_tokens", caps.max_prompt_tokens, tokens.prompt_tokens),
            ("max_output_tokens", caps.max_output_tokens, tokens.output_tokens),
            ("max_total_tokens", caps.max_total_tokens, tokens.total),
        )
        for name, cap, would_be in counts:
            if cap is not None and would_be > cap:
                return name, str(cap), count(would_be)
        cost = None if caps.max_cost_usd is None else self._prices.cost(usage)
        if cost is not None and caps.max_cost_usd is not None and cost > caps.max_cost_usd:
            return "max_cost_usd", str(caps.max_cost_usd), dollars(cost)
        return None


class Allowances:
    """The allowances of all scenarios of a process; a call counts for the scenario that makes it."""

    def __init__(self) -> None:
        self._of: dict[str, Allowance] = {}

    def set(self, scenario: str, allowance: Allowance) -> None:
        """Begin a run of a scenario with its allowance."""
        self._of[scenario] = allowance

    def begin(self, call: Call) -> None:
        """Take note of a call, as `Allowance.begin` of its scenario does."""
        self._of[call.asker].begin(call)

    def finish(self, call: Call) -> None:
        """Take note of an answer, as `Allowance.finish` of its scenario does."""
        self._of[call.asker].finish(call)

    def replayed(self, asker: str, sent: Sent, answer: Mapping[str, Any]) -> None:
        """Take note of a replayed turn, as `Allowance.replayed` of its scenario does."""
        self._of[asker].replayed(sent, answer)


def _is_under_way(call: Call) -> bool:
    """Return whether a call that was not answered yet may still be: its sender waits for it.

    The sender is another thread, or an event loop.
    """
    if call.left:
        return False
    return call.thread != threading.get_ident() or _is_in_event_loop()


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _turn(request: Request, usage: Usage | None, answer: Answer) -> _Turn:
    content = (answer.message or {}).get("content")
    uses = [block for block in mappings(content) if str(block.get("type")).endswith("tool_use")]
    names = tuple(str(block.get("name")) for block in uses)
    return _Turn(request, usage, names, repr([block.get("input") for block in uses]))


def _stopped(
    cap: str, limit: str, would_be: str, turns: Sequence[_Turn], call: Call, prices: Prices
) -> Iterator[str]:
    """Yield why a scenario is stopped: the cap, the turns so far, and what they look like."""
    unit = " turns" if cap == "max_turns" else ""
    call_number = f"call {len(turns) + 1:,}"
    yield f"{cap} = {limit}: stopped before {call_number}, which would make it {would_be}{unit} at least"
    if turns:
        yield from ("  " + line for line in _table(turns, prices))
    if loop := _loop(turns, call):
        yield f"It looks like a loop: {loop}."
    yield f"What is recorded stays as it was. If the agent is meant to need more, raise {cap}."


def _table(turns: Sequence[_Turn], prices: Prices) -> list[str]:
    rows = []
    for number, turn in list(enumerate(turns, 1))[-_SHOWN:]:
        tokens, cost = turn.usage and turn.usage.tokens, prices.cost(turn.usage) if turn.usage else None
        counts = (
            (tokens.prompt_tokens, tokens.cache_read_input_tokens, tokens.output_tokens) if tokens else ()
        )
        cells = [count(value) for value in counts] or [UNKNOWN] * 3
        did = text.plain(", ".join(turn.tools)) or "text"
        rows.append([str(number), *cells, UNKNOWN if cost is None else dollars(cost), text.shorten(did, 40)])
    headers = ("turn", "prompt", "read", "output", "cost", "answer")
    lines = text.terminal(headers, rows, (True,) * 5 + (False,))
    hidden = len(turns) - len(rows)
    return [f"{plural(hidden, 'earlier turn')} not shown", *lines] if hidden else lines


def _loop(turns: Sequence[_Turn], call: Call) -> str | None:
    """Return what the last turns and the refused call repeat, or None."""
    digests = [turn.request.digest for turn in turns] + [request.digest for request in call.requests]
    if (times := _repeats(digests)) >= _LOOP:
        return f"the same request {times:,} times in a row"
    used = [turn.tools for turn in turns]
    times = _repeats(used)
    if times < _LOOP or not used[-1]:
        return None
    same = ", with the same input" if _repeats([turn.inputs for turn in turns]) >= times else ""
    names = text.shorten(text.plain(", ".join(used[-1])), 60)
    return f"the same tool, {names}, {times:,} times in a row{same}"


def _repeats(values: Sequence[object]) -> int:
    """Return how many of the last values are equal."""
    return next((len(list(equal)) for _, equal in itertools.groupby(reversed(values))), 0)
