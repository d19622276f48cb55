"""A suite's own cassettes while they are metered. Import this late: it imports vcr."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import client
from typing import Any
from weakref import WeakSet

from pytest_tokenbudget.replay.adoption import LedgerOf, filtered, no_match, opened, shown, unpatched
from pytest_tokenbudget.replay.cassette import Cassette, RecordMode, Request, Router, plain
from pytest_tokenbudget.replay.pending import Pending
from pytest_tokenbudget.replay.playback import Ledger
from pytest_tokenbudget.replay.rules import Playable, Rules


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
        self._again: WeakSet[Request] = WeakSet()  # answered by what was recorded in this run
        self._name = shown(self._path)
        self._read = 0 if self.record_mode == RecordMode.ALL else len(self.data)
        self._open()

    def _open(self) -> None:
        held = [(plain(request), answer) for request, answer in self.data[: self._read]]
        rules = Rules(calls=not self.write_protected, repeats=self.allow_playback_repeats, untouched=True)
        self.ledger = opened(self._ledger_of, self._name, held, rules)
        if warning := unpatched(self._name, getattr(self, "skip_patchers", ())):
            self.ledger.warn(warning)

    def come_late(self) -> None:
        """It is open already, for whoever asks; what it has answered is nobody's."""
        assert self.ledger is not None
        self.ledger.shared = True
        asked = (self.ledger.read(plain(one)) for n, (one, _) in enumerate(self.data) if self.play_counts[n])
        if any(sent.costs for sent in asked):
            self.ledger.warn(
                f"the cassette {self._name} answered model calls before a test began: they are not metered"
            )

    def rewind(self) -> None:
        """Let all be played again: what is asked then counts anew."""
        super().rewind()
        if self.ledger is not None:
            self.ledger.closed = True
            self._open()

    def can_play_response_for(self, request: Request) -> bool:
        """Ask the ledger for Messages traffic. Raises ReplayMiss."""
        found = self._pending.is_found(request) if self.ledger else None
        if found is not None:
            return found or request in self._again
        if self.ledger is None:
            return bool(super().can_play_response_for(request))
        live = self.ledger.read(plain(request))
        if live.request is None:
            self.ledger.notice(live)
            return bool(super().can_play_response_for(request))
        once = self._before_record_request(request)
        playable, again = self._playable(once) if once else (Playable(), False)
        twice = once and self._before_record_request(once)  # as what was written and read
        left = self.ledger.read(plain(twice), live.url) if twice else None
        sent = filtered(live, left, self.ledger, self._name, replayed=bool(playable.numbers))
        if again:
            self._again.add(request)
        return self._pending.ask(request, self.ledger, sent, playable) or again

    def _playable(self, request: Request) -> tuple[Playable, bool]:
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

    def play_response(self, request: Request) -> dict[str, Any]:
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

    def append(self, request: Request, response: dict[str, Any]) -> None:
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


def adopt_open(ledger_of: LedgerOf) -> None:
    """Meter from now on the cassette that the user's code has opened before, and holds open."""
    cassette = getattr(client.HTTPConnection, "cassette", None)  # as vcr patches it
    if isinstance(cassette, Cassette) and not isinstance(cassette, (_Adopted, Router)):
        cassette.__class__ = _kind(type(cassette))
        cassette.adopt(ledger_of)
        cassette.come_late()


def _kind(cls: type[Cassette]) -> type[Cassette]:
    """What a cassette of this class is while it is metered."""
    return _Adopted if cls is Cassette else type(cls.__name__, (_Adopted, cls), {})


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
        cassette = load(_kind(cls), **options)
        cassette.adopt(self._ledger_of)
        return cassette

    def end(self) -> None:
        """Take the replacement back, and those below it that have ended meanwhile."""
        self.active = False
        while isinstance(owner := getattr(Cassette.__dict__["load"].__func__, "__self__", None), _Adoption):
            if owner.active:
                break
            Cassette.load = owner.original
