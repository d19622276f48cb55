"""Join vcrpy: cassettes of its kind that ask a `Ledger` instead of comparing requests.

The one user of vcrpy. Import this late: vcr imports every HTTP library that is installed. A suite's own
cassettes are metered while they stay what they are: vcr says what may be played, by `match_on` and its
other options.
"""

from __future__ import annotations

import contextlib
import copy
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import client
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.playback import Call, Found, Ledger, Ledgers, Playable, Rules
from pytest_tokenbudget.replay.traffic import Sent, body_bytes
from pytest_tokenbudget.wire.framing import compact_json
from pytest_tokenbudget.wire.prompt import Prompt

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
from vcr.cassette import Cassette  # noqa: E402
from vcr.patch import reset_patchers  # noqa: E402
from vcr.record_mode import RecordMode  # noqa: E402
from vcr.request import Request  # noqa: E402
from vcr.serialize import deserialize, serialize  # noqa: E402
from vcr.serializers import jsonserializer, yamlserializer  # noqa: E402
from vcr.util import read_body  # noqa: E402


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
        rules = Rules(
            calls=not self.write_protected,
            repeats=self.allow_playback_repeats,
            untouched=True,
            sort_keys=parses_bodies(self._serializer, self.data[: self._read]),
        )
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
            playable_by_vcr = bool(super().can_play_response_for(request))
            if not playable_by_vcr and not self.write_protected:
                self.ledger.check_key(live)
            return playable_by_vcr
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
            differs = differing(self.data and self._match_on, closest)
            return Playable(refusal=no_match(self._name, differs), differs=differs), False
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


def is_taken() -> bool:
    """Return whether somebody has taken over an HTTP library already, as an open cassette does."""
    originals: Iterable[Any] = reset_patchers()
    return any(getattr(one.getter(), one.attribute) is not one.new for one in originals)


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
        if found is None:
            call = ledger.begin(sent)
            weakref.finalize(request, call.leave).atexit = False
            self._decided[request] = _Ongoing(ledger, call)
            return False
        self._decided[request] = found
        return True

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


LedgerOf = Callable[[str, Sequence[Interaction], Rules], Ledger]
"""Makes the ledger of a user's cassette, given its path, what it holds, and what its options allow."""
_SHARE, _LEAST = 20, 100
"""A twentieth of a prompt, or about 25 tokens: what hides in less is within the default tolerance."""
_FILTERS = "filter_post_data_parameters or before_record_request"


def shown(path: object) -> str:
    """The path of a cassette as it is told: relative to where pytest runs, where that is above it."""
    here = Path.cwd()
    return str(Path(str(path)).relative_to(here)) if Path(str(path)).is_relative_to(here) else str(path)


def opened(ledger_of: LedgerOf, path: str, held: Sequence[Interaction], rules: Rules) -> Ledger:
    """The ledger of a cassette; where it is damaged the suite goes on, and cannot be judged by it."""
    try:
        return ledger_of(path, held, rules)
    except CassetteError as error:
        ledger = ledger_of(path, (), rules)
        ledger.doubt(f"{path}: {error}")
        return ledger


def filtered(live: Sent, kept: Sent | None, ledger: Ledger, path: str, *, replayed: bool) -> Sent:
    """A model call as the filters of a cassette leave it, `kept` (None: they leave nothing of it).

    Where they leave none, a real call counts as it is sent; raises ReplayMiss where it is `replayed`, or may
    not be called. A filter that takes out so much of a prompt that a growth could hide there is told to the
    ledger.
    """
    if kept is None or kept.request is None or live.request is None:
        if replayed or not ledger.rules.calls:
            _refuse(live, kept, ledger, path)
        return live
    if kept.body != live.body and (hidden := _hidden(live.request.prompt, kept.request.prompt)):
        ledger.doubt(
            f"an option of the cassette {path} ({_FILTERS}) hides {hidden:,} characters of the prompt of "
            f"{live}, so that nobody can tell whether they grew. Let it keep tools, system and messages."
        )
    return kept


def _refuse(live: Sent, kept: Sent | None, ledger: Ledger, path: str) -> None:
    """Raise ReplayMiss for a model call that the options keep from the cassette, or do not show as one."""
    option = "ignore_hosts, ignore_localhost or before_record_request" if kept is None else _FILTERS
    past = "sends {} past it, unmetered" if kept is None else "hides that {} is a model call"
    ledger.refuse(
        f"{ledger.name}: an option of the cassette {path} ({option}) {past.format(live)}. "
        "Let the option keep model calls."
    )


def differing(matchers: Iterable[object], closest: Iterable[tuple[Any, Any, Any]]) -> tuple[str, ...]:
    """Return the names of the matchers that refuse the most similar request, or of all; empty without any.

    `closest` is as `find_requests_with_most_matches` has it.
    """
    names = tuple(getattr(matcher, "__name__", str(matcher)) for matcher in matchers)
    return next((tuple(name for name, _ in failed) for _, _, failed in closest), names)


def no_match(path: str, differs: Sequence[str]) -> str:
    """Return why vcr has nothing to play for a request, given the names of the matchers that refuse it."""
    if not differs:
        return f"there is nothing in the cassette {path}, or it is not there."
    return f"match_on lets no request of {path} answer it, for {' and '.join(differs)} differs."


def parses_bodies(serializer: Any, held: Sequence[tuple[Request, Mapping[str, Any]]]) -> bool:
    """Return whether a cassette holds bodies as structures, which do not tell the order of their keys.

    vcr's own serializers do so with what aiohttp was given as `json=`. A serializer of the suite's own is
    tried with the smallest JSON body that the cassette holds: if a space in front of it is lost, it parses.
    """
    if any(isinstance(request.body, (dict, list)) for request, _ in held):
        return True
    if serializer in (yamlserializer, jsonserializer):
        return False
    texts = [(body, pair) for pair in held if (body := body_bytes(read_body(pair[0])))[:1] == b"{"]
    if not texts:
        return False
    body, (request, answer) = min(texts, key=lambda text: len(text[0]))
    probe = Request(request.method, request.uri, b" " + body, copy.deepcopy(request.headers))
    with contextlib.suppress(Exception):  # code of the suite's own: what it raises tells nothing
        text = serialize({"requests": [probe], "responses": [copy.deepcopy(answer)]}, serializer)
        return body_bytes(deserialize(text, serializer)[0][0].body)[:1] != b" "
    return True


def unpatched(path: str, libraries: Iterable[str]) -> str | None:
    """What `skip_patchers` leaves out, in a sentence."""
    if not (names := ", ".join(libraries)):
        return None
    return f"the cassette {path} leaves out {names} (skip_patchers): model calls by that way are not metered"


def _hidden(live: Prompt, kept: Prompt) -> int:
    """Characters of a prompt that its filters take out; 0 for few."""
    whole, left = (
        sum(len(compact_json(block.content)) for block in prompt.blocks) for prompt in (live, kept)
    )
    return whole - left if whole - left > max(whole // _SHARE, _LEAST) else 0
