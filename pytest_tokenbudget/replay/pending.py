"""What was decided about a request between the calls that vcr makes about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from pytest_tokenbudget.replay.calls import Call
from pytest_tokenbudget.replay.playback import Ledger
from pytest_tokenbudget.replay.rules import Found, Playable
from pytest_tokenbudget.replay.sent import Sent


class HttpRequest(Protocol):
    """A request of vcr, as far as it is looked at here."""

    method: str
    uri: str


@dataclass(frozen=True, slots=True)
class _Ongoing:
    """A real call and the ledger that it belongs to."""

    ledger: Ledger
    call: Call


class Pending:
    """What was decided about requests of vcr: an answer was found, or a real call is under way.

    vcr's stubs pass a request object on as it is, and ask about the same one again, even when it was answered
    long ago (before they open a connection anew): what was decided once stays decided.
    """

    def __init__(self) -> None:
        self._decided: WeakKeyDictionary[HttpRequest, Found | _Ongoing] = WeakKeyDictionary()

    def is_found(self, request: HttpRequest) -> bool | None:
        """Whether an answer was found; None where nothing is decided yet."""
        decision = self._decided.get(request)
        return None if decision is None else isinstance(decision, Found)

    def ask(self, request: HttpRequest, ledger: Ledger, sent: Sent, playable: Playable | None = None) -> bool:
        """Whether the ledger has the answer; else a call begins. Raises ReplayMiss."""
        found = ledger.find(sent, playable)
        self._decided[request] = found or _Ongoing(ledger, ledger.begin(sent))
        return found is not None

    def found(self, request: HttpRequest) -> Found | None:
        """The answer that was found, if there is one."""
        decision = self._decided.get(request)
        return decision if isinstance(decision, Found) else None

    def finish(self, request: HttpRequest, answer: Mapping[str, Any]) -> bool:
        """A call is answered. False where none had begun."""
        decision = self._decided.get(request) or self._redirected(request)
        if not isinstance(decision, _Ongoing):
            return False
        decision.ledger.finish(decision.call, answer)
        return True

    def _redirected(self, request: HttpRequest) -> _Ongoing | None:
        """A call whose answer redirects: vcr's aiohttp stub tells it by a new request object."""
        for begun, decision in list(self._decided.items()):
            same = (begun.method, begun.uri) == (request.method, request.uri)
            if same and isinstance(decision, _Ongoing) and decision.call.answer is None:
                return decision
        return None
