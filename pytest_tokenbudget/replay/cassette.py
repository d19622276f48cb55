"""The seam to vcrpy: cassettes of its own kind that ask a ledger instead of comparing requests.

Import this late: it imports vcr, and vcr imports every HTTP library that is installed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any
from weakref import WeakSet

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.adoption import LedgerOf, filtered, no_match, opened, shown, unpatched
from pytest_tokenbudget.replay.ledger import Ledger
from pytest_tokenbudget.replay.ledgers import Ledgers
from pytest_tokenbudget.replay.pending import Pending
from pytest_tokenbudget.replay.rules import Playable, Rules
from pytest_tokenbudget.replay.sent import body_bytes

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
            ledger = self._ledgers.top
            found = self._pending.ask(request, ledger, ledger.read(_plain(request)))
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
            ledger.finish(ledger.begin(ledger.read(_plain(request))), response)

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
    """A user's cassette while it is metered: vcr says what may be played, by `match_on` and other options; of
    that, pairing chooses what belongs to a model call. All else stays as the user has it.
    """

    ledger: Ledger | None = None
    """None while vcr reads the file."""

    def adopt(self, ledger_of: LedgerOf) -> None:
        """Give the cassette, as it was read, its ledger."""
        self._ledger_of = ledger_of
        self._pending = Pending()
        self._again: WeakSet[VcrRequest] = WeakSet()  # answered by what was recorded in this run
        self._name = shown(self._path)
        self._read = 0 if self.record_mode == RecordMode.ALL else len(self.data)
        self._open()

    def _open(self) -> None:
        held = [(_plain(request), answer) for request, answer in self.data[: self._read]]
        rules = Rules(calls=not self.write_protected, repeats=self.allow_playback_repeats, untouched=True)
        self.ledger = opened(self._ledger_of, self._name, held, rules)
        if warning := unpatched(self._name, getattr(self, "skip_patchers", ())):
            self.ledger.warn(warning)

    def rewind(self) -> None:
        """Let all be played again: what is asked then counts anew."""
        super().rewind()
        if self.ledger is not None:
            self.ledger.closed = True
            self._open()

    def can_play_response_for(self, request: VcrRequest) -> bool:
        """Ask the ledger for Messages traffic. Raises ReplayMiss."""
        found = self._pending.is_found(request) if self.ledger else None
        if found is not None:
            return found or request in self._again
        if self.ledger is None:
            return bool(super().can_play_response_for(request))
        live = self.ledger.read(_plain(request))
        if live.request is None:
            self.ledger.notice(live)
            return bool(super().can_play_response_for(request))
        once = self._before_record_request(request)
        playable, again = self._playable(once) if once else (Playable(), False)
        twice = once and self._before_record_request(once)  # as what was written and read
        left = self.ledger.read(_plain(twice), live.url) if twice else None
        sent = filtered(live, left, self.ledger, self._name, replayed=bool(playable.numbers))
        if again:
            self._again.add(request)
        return self._pending.ask(request, self.ledger, sent, playable) or again

    def _playable(self, request: VcrRequest) -> tuple[Playable, bool]:
        """What vcr would choose from, and whether all of that was recorded in this run."""
        matching = [number for number, _ in self._responses(request)]
        if not matching:
            closest = self.find_requests_with_most_matches(request)
            return Playable(refusal=no_match(self._name, self.data and self._match_on, closest)), False
        repeats = self.allow_playback_repeats
        if self.record_mode == RecordMode.ALL or not (self.rewound or repeats):
            return Playable(), False
        left = {number for number in matching if repeats or not self.play_counts[number]}
        held = frozenset(number for number in left if number < self._read)
        return Playable(held), bool(left) and not held

    def play_response(self, request: VcrRequest) -> dict[str, Any]:
        """What the ledger has found; booked as vcr does it."""
        found = self._pending.found(request)
        if found is None:
            answer: dict[str, Any] = super().play_response(request)
            if request in self._again:
                self._pending.finish(request, answer)
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
            if self.ledger.recording.misses or self.ledger.problems:
                self.drop_unused_requests = False  # a run that broke off does not tell what is unused
        super()._save(force)


@contextlib.contextmanager
def adopt(ledger_of: LedgerOf) -> Iterator[None]:
    """Meter every cassette that the user's own code, or pytest-recording, opens while this is active.

    Every way to open one goes through `Cassette.load`, also that of decorators which took the class before.
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
