"""The seam to vcrpy: cassettes of its own kind that ask a ledger instead of comparing requests.

Import this late: it imports vcr, and vcr imports every HTTP library that is installed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.ledgers import Ledgers
from pytest_tokenbudget.replay.pending import Pending
from pytest_tokenbudget.replay.sent import body_bytes

_OLDEST = (8, 5)


def check_vcr(version: str) -> None:
    """Raise CassetteError where vcrpy is too old.

    Below 8.2 it does not know httpx2 and would let the SDK through; below 8.5 it loses streams that are read
    line by line through aiohttp.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST:
        raise CassetteError(
            f"vcrpy {version} is too old: model calls would go past it, or lose what they stream. "
            'Install a newer one: pip install "vcrpy>=8.5"'
        )


check_vcr(metadata.version("vcrpy"))

# Only now, since an old one may not even import beside a new HTTP library.
from vcr.cassette import Cassette as Cassette  # noqa: E402
from vcr.record_mode import RecordMode as RecordMode  # noqa: E402
from vcr.request import Request as Request  # noqa: E402
from vcr.util import read_body  # noqa: E402


class Router(Cassette):  # type: ignore[misc]  # vcr has no types
    """A cassette without contents of its own: every request goes to the ledger on top."""

    def __init__(self, ledgers: Ledgers) -> None:
        super().__init__(path="", record_mode=RecordMode.NONE)
        self._ledgers = ledgers
        self._pending = Pending()

    @classmethod
    def load(cls, *, ledgers: Ledgers, **_: Any) -> Router:
        """As vcr opens a cassette; there is nothing to read."""
        return cls(ledgers)

    @property
    def write_protected(self) -> bool:
        """Whether vcr is to open no connection before the request is known."""
        return not self._ledgers.top.rules.calls

    def filter_request(self, request: Request) -> Request | None:
        """None for what is neither recorded nor refused: in replay, all that the ledger let pass."""
        return None if self.write_protected else request

    def can_play_response_for(self, request: Request) -> bool:
        """Ask the ledger. Raises ReplayMiss."""
        found = self._pending.is_found(request)
        if found is None:
            ledger = self._ledgers.top
            found = self._pending.ask(request, ledger, ledger.read(plain(request)))
        return found

    def play_response(self, request: Request) -> dict[str, Any]:
        """What the ledger has found."""
        found = self._pending.found(request)
        if found is not None:
            return found.answer
        answer: dict[str, Any] = super().play_response(request)  # raises: nobody asked whether there is one
        return answer

    def append(self, request: Request, response: dict[str, Any]) -> None:
        """A real call is answered."""
        if not self._pending.finish(request, response):  # a redirect that aiohttp has followed
            ledger = self._ledgers.top
            ledger.finish(ledger.begin(ledger.read(plain(request))), response)

    def find_requests_with_most_matches(self, request: Request) -> list[tuple[Any, ...]]:
        """Where vcr's aiohttp stub looks for the target of a redirect."""
        return [(request, [], [])]

    def _save(self, force: bool = False) -> None:
        """Nothing: the ledger's owner writes."""


@contextlib.contextmanager
def route(ledgers: Ledgers) -> Iterator[None]:
    """Take over the HTTP libraries for the ledgers, as `vcr.use_cassette` does. Not per thread or task."""
    with Router.use(path="", ledgers=ledgers):
        yield


def plain(request: Request) -> dict[str, Any]:
    """A request of vcr as a cassette keeps it, its body as it is sent."""
    headers = {_text(name): [_text(value)] for name, value in request.headers.items()}
    return {
        "method": request.method,
        "uri": request.uri,
        "body": body_bytes(read_body(request)),
        "headers": headers,
    }


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
