"""The seam to vcrpy: cassettes of its own kind that ask a ledger instead of comparing requests.

Import this late: it imports vcr, and vcr imports every HTTP library that is installed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.ledger import Ledger
from pytest_tokenbudget.replay.packing import Interaction
from pytest_tokenbudget.replay.pending import Pending
from pytest_tokenbudget.replay.rules import Rules
from pytest_tokenbudget.replay.traffic import Sent, body_bytes

_OLDEST = (8, 2)


def check_vcr(version: str) -> None:
    """Raise CassetteError where vcrpy is too old: it would let the SDK's HTTP library through."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST:
        raise CassetteError(
            f"vcrpy {version} does not know httpx2, so that model calls would go past it. "
            'Install a newer one: pip install "vcrpy>=8.2"'
        )


check_vcr(metadata.version("vcrpy"))

# Only now, since an old one may not even import beside a new HTTP library.
from vcr.cassette import Cassette  # noqa: E402
from vcr.record_mode import RecordMode  # noqa: E402
from vcr.request import Request as VcrRequest  # noqa: E402
from vcr.util import read_body  # noqa: E402

LedgerOf = Callable[[str, Sequence[Interaction], Rules], Ledger]
"""Makes the ledger of a user's cassette, given its path, what it holds, and what its options allow."""


class Ledgers:
    """Whose requests are being sent: the ledger on top. Process-wide, so that threads and tasks find it."""

    def __init__(self) -> None:
        self._stack: list[Ledger] = []

    @property
    def top(self) -> Ledger:
        """The ledger that answers now."""
        return self._stack[-1]

    @contextlib.contextmanager
    def using(self, ledger: Ledger) -> Iterator[Ledger]:
        """Put a ledger on top for a while; what began under it is finished under it."""
        self._stack.append(ledger)
        try:
            yield ledger
        finally:
            self._stack.remove(ledger)


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

    def filter_request(self, request: VcrRequest) -> VcrRequest | None:
        """None for what is neither recorded nor refused: in replay, all that the ledger let pass."""
        return None if self.write_protected else request

    def can_play_response_for(self, request: VcrRequest) -> bool:
        """Ask the ledger. Raises ReplayMiss."""
        found = self._pending.is_found(request)
        if found is None:
            found = self._pending.ask(request, self._ledgers.top, Sent.of(_plain(request)))
        return found

    def play_response(self, request: VcrRequest) -> dict[str, Any]:
        """What the ledger has found."""
        found = self._pending.found(request)
        if found is not None:
            return found.answer
        answer: dict[str, Any] = super().play_response(request)  # raises: nobody asked whether there is one
        return answer

    def append(self, request: VcrRequest, response: dict[str, Any]) -> None:
        """A real call is answered."""
        if not self._pending.finish(request, response):  # a redirect that aiohttp has followed
            ledger = self._ledgers.top
            ledger.finish(ledger.begin(Sent.of(_plain(request))), response)

    def find_requests_with_most_matches(self, request: VcrRequest) -> list[tuple[Any, ...]]:
        """Where vcr's aiohttp stub looks for the target of a redirect."""
        return [(request, [], [])]

    def _save(self, force: bool = False) -> None:
        """Nothing: the ledger's owner writes."""


@contextlib.contextmanager
def route(ledgers: Ledgers) -> Iterator[None]:
    """Take over the HTTP libraries for the ledgers, as `vcr.use_cassette` does. Not per thread or task."""
    with Router.use(path="", ledgers=ledgers):
        yield


class _Adopted(Cassette):  # type: ignore[misc]  # vcr has no types
    """A user's cassette while it is metered.

    Pairing replaces `match_on` for Messages traffic only. All else stays: other traffic, filters, serializer,
    persister, path, what is recorded, and how it is written.
    """

    ledger: Ledger | None = None
    """None while vcr reads the file."""

    def adopt(self, ledger_of: LedgerOf) -> None:
        """Give the cassette, as it was read, its ledger."""
        self._pending = Pending()
        rerecorded = self.record_mode == RecordMode.ALL
        rules = Rules(calls=rerecorded or not self.write_protected, repeats=self.allow_playback_repeats)
        held = [] if rerecorded else [(_plain(request), answer) for request, answer in self.data]
        self.ledger = ledger_of(str(self._path), held, rules)

    def can_play_response_for(self, request: VcrRequest) -> bool:
        """Ask the ledger for Messages traffic. Raises ReplayMiss."""
        found = self._pending.is_found(request)
        if found is not None:
            return found
        live = Sent.of(_plain(request))
        if live.request is None or self.ledger is None:
            return bool(super().can_play_response_for(request))
        kept = self._before_record_request(request)
        if not kept and not self.ledger.rules.calls:
            self.ledger.refuse(
                f"{self.ledger.name}: an option of the cassette {self._path} (ignore_hosts, ignore_localhost "
                f"or before_record_request) sends {live} past it, unmetered. Let the option keep model calls."
            )
        sent = Sent.of(_plain(kept), live.url) if kept else live
        return self._pending.ask(request, self.ledger, sent if sent.request else live)

    def play_response(self, request: VcrRequest) -> dict[str, Any]:
        """What the ledger has found; booked as vcr does it."""
        found = self._pending.found(request)
        if found is None:
            answer: dict[str, Any] = super().play_response(request)
            return answer
        if not self.play_counts[found.number]:
            self._played_interactions.append(self.data[found.number])
        self.play_counts[found.number] += 1
        return found.answer

    def append(self, request: VcrRequest, response: dict[str, Any]) -> None:
        """Keep what vcr has read, or what was really called; the file gets it as vcr gives it."""
        super().append(request, response)
        if self.ledger is not None:
            self._pending.finish(request, response)

    def _save(self, force: bool = False) -> None:
        """The user's code closes the cassette."""
        if self.ledger is not None:
            self.ledger.closed = True
        super()._save(force)


@contextlib.contextmanager
def adopt(ledger_of: LedgerOf) -> Iterator[None]:
    """Meter every cassette that the user's own code, or pytest-recording, opens while this is active.

    `ledger_of` makes the ledger of one, and so says whose cassette it is. Every way to open a cassette goes
    through `Cassette.load`, also that of decorators which have taken the class long before.
    """
    adoption = _Adoption(ledger_of, Cassette.__dict__["load"])
    Cassette.load = adoption.load
    try:
        yield
    finally:
        adoption.end()


class _Adoption:
    """One replacement of `Cassette.load`; several may end in any order."""

    def __init__(self, ledger_of: LedgerOf, original: Any) -> None:
        self.original = original
        self.active = True
        self.load = classmethod(self._load)
        self._ledger_of = ledger_of

    def _load(self, cls: type[Cassette], /, **options: Any) -> Cassette:
        load = self.original.__func__
        if not self.active or issubclass(cls, _Adopted):  # the latter from a subclass's own `load`
            return load(cls, **options)
        kind = _Adopted if cls is Cassette else type(cls.__name__, (_Adopted, cls), {})
        cassette = load(kind, **options)
        cassette.adopt(self._ledger_of)
        return cassette

    def end(self) -> None:
        """Take the replacement back, and those below it that have ended meanwhile."""
        self.active = False
        while isinstance(owner := getattr(Cassette.__dict__["load"].__func__, "__self__", None), _Adoption):
            if owner.active:
                break
            Cassette.load = owner.original


def _plain(request: VcrRequest) -> dict[str, Any]:
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
