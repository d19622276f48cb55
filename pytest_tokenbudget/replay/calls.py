"""Real calls of one run, and the new recording that they make together with what was replayed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_tokenbudget.errors import CassetteError, RecordingError
from pytest_tokenbudget.replay.packing import Interaction
from pytest_tokenbudget.replay.sent import Sent
from pytest_tokenbudget.replay.serving import plain
from pytest_tokenbudget.replay.traffic import Traffic, answer_to
from pytest_tokenbudget.wire.exchange import Answer, Exchange


@dataclass(slots=True, eq=False)
class Call:
    """A request of this run that was, or is being, answered. Times are seconds of a monotonic clock."""

    sent: Sent
    request: Mapping[str, Any]
    """As a new recording keeps it."""
    started: float
    began: float | None = None
    """When the answer did, where a proxy saw it: vcr tells the end of an answer, which for one that is not
    streamed is its first byte as well."""
    answer: Mapping[str, Any] | None = None
    """None until the whole answer is there."""
    answered: float | None = None
    """When it was; None where it was replayed."""
    asker: str = ""
    """Whose it is, where it was really called."""


class Calls:
    """The answered requests of one run."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: list[Call] = []
        self._unreadable: list[str] = []

    def replayed(self, sent: Sent, interaction: Interaction) -> None:
        """A request was answered from the recording."""
        request, answer = interaction
        self._calls.append(Call(sent, request, time.monotonic(), answer=answer))

    def by(self, asker: str) -> Calls:
        """The real calls of one test or fixture."""
        calls = Calls(self._name)
        calls._calls = [call for call in self._calls if call.asker == asker]
        return calls

    def begin(self, sent: Sent, asker: str = "", *, keep: bool = True) -> Call:
        """A real call sets out, of this test or fixture."""
        call = Call(sent, sent.raw, time.monotonic(), asker=asker)
        if keep:
            self._calls.append(call)
        return call

    def finish(self, call: Call, answer: Mapping[str, Any]) -> None:
        """Its whole answer is there; it is kept decompressed."""
        try:
            call.answer = plain(answer)
        except CassetteError as error:
            self._unreadable.append(f"{self._name}: {error} ({call.sent})")
            call.answer = dict(answer)
        call.answered = time.monotonic()

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """What was really called, in the order of the calls; batches with the results that were fetched."""
        called = sorted((call for call in self._calls if call.answered is not None), key=_started)
        return tuple(Traffic([_interaction(call) for call in called]).exchanges)

    def interactions(self) -> list[Interaction]:
        """What a new recording of this run holds: answered requests in the order they were sent, undoctored.

        Where everything was really called, answers have their `timing`. Raises RecordingError where an answer
        is not whole: then nothing is to be written.
        """
        if problem := self._problem():
            raise RecordingError(f"{problem} Nothing was recorded; run it again.")
        calls = sorted((call for call in self._calls if call.answer is not None), key=_started)
        if any(call.answered is None for call in calls):
            return [_interaction(call) for call in calls]
        return [_timed(call, calls[0].started) for call in calls]

    @property
    def unanswered(self) -> list[str]:
        """Calls without a whole answer, in sentences; not those that a retry came through for."""
        whole = {call.sent.identity for call in self._calls if call.answer is not None}
        cut = [call for call in self._calls if call.answer is None and call.sent.identity not in whole]
        return [f"{self._name}: the answer to {call.sent} did not end." for call in cut]

    @property
    def failed(self) -> list[str]:
        """Model calls that failed for good: no try of the same was answered with a bill; each once."""
        tried: dict[tuple[object, ...], list[tuple[Sent, Answer]]] = defaultdict(list)
        for call in self._calls:
            if call.sent.request and call.sent.costs and call.answer is not None:
                tried[call.sent.identity].append((call.sent, answer_to(call.sent.request, call.answer)))
        lost = (tries[-1] for tries in tried.values() if all(answer.usage is None for _, answer in tries))
        return [f"{sent} was answered with {answer.status} ({answer.error})" for sent, answer in lost]

    def _problem(self) -> str | None:
        if self._unreadable:
            return self._unreadable[0]
        if unanswered := self.unanswered:
            return unanswered[0]
        for exchange in self.exchanges:
            answer = exchange.answer
            if answer.billed and answer.message is not None and answer.usage is None:
                model = exchange.request.prompt.model
                return f"{self._name}: an answer of {model} is not whole: {answer.error}."
        return None


def _started(call: Call) -> float:
    return call.started


def _interaction(call: Call) -> Interaction:
    """Without the timing of another recording."""
    return dict(call.request), {key: value for key, value in (call.answer or {}).items() if key != "timing"}


def _timed(call: Call, began: float) -> Interaction:
    """With whole milliseconds since the first call."""
    request, answer = _interaction(call)
    timing = {"started": round(1000 * (call.started - began))}
    streamed = call.sent.request is not None and call.sent.request.prompt.stream
    if (answered := call.began if streamed else call.answered) is not None:
        timing["answered"] = round(1000 * (answered - began))
    return request, answer | {"timing": timing}
