"""What was decided about a request between the calls that vcr makes about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pytest_tokenbudget.replay.calls import Call
from pytest_tokenbudget.replay.ledger import Found, Ledger
from pytest_tokenbudget.replay.traffic import Sent


class HttpRequest(Protocol):
    """A request of vcr, as far as it is looked at here."""

    method: str
    uri: str


class Pending:
    """What was decided about requests of vcr, until vcr comes back for it.

    Kept by the id of the request object, which vcr's stubs pass on as it is, and with it, to keep the id its.
    """

    def __init__(self) -> None:
        self._found: dict[int, tuple[HttpRequest, Found]] = {}
        self._calls: dict[int, tuple[HttpRequest, Ledger, Call]] = {}

    def ask(self, request: HttpRequest, ledger: Ledger, sent: Sent) -> bool:
        """Whether the ledger has the answer; else a call has begun. Raises ReplayMiss."""
        found = ledger.find(sent)
        if found is None:
            self._calls[id(request)] = (request, ledger, ledger.begin(sent))
            return False
        self._found[id(request)] = (request, found)
        return True

    def take(self, request: HttpRequest) -> Found | None:
        """The answer that was found; None for a request that was not asked about."""
        _, found = self._found.pop(id(request), (None, None))
        return found

    def finish(self, request: HttpRequest, answer: Mapping[str, Any]) -> bool:
        """A call is answered. False where none had begun.

        vcr's aiohttp stub tells a redirected request by a new object of the same method and address.
        """
        key = id(request)
        if key not in self._calls:
            same = (key for key, (begun, *_) in self._calls.items() if _is_same(begun, request))
            key = next(same, 0)
        if key not in self._calls:
            return False
        _, ledger, call = self._calls.pop(key)
        ledger.finish(call, answer)
        return True


def _is_same(one: HttpRequest, other: HttpRequest) -> bool:
    return bool(one.method == other.method and one.uri == other.uri)
