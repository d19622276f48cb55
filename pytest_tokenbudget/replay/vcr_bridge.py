"""Connect vcrpy: cassettes of its kind that ask a `Ledger` instead of comparing requests.

This is the one user of vcrpy. Import it late: vcr imports every HTTP library that is installed. A suite's own
cassettes are metered, and otherwise work as before: vcr decides what may be played, by `match_on` and its
other options.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import io
import itertools
import math
import re
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from http import client
from importlib import metadata
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit, urlunsplit
from weakref import WeakKeyDictionary, WeakSet

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.playback import (
    Call,
    Found,
    Held,
    Ledger,
    Ledgers,
    Playable,
    Rules,
    differ,
    patience,
)
from pytest_tokenbudget.replay.traffic import STREAMS, Left, Sent, body_bytes, how_left
from pytest_tokenbudget.wire.framing import compact_json
from pytest_tokenbudget.wire.prompt import Prompt
from pytest_tokenbudget.wording import next_step

_OLDEST = (8, 5)


def check_vcr(version: str) -> None:
    """Raise CassetteError if vcrpy is too old.

    Before 8.2 it does not know httpx2, so that the SDK's calls would go past it. Before 8.5 it loses streams
    that are read line by line through aiohttp.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < _OLDEST:
        raise CassetteError(
            f"vcrpy {version} is too old: model calls would go past it, or lose what they stream. "
            + next_step("Install a newer one", 'pip install "vcrpy>=8.5"')
        )


check_vcr(metadata.version("vcrpy"))

# Imported only after the check: an old vcrpy may not even import beside a new HTTP library.
from vcr.cassette import Cassette  # noqa: E402
from vcr.patch import reset_patchers  # noqa: E402
from vcr.record_mode import RecordMode  # noqa: E402
from vcr.request import Request  # noqa: E402
from vcr.serialize import deserialize, serialize  # noqa: E402
from vcr.serializers import jsonserializer, yamlserializer  # noqa: E402
from vcr.stubs import VCRConnection, VCRHTTPConnection  # noqa: E402
from vcr.util import read_body  # noqa: E402


class _Adopted(Cassette):  # type: ignore[misc]  # vcr has no types
    """A user's cassette while it is metered.

    vcr decides what may be played, by `match_on` and its other options. Of that, pairing chooses what answers
    a model call. Everything else stays as the user has it.
    """

    ledger: Ledger | None = None
    """The ledger that answers; None while vcr reads the file."""

    def adopt(self, ledger_of: LedgerOf) -> None:
        """Give the cassette a ledger, once vcr has read its file."""
        self._ledger_of = ledger_of
        self._pending = Pending()
        self._again: WeakSet[Request] = WeakSet()  # requests that are answered by what this run recorded
        self._name = shown(self._path)
        self._read = 0 if self.record_mode == RecordMode.ALL else len(self.data)
        self._open()

    def _open(self) -> None:
        held = [(plain(request), answer) for request, answer in self.data[: self._read]]
        rules = Rules(
            calls=not self.write_protected,
            repeats=self.allow_playback_repeats,
            untouched=True,
            cassette=self._name,
            sort_keys=parses_bodies(self._serializer, self.data[: self._read]),
        )
        self.ledger = opened(self._ledger_of, self._name, held, rules)
        if warning := unpatched(self._name, getattr(self, "skip_patchers", ())):
            self.ledger.warn(warning)

    def come_late(self) -> None:
        """Share a cassette that was open before. Warn if it has answered model calls already."""
        assert self.ledger is not None
        self.ledger.shared = True
        asked = (self.ledger.read(plain(one)) for n, (one, _) in enumerate(self.data) if self.play_counts[n])
        if any(sent.costs for sent in asked):
            self.ledger.warn(
                f"the cassette {self._name} answered model calls before a test began: they are not metered"
            )

    def rewind(self) -> None:
        """Let everything be played again. What is asked from now on counts anew."""
        super().rewind()
        if self.ledger is not None:
            self.ledger.closed = True
            self._open()

    def can_play_response_for(self, request: Request) -> bool:
        """Return whether the cassette has the answer. For Messages traffic, the ledger decides.

        Raises ReplayMiss.
        """
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
        twice = once and self._before_record_request(once)  # filtered as often as what was written and read
        left = self.ledger.read(plain(twice), live.url) if twice else None
        sent = filtered(live, left, self.ledger, self._name, replayed=bool(playable.numbers))
        if again:
            self._again.add(request)
        return self._pending.ask(request, self.ledger, sent, playable) or again

    def _playable(self, request: Request) -> tuple[Playable, bool]:
        """Return what vcr would choose from, and whether all of it was recorded in this run."""
        matching = [number for number, _ in self._responses(request)]
        if not matching:
            closest = self.find_requests_with_most_matches(request)
            differs = differing(self.data and self._match_on, closest)
            at = address(closest[0][0].uri) if closest else ""
            return Playable(refusal=no_match(self._name, differs), differs=differs, recorded_at=at), False
        repeats = self.allow_playback_repeats
        if self.record_mode == RecordMode.ALL or not (self.rewound or repeats):
            return Playable(), False
        left = {number for number in matching if repeats or not self.play_counts[number]}
        held = frozenset(number for number in left if number < self._read)
        return Playable(held), bool(left) and not held

    def play_response(self, request: Request) -> dict[str, Any]:
        """Return the answer that the ledger has found, and count it as played, as vcr does."""
        found = self._pending.found(request)
        if found is None:
            answer: dict[str, Any] = super().play_response(request)
            if request in self._again:
                self._pending.finish(request, answer)
            return answer
        if found.number < 0:  # a placeholder
            return found.answer
        if not self.play_counts[found.number]:
            self._played_interactions.append(self.data[found.number])
        self.play_counts[found.number] += 1
        return found.answer

    def append(self, request: Request, response: dict[str, Any]) -> None:
        """Keep what vcr has read, or what was really called. vcr writes it to the file as always."""
        super().append(request, response)
        if self.ledger is not None:
            self._pending.finish(request, response)

    def _save(self, force: bool = False) -> None:
        """Close the ledger when the user's code closes the cassette, and let vcr write the file."""
        if self.ledger is not None:
            self.ledger.closed = True
            if self.ledger.recording.misses or self.ledger.problems:
                self.drop_unused_requests = False  # a run that broke off does not show what is unused
        super()._save(force)


@contextlib.contextmanager
def adopt(ledger_of: LedgerOf) -> Iterator[None]:
    """Meter every cassette that the user's own code, or pytest-recording, opens while this is active.

    Every way to open a cassette goes through `Cassette.load`; so do decorators that took the class before.
    """
    adoption = _Adoption(ledger_of, Cassette.__dict__["load"])
    Cassette.load = adoption.load
    try:
        with _patched_for_all_threads():
            yield
    finally:
        adoption.end()


def adopt_open(ledger_of: LedgerOf) -> None:
    """Meter, from now on, the cassette that the user's code has opened before and holds open."""
    cassette = getattr(client.HTTPConnection, "cassette", None)  # vcr's patch puts it there
    if isinstance(cassette, Cassette) and not isinstance(cassette, (_Adopted, Router)):
        cassette.__class__ = _kind(type(cassette))
        cassette.adopt(ledger_of)
        cassette.come_late()


def _kind(cls: type[Cassette]) -> type[Cassette]:
    """Return the class that a cassette of this class has while it is metered."""
    return _Adopted if cls is Cassette else type(cls.__name__, (_Adopted, cls), {})


class _Adoption:
    """One replacement of `Cassette.load`. Several may end in any order."""

    def __init__(self, ledger_of: LedgerOf, original: Any) -> None:
        self.original = original
        self.active = True
        self.load = classmethod(self._load)
        self._ledger_of = ledger_of

    def _load(self, cls: type[Cassette], /, **options: Any) -> Cassette:
        load = self.original.__func__
        if not self.active or issubclass(cls, _Adopted):  # the latter: called by a subclass's own `load`
            return load(cls, **options)
        cassette = load(_kind(cls), **options)
        cassette.adopt(self._ledger_of)
        return cassette

    def end(self) -> None:
        """Undo the replacement, and those below it that have ended in the meantime."""
        self.active = False
        while isinstance(owner := getattr(Cassette.__dict__["load"].__func__, "__self__", None), _Adoption):
            if owner.active:
                break
            Cassette.load = owner.original


class Router(Cassette):  # type: ignore[misc]  # vcr has no types
    """A cassette without contents of its own. Every request goes to the ledger on top."""

    def __init__(self, ledgers: Ledgers) -> None:
        super().__init__(path="", record_mode=RecordMode.NONE, custom_patches=tuple(_transports(self)))
        self._ledgers = ledgers
        self._pending = Pending()

    @classmethod
    def load(cls, *, ledgers: Ledgers, **_: Any) -> Router:
        """Return a router where vcr loads a cassette. There is nothing to read."""
        return cls(ledgers)

    @property
    def write_protected(self) -> bool:
        """Whether vcr must not open a connection before the request is known."""
        return not self._ledgers.top.rules.calls

    def filter_request(self, request: Request) -> Request | None:
        """Return the request to record; None in replay, where nothing that the ledger let pass is kept."""
        return None if self.write_protected else request

    def can_play_response_for(self, request: Request) -> bool:
        """Return whether the ledger has the answer. Raises ReplayMiss."""
        found = self._pending.is_found(request)
        if found is None:
            ledger = self._ledgers.top
            sent = ledger.read(plain(request))
            found = self._pending.ask(request, ledger, sent)
            answer = self._pending.found(request)
            if answer and (sending := _SENDING.get()):
                if left := how_left(answer.answer):
                    raise _UnansweredError(ledger, sent, *left)
                sending.held = answer.held
        return found

    def play_response(self, request: Request) -> dict[str, Any]:
        """Return the answer that the ledger has found."""
        found = self._pending.found(request)
        if found is not None:
            return found.answer
        answer: dict[str, Any] = super().play_response(request)  # raises, since no answer was found
        return answer

    def append(self, request: Request, response: dict[str, Any]) -> None:
        """Give the answer of a real call to its ledger."""
        if not self._pending.finish(request, response):  # it had not begun: aiohttp has followed a redirect
            ledger = self._ledgers.top
            ledger.finish(ledger.begin(ledger.read(plain(request))), response)

    def asking(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which a request is under way; what is really called needs none."""
        ledger = self._ledgers.top
        return contextlib.nullcontext() if ledger.rules.calls else ledger.asking()

    def begun(self, request: Request) -> Call | None:
        """Return the real call that a request is; None if it is none."""
        return self._pending.begun(request)

    def find_requests_with_most_matches(self, request: Request) -> list[tuple[Any, ...]]:
        """Return the request itself: vcr's aiohttp stub looks for the target of a redirect here."""
        return [(request, [], [])]

    def _save(self, force: bool = False) -> None:
        """Write nothing: the ledger's owner writes."""


@contextlib.contextmanager
def route(ledgers: Ledgers) -> Iterator[None]:
    """Patch the HTTP libraries for the ledgers, as `vcr.use_cassette` does, in the whole process."""
    with Router.use(path="", ledgers=ledgers), _watched():
        yield


@contextlib.contextmanager
def route_but_mocks(ledgers: Ledgers) -> Iterator[None]:
    """Patch the HTTP libraries, but not the transports that answer inside of this process, as mocks do."""
    modules = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    names = itertools.product(modules, _IN_PROCESS, _HANDLERS)
    kept = [(owner, name, vars(owner)[name]) for owner, name in _methods(names)]
    with route(ledgers):
        for owner, name, own in kept:
            setattr(owner, name, own)
        yield


def _methods(names: Iterable[tuple[Any, str, str]]) -> Iterator[tuple[Any, str]]:
    """Yield (class, method) for each (module, class name, method) whose class defines the method itself."""
    for module, class_name, name in names:
        owner = getattr(module, class_name, None)
        if owner is not None and name in vars(owner):
            yield owner, name


_IN_PROCESS = ("MockTransport", "WSGITransport", "ASGITransport")
_POOLS = ("ConnectionPool", "AsyncConnectionPool")
_HANDLERS = ("handle_request", "handle_async_request")


def pools() -> dict[tuple[str, str], Any]:
    """Return the functions by which httpx's connection pools now handle a request, by class and method.

    A mock below httpx (respx) puts its own function there.
    """
    modules = [sys.modules[name] for name in ("httpcore", "httpcore2") if name in sys.modules]
    methods = _methods(itertools.product(modules, _POOLS, _HANDLERS))
    return {(f"{owner.__module__}.{owner.__name__}", name): vars(owner)[name] for owner, name in methods}


def _transports(router: Router) -> Iterator[tuple[type, str, Callable[..., Any]]]:
    """Yield the replacements of vcr's own patches of httpx and httpx2, as (class, attribute, function).

    vcr reads an answer whole before it passes it on. With these, what is streamed reaches the agent as it
    comes.
    """
    originals: Iterable[Any] = reset_patchers()
    libraries = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    for patcher in originals:
        transport = patcher.getter()
        for library in libraries:
            if transport is library.HTTPTransport:
                yield transport, patcher.attribute, _sync_handler(router, library, patcher.new)
            elif transport is library.AsyncHTTPTransport:
                yield transport, patcher.attribute, _async_handler(router, library, patcher.new)


def _sync_handler(router: Router, library: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `handle_request` whose requests go to the router."""

    class Told(library.SyncByteStream):  # type: ignore[misc]  # of a library that has no name here
        """An answer that is kept while the agent reads it. What it leaves unread is read on closing."""

        def __init__(self, reading: _Reading, stream: Any) -> None:
            self._reading = reading
            self._stream = stream
            self._chunks = iter(stream)

        def __iter__(self) -> Iterator[bytes]:
            with self._reading.goes_on(library.TimeoutException):
                for chunk in self._chunks:
                    yield self._reading.take(chunk)
            self._reading.end()

        def close(self) -> None:
            try:
                if self._reading.is_stopped():
                    with self._reading.goes_on():
                        for chunk in self._chunks:
                            self._reading.take(chunk, unread=True)
                    self._reading.end()
            finally:
                self._stream.close()

    def handle_request(transport: Any, request: Any) -> Any:
        with router.asking():
            body = b"".join(request.stream)
            request.stream = library.ByteStream(body)
            asked = Request(request.method, str(request.url), body, request.headers)
            if router.can_play_response_for(asked):
                return _played(library, router.play_response(asked))
        answer = original(transport, request)
        head = (answer.status_code, answer.reason_phrase, answer.headers.multi_items())
        reading = _Reading(router, asked, *head)
        answer.stream = Told(reading, answer.stream)
        if not reading.streams:
            with contextlib.closing(answer.stream):
                content = b"".join(answer.stream)
            answer.stream = library.ByteStream(content)
        return answer

    return handle_request


def _async_handler(router: Router, library: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `handle_async_request` whose requests go to the router."""

    class Told(library.AsyncByteStream):  # type: ignore[misc]  # of a library that has no name here
        """An answer that is kept while the agent reads it. What it leaves unread is read on closing."""

        def __init__(self, reading: _Reading, stream: Any) -> None:
            self._reading = reading
            self._stream = stream
            self._chunks = aiter(stream)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            with self._reading.goes_on(library.TimeoutException):
                async for chunk in self._chunks:
                    yield self._reading.take(chunk)
            self._reading.end()

        async def aclose(self) -> None:
            try:
                if self._reading.is_stopped():
                    with self._reading.goes_on():
                        async for chunk in self._chunks:
                            self._reading.take(chunk, unread=True)
                    self._reading.end()
            finally:
                await self._stream.aclose()

    async def handle_async_request(transport: Any, request: Any) -> Any:
        with router.asking():
            body = b"".join([part async for part in request.stream])
            request.stream = library.ByteStream(body)
            asked = Request(request.method, str(request.url), body, request.headers)
            if router.can_play_response_for(asked):
                await _others_ask()
                return _played(library, router.play_response(asked))
        answer = await original(transport, request)
        head = (answer.status_code, answer.reason_phrase, answer.headers.multi_items())
        reading = _Reading(router, asked, *head)
        answer.stream = Told(reading, answer.stream)
        if not reading.streams:
            async with contextlib.aclosing(answer.stream):
                content = b"".join([part async for part in answer.stream])
            answer.stream = library.ByteStream(content)
        return answer

    return handle_async_request


async def _others_ask() -> None:
    """Let the other tasks of this loop ask that are ready to, before an answer that takes no time."""
    if trio := _trio():
        await trio.lowlevel.checkpoint()
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # the loop of another library
        return
    await asyncio.sleep(0)


def _trio() -> Any:
    """Return trio if the caller is a task of it (anyio's is, too); else None."""
    trio = sys.modules.get("trio")
    return trio if trio and trio.lowlevel.in_trio_task() else None


def _cancellations() -> tuple[type[BaseException], ...]:
    """Return what the event loops in use raise in a task that is cancelled."""
    trio = sys.modules.get("trio")
    return (asyncio.CancelledError, trio.Cancelled) if trio else (asyncio.CancelledError,)


def _is_cancelled() -> bool:
    """Return whether the running task is being cancelled, so that it must not wait for anything."""
    if trio := _trio():
        return bool(trio.current_effective_deadline() == -math.inf)
    try:
        task = asyncio.current_task()
    except RuntimeError:  # the event loop of another library
        return False
    return task is not None and task.cancelling() > 0


class _Reading:
    """A real answer while the agent reads it."""

    def __init__(
        self, router: Router, asked: Request, code: int, phrase: str, headers: Iterable[tuple[str, str]]
    ) -> None:
        self._router = router
        self._asked = asked  # kept alive: a call counts as given up when its request is garbage-collected
        self._status = {"code": code, "message": phrase}
        self._headers: dict[str, list[str]] = {}
        for name, value in headers:
            self._headers.setdefault(str(name), []).append(value)
        self._chunks: list[bytes] = []
        self._is_over = False
        self._call = router.begun(asked)
        kinds = (values[0] for name, values in self._headers.items() if name.lower() == "content-type")
        kind = next(kinds, "")
        self.streams = self._call is not None and self._call.sent.costs and kind.startswith(STREAMS)
        """Whether the answer is passed on as it comes."""
        if self.streams and self._call:
            self._call.began = time.monotonic()

    @contextlib.contextmanager
    def goes_on(self, timeouts: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Note an answer that breaks off, which is no answer; but not an agent that merely stops reading.

        `timeouts` is what the client raises where it waits no longer for the rest.
        """
        try:
            yield
        except GeneratorExit:
            raise
        except _cancellations():
            self.leave(Left.CANCELLED)
            raise
        except timeouts:
            self.leave(Left.TIMED_OUT)
            raise
        except BaseException:
            self.leave(None)
            raise

    def leave(self, how: Left | None) -> None:
        """Note that nobody reads on, and how the agent gave it up if it did: what had come is no answer."""
        self._is_over = True
        if self._call:
            self._call.leave(how)

    def is_stopped(self) -> bool:
        """Return whether the part that the agent left unread is to be read now.

        An answer whose reader was cancelled is left instead.
        """
        if self.streams and not self._is_over and _is_cancelled():
            self.leave(Left.CANCELLED)
        return self.streams and not self._is_over

    def take(self, chunk: bytes, *, unread: bool = False) -> bytes:
        """Keep a chunk and return it; `unread` if the agent does not read it."""
        self._chunks.append(chunk)
        if unread:
            self.skip(chunk)
        return chunk

    def skip(self, rest: bytes) -> None:
        """Note that the agent does not read the rest of the answer."""
        if self._call and rest.strip():
            self._call.is_read = False

    def end(self) -> None:
        """Give the whole answer to the router."""
        if self._is_over:
            return
        self._is_over = True
        body = {"string": b"".join(self._chunks)}
        self._router.append(self._asked, {"status": self._status, "headers": self._headers, "body": body})


class _Wire(io.BufferedReader):
    """What a socket says, kept while it is read."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock.makefile("rb", buffering=0))
        self.kept = bytearray()
        self.is_late = False
        """Whether the client's time was up while it read."""
        self.told: Callable[[], None] | None = None
        """Called once before it is closed, by whoever does that: all was read, or nobody reads on."""

    def read(self, size: int | None = -1, /) -> bytes:
        return self._kept(super().read, size)

    def read1(self, size: int = -1, /) -> bytes:
        return self._kept(super().read1, size)

    def readline(self, size: int | None = -1, /) -> bytes:
        return self._kept(super().readline, size)

    def readinto(self, buffer: Any, /) -> int:
        content = self._kept(super().read, len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _kept(self, read: Callable[[Any], bytes], size: int | None) -> bytes:
        try:
            content = read(size)
        except TimeoutError:
            self.is_late = True
            raise
        self.kept += content
        return content

    def close(self) -> None:
        told, self.told = self.told, None
        if told is not None and not self.closed:
            told()
        super().close()


class _Again(io.RawIOBase):
    """What a wire has said so far, and then what it goes on to say."""

    def __init__(self, kept: bytes, wire: io.BufferedReader | None) -> None:
        self._kept = io.BytesIO(kept)
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        content = self._kept.read(len(buffer))
        if not content and self._wire is not None:
            content = self._wire.read1(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        """Return the file that the answer is read from, as a socket does."""
        return io.BufferedReader(self)

    def content(self, method: str | None) -> bytes:
        """Return the body of an answer, as far as it came; raise HTTPException or OSError if it is cut."""
        answer = client.HTTPResponse(self, method=method)  # type: ignore[arg-type]  # only `makefile` is asked
        answer.begin()
        return answer.read()


class _StreamsError(BaseException):
    """Carries an answer that comes piece by piece past vcr, which would read it whole."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer


_READS_ALL = "_reads_all"
"""Attribute of a connection of vcr: its caller wants the answer whole, as urllib3's do by default."""


def _noting_how_it_reads(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return vcr's `request` of http.client and urllib3 that keeps what vcr drops."""

    @functools.wraps(original)
    def request(connection: Any, *given: Any, **options: Any) -> Any:
        vars(connection)[_READS_ALL] = options.get("preload_content", False)
        return original(connection, *given, **options)

    return request


def _passing_streams(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return vcr's `getresponse` of http.client and urllib3, whose streams reach the agent as they come.

    A call that times out is noted, and one that was recorded so times out again.
    """

    @functools.wraps(original)
    def getresponse(connection: Any, *given: Any, **options: Any) -> Any:
        router, asked = connection.cassette, connection._vcr_request
        if not isinstance(router, Router):
            return original(connection, *given, **options)
        try:
            with _noting(TimeoutError) as sending:
                if vars(connection).get(_READS_ALL, False) or router.can_play_response_for(asked):
                    answer = original(connection, *given, **options)
                else:
                    with _tapped(connection.real_connection, router, asked):
                        answer = original(connection, *given, **options)
            sending.wait()
            return answer
        except _StreamsError as streams:
            return streams.answer
        except _UnansweredError as unanswered:
            left = unanswered
        raise left.ended(TimeoutError)

    return getresponse


@contextlib.contextmanager
def _tapped(real: Any, router: Router, asked: Request) -> Iterator[None]:
    """Let a real connection tell of a stream before it is read; of a library that is unknown, leave it."""
    unread = {"preload_content": False}
    is_urllib3 = unread.keys() <= inspect.signature(type(real).request).parameters.keys()
    if not is_urllib3 and type(real).getresponse is not VCRHTTPConnection._baseclass.getresponse:
        yield
        return

    def getresponse(*given: Any, **options: Any) -> Any:
        wires: list[_Wire] = []
        real.response_class = functools.partial(_told_response, wires)
        answer = type(real).getresponse(real, *given, **options)
        phrase, headers = answer.reason, list(answer.headers.items())
        reading = _Reading(router, asked, answer.status, phrase, headers)
        if not reading.streams or not wires:
            return answer
        whole = functools.partial(_decoded, answer) if is_urllib3 else bytes
        wires[0].told = functools.partial(_end, reading, wires[0], asked.method, whole)
        answer.getheaders = lambda: headers  # vcr asks it, and urllib3 warns of it
        raise _StreamsError(answer)

    real.request = functools.partial(type(real).request, real, **(unread if is_urllib3 else {}))
    real.getresponse = getresponse
    try:
        yield
    finally:
        for name in ("request", "getresponse", "response_class"):
            vars(real).pop(name, None)


def _told_response(wires: list[_Wire], sock: Any, *given: Any, **options: Any) -> client.HTTPResponse:
    """Return an answer that is read from a wire, which `wires` then holds."""
    wires.append(_Wire(sock))
    tapped: Any = SimpleNamespace(makefile=lambda *_: wires[-1])
    return client.HTTPResponse(tapped, *given, **options)


def _end(reading: _Reading, wire: _Wire, method: str, whole: Callable[[bytes], bytes]) -> None:
    """Take in an answer whose wire is closed; what the agent has left of it is read first."""
    if wire.is_late:
        reading.leave(Left.TIMED_OUT)
        return
    kept = bytes(wire.kept)
    try:
        read = _Again(kept, None).content(method)
    except client.IncompleteRead as cut:
        read = cut.partial
    try:
        content = _Again(kept, wire).content(method)
    except (client.HTTPException, OSError):
        return  # it broke off
    reading.skip(content[len(read) :])
    reading.take(whole(content))
    reading.end()


def _decoded(answer: Any, content: bytes) -> bytes:
    """Return the content of an answer of urllib3 as vcr keeps it: not compressed."""
    decoded: bytes = type(answer)(io.BytesIO(content), headers=answer.headers).data
    return decoded


class _NoConnection:
    """What a stream of aiohttp asks of its connection; here it is fed by hand."""

    _reading_paused = False
    connected = True

    def pause_reading(self) -> None:
        """Change nothing: what comes is kept anyway."""

    def resume_reading(self, *_: Any, **__: Any) -> None:
        """Change nothing."""


def _passing_streams_async(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return vcr's `record_response` of aiohttp that passes a stream on as it comes."""

    async def record_response(cassette: Any, asked: Request, response: Any) -> None:
        if isinstance(cassette, Router) and cassette.begun(asked) is not None:
            head = (response.status, response.reason, response.headers.items())
            reading = _Reading(cassette, asked, *head)
            if reading.streams:
                _pump(response, reading)
                return
        await original(cassette, asked, response)

    return record_response


def _pump(response: Any, reading: _Reading) -> None:
    """Read an answer of aiohttp to its end, and feed the agent with it; it waits for that when it closes."""
    real, kind = response.content, type(response)
    content = response.content = type(real)(_NoConnection(), 2**16, loop=asyncio.get_running_loop())
    feeding = asyncio.ensure_future(_feed(real, content, reading))

    def leave(*_: object) -> None:
        with contextlib.suppress(Exception):  # of an answer that broke off
            reading.skip(content.read_nowait())

    class Told(kind):  # type: ignore[misc, valid-type]  # of a library that has no name here
        """Is closed when the whole answer is there."""

        async def __aexit__(self, *error: Any) -> None:
            if _is_cancelled():
                feeding.cancel()
            await asyncio.wait([feeding])
            leave()
            await super().__aexit__(*error)

        def release(self) -> Any:
            feeding.add_done_callback(leave)
            return super().release() if feeding.done() else None

        def close(self) -> None:
            feeding.add_done_callback(leave)
            if feeding.done():
                super().close()

    response.__class__ = Told


async def _feed(real: Any, content: Any, reading: _Reading) -> None:
    """Pass on what a stream of aiohttp says, and keep it."""
    try:
        with reading.goes_on(TimeoutError):
            async for chunk in real.iter_any():
                content.feed_data(reading.take(chunk))
    except Exception as error:
        content.set_exception(error)
    else:
        reading.end()
        content.feed_eof()


def _played(library: Any, answer: Mapping[str, Any]) -> Any:
    """Return an answer in vcr's shape as a response of httpx or httpx2 whose body is not read yet."""
    phrase = answer["status"].get("message")
    return library.Response(
        answer["status"]["code"],
        headers=[(name, value) for name, values in answer["headers"].items() for value in values],
        stream=library.ByteStream(answer["body"]["string"]),
        extensions={"reason_phrase": phrase.encode("ascii", "replace")} if phrase else None,
    )


class _Sending:
    """One request on its way through an HTTP library, and the real call that began for it."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self.held: Held | None = None

    def wait(self) -> None:
        """Wait until a recorded answer may be given, and block this thread."""
        if self.held is not None:
            self.held.wait()

    async def sleep(self) -> None:
        """Let other tasks go on until a recorded answer may be given."""
        if self.held is None:
            return
        sleep = trio.sleep if (trio := _trio()) else asyncio.sleep
        for _ in range(round(self.held.patience / _POLL)):
            if self.held.asked.is_set():
                return
            await sleep(_POLL)
        self.held.give_up()

    def leave(self, how: Left | None) -> None:
        """Note that the call is over without an answer, and how the agent gave it up if it did."""
        if self.call is not None:
            self.call.leave(how)


_POLL = 0.005
"""Seconds after which a task looks again whether its answer may be given."""
_SENDING: ContextVar[_Sending | None] = ContextVar("sending", default=None)


class _UnansweredError(BaseException):
    """Stops the handling of a request that was given up, without an answer, when it was recorded."""

    def __init__(self, ledger: Ledger, sent: Sent, how: Left, after: float) -> None:
        super().__init__()
        self.ledger, self.sent, self.how, self.after = ledger, sent, how, after

    def ended(self, timeout: type[Exception]) -> BaseException:
        """Return the error of a client whose time is up, or what ends a thread when its test is over.

        A call that was cancelled, or whose thread the agent waits for, is refused.
        """
        if self.how is Left.TIMED_OUT:
            return timeout("timed out, as when it was recorded")
        self.ledger.threads.discard(threading.current_thread())
        if self.how is not Left.OUTLIVED or not self.ledger.over.wait(self._patience):
            self.ledger.overdue(self.sent, self.how)
        return SystemExit()

    @property
    def _patience(self) -> float:
        return patience(self.after)

    async def wait(self) -> NoReturn:
        """Wait until the agent cancels the call, as it did before. Refuse if it waits for far longer."""
        if trio := _trio():
            with trio.move_on_after(self._patience):
                await trio.sleep_forever()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await asyncio.Event().wait()
        self.ledger.overdue(self.sent, self.how)


@contextlib.contextmanager
def _noting(timeouts: type[Exception], is_closed: Callable[[], bool] = lambda: False) -> Iterator[_Sending]:
    """Note how a call that is sent inside of this context is given up, if it is.

    Whatever it raises, it is given up where the agent has closed the client meanwhile (`is_closed`).
    """
    sending = _Sending()
    token = _SENDING.set(sending)
    try:
        yield sending
    except timeouts:
        sending.leave(Left.TIMED_OUT)
        raise
    except _cancellations():
        sending.leave(Left.CANCELLED)
        raise
    except BaseExceptionGroup as several:  # of the nursery in which trio connects
        sending.leave(Left.CANCELLED if several.split(_cancellations())[1] is None else None)
        raise
    except _StreamsError:
        raise
    except BaseException:
        sending.leave(Left.CANCELLED if is_closed() else None)
        raise
    finally:
        _SENDING.reset(token)


_TRANSPORTS = (
    ("httpx2", "HTTPTransport", "handle_request", ()),
    ("httpx2", "AsyncHTTPTransport", "handle_async_request", ("aclose", "__aexit__")),
    ("httpx", "HTTPTransport", "handle_request", ()),
    ("httpx", "AsyncHTTPTransport", "handle_async_request", ("aclose", "__aexit__")),
    ("aiohttp", "ClientSession", "_request", ("close",)),
)
"""Methods, patched by vcr, through which calls pass that can be given up, and the coroutines that close the
client under them: (library, class, method, coroutines)."""


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Note how calls are given up, in the libraries that vcr has imported and patched."""
    closed: WeakSet[Any] = WeakSet()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_patched_for_all_threads())
        for library, cls, method, closes in _TRANSPORTS:
            if owner := getattr(sys.modules.get(library), cls, None):
                watching = _watching(sys.modules[library], owner, method, closed)
                stack.enter_context(_replaced(owner, method, watching))
                for close in closes:
                    closing = _noting_that_it_closes(vars(owner)[close], closed)
                    stack.enter_context(_replaced(owner, close, closing))
        noting = _noting_how_it_reads(VCRConnection.request)
        stack.enter_context(_replaced(VCRConnection, "request", noting))
        stack.enter_context(
            _replaced(VCRConnection, "getresponse", _passing_streams(VCRConnection.getresponse))
        )
        if stubs := sys.modules.get("vcr.stubs.aiohttp_stubs"):
            passing = _passing_streams_async(stubs.record_response)
            stack.enter_context(_replaced(stubs, "record_response", passing))
        yield


@contextlib.contextmanager
def _patched_for_all_threads() -> Iterator[None]:
    """Keep the HTTP libraries patched while vcr makes, or opens, a connection of its own.

    vcr takes its patches back meanwhile, in the whole process (`vcr.patch.force_reset`): what another thread
    asked in that time went past every cassette, and was neither recorded nor replayed. It has to, as
    `http.client.HTTPSConnection` looks itself up by the name that is patched; here that name is its own.
    httplib2 looks up others, and is left as it is.
    """
    with contextlib.ExitStack() as stack:
        for one in reset_patchers():
            if one.getter() is client and one.attribute == "HTTPSConnection":
                stack.enter_context(_replaced(one.new, "__init__", _naming_itself(one.new)))
        if "httplib2" not in sys.modules:
            patch = sys.modules[reset_patchers.__module__]
            stack.enter_context(_replaced(patch, "force_reset", contextlib.nullcontext))
        yield


def _naming_itself(cls: type) -> Any:
    """Return the `__init__` of a class in which the name of the class means that class, patched or not."""
    init = cls.__dict__["__init__"]
    names = {**init.__globals__, cls.__name__: cls}
    own = FunctionType(init.__code__, names, init.__name__, init.__defaults__, init.__closure__)
    own.__kwdefaults__ = init.__kwdefaults__
    return own


@contextlib.contextmanager
def _replaced(owner: Any, method: str, new: Callable[..., Any]) -> Iterator[None]:
    original = owner.__dict__[method]
    setattr(owner, method, new)
    try:
        yield
    finally:
        if owner.__dict__[method] is new:
            setattr(owner, method, original)


def _noting_that_it_closes(close: Callable[..., Any], closed: WeakSet[Any]) -> Callable[..., Any]:
    """Wrap the coroutine that closes a client: what it closes is then in `closed`."""

    @functools.wraps(close)
    async def note(self: Any, *given: Any) -> None:
        closed.add(self)
        await close(self, *given)

    return note


def _watching(library: Any, owner: type, method: str, closed: WeakSet[Any]) -> Callable[..., Any]:
    """Wrap a method that vcr has patched.

    The wrapper notes how calls are given up, also by who has closed the client. A call that was recorded as
    given up ends in the same way.
    """
    send = owner.__dict__[method]
    timeouts = getattr(library, "TimeoutException", TimeoutError)
    raised = getattr(library, "ReadTimeout", TimeoutError)

    @functools.wraps(send)
    def handle(self: Any, *given: Any, **options: Any) -> Any:
        try:
            with _noting(timeouts) as sending:
                answer = send(self, *given, **options)
            sending.wait()
            return answer
        except _UnansweredError as unanswered:
            left = unanswered
        raise left.ended(raised)

    @functools.wraps(send)
    async def handle_async(self: Any, *given: Any, **options: Any) -> Any:
        try:
            with _noting(timeouts, lambda: self in closed) as sending:
                answer = await send(self, *given, **options)
            await sending.sleep()
            return answer
        except _UnansweredError as unanswered:
            left = unanswered
        if left.how is not Left.TIMED_OUT:
            await left.wait()
        raise left.ended(raised)

    return handle if method == "handle_request" else handle_async


def is_taken() -> bool:
    """Return whether an HTTP library is patched already, for example by an open cassette."""
    originals: Iterable[Any] = reset_patchers()
    return any(getattr(one.getter(), one.attribute) is not one.new for one in originals)


def plain(request: Request) -> dict[str, Any]:
    """Return a request of vcr as a cassette keeps it, with its body as it is sent."""
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
    """The parts of vcr's request that are used here."""

    method: str
    uri: str


@dataclass(frozen=True, slots=True)
class _Ongoing:
    """A real call and the ledger that it belongs to."""

    ledger: Ledger
    call: Call


class Pending:
    """What was decided about requests of vcr: an answer was found, or a real call is under way.

    vcr's stubs pass a request object on unchanged, and ask about the same one again, even after it was
    answered (before they open a connection anew). So a decision is kept for as long as the object lives.
    """

    def __init__(self) -> None:
        self._decided: WeakKeyDictionary[HttpRequest, Found | _Ongoing] = WeakKeyDictionary()

    def is_found(self, request: HttpRequest) -> bool | None:
        """Return whether an answer was found; None if nothing is decided yet."""
        decision = self._decided.get(request)
        return None if decision is None else isinstance(decision, Found)

    def ask(self, request: HttpRequest, ledger: Ledger, sent: Sent, playable: Playable | None = None) -> bool:
        """Ask the ledger: return True if it has the answer, else begin a real call. Raises ReplayMiss."""
        found = ledger.find(sent, playable)
        if found is None:
            call = ledger.begin(sent)
            if sending := _SENDING.get():
                sending.call = call
            weakref.finalize(request, call.leave).atexit = False
            self._decided[request] = _Ongoing(ledger, call)
            return False
        self._decided[request] = found
        return True

    def found(self, request: HttpRequest) -> Found | None:
        """Return the answer that was found, or None."""
        decision = self._decided.get(request)
        return decision if isinstance(decision, Found) else None

    def begun(self, request: HttpRequest) -> Call | None:
        """Return the real call that is under way for a request, or None."""
        decision = self._decided.get(request)
        return decision.call if isinstance(decision, _Ongoing) else None

    def finish(self, request: HttpRequest, answer: Mapping[str, Any]) -> bool:
        """Give the answer of a call to its ledger. Return False if no call had begun."""
        decision = self._decided.get(request) or self._redirected(request)
        if not isinstance(decision, _Ongoing):
            return False
        decision.ledger.finish(decision.call, answer)
        return True

    def _redirected(self, request: HttpRequest) -> _Ongoing | None:
        """Return the call whose answer redirects: vcr's aiohttp stub reports it with a new request object."""
        for begun, decision in list(self._decided.items()):
            same = (begun.method, begun.uri) == (request.method, request.uri)
            if same and isinstance(decision, _Ongoing) and decision.call.answer is None:
                return decision
        return None


LedgerOf = Callable[[str, Sequence[Interaction], Rules], Ledger]
"""Makes the ledger of a user's cassette from its path, what it holds, and what its options allow."""
_SHARE, _LEAST = 20, 100
"""A filter is reported if it removes more than one 20th of a prompt's characters, and more than 100 of them
(about 25 tokens). A growth that hides in less is within the default tolerance."""
_FILTERS = "filter_post_data_parameters or before_record_request"


def shown(path: object) -> str:
    """Return a cassette's path as messages show it: relative to the current folder if it is below it."""
    here = Path.cwd()
    return str(Path(str(path)).relative_to(here)) if Path(str(path)).is_relative_to(here) else str(path)


def opened(ledger_of: LedgerOf, path: str, held: Sequence[Interaction], rules: Rules) -> Ledger:
    """Return the ledger of a cassette. If the cassette is damaged, the ledger is empty and doubts the run."""
    try:
        return ledger_of(path, held, rules)
    except CassetteError as error:
        ledger = ledger_of(path, (), rules)
        ledger.doubt(f"{path}: {error}")
        return ledger


def filtered(live: Sent, kept: Sent | None, ledger: Ledger, path: str, *, replayed: bool) -> Sent:
    """Return a model call as the filters of a cassette leave it (`kept`; None if they leave nothing).

    If they leave no model call, a real call counts as it is sent; ReplayMiss is raised if the call is
    `replayed`, or may not be made. If a filter removes so much of a prompt that a growth could hide there,
    the ledger doubts the run.
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
    """Return the names of the matchers that refuse the most similar request; of all matchers without one.

    `closest` is what `find_requests_with_most_matches` returns. Empty without matchers.
    """
    names = tuple(getattr(matcher, "__name__", str(matcher)) for matcher in matchers)
    return next((tuple(name for name, _ in failed) for _, _, failed in closest), names)


def no_match(path: str, differs: Sequence[str]) -> str:
    """Return why vcr has nothing to play for a request, given the names of the matchers that refuse it."""
    if not differs:
        return f"there is nothing in the cassette {path}, or it is not there."
    return f"match_on lets no request of {path} answer it, for {differ(differs)}."


def address(url: str) -> str:
    """Return a URL without what may be secret: its user, its password, its query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def parses_bodies(serializer: Any, held: Sequence[tuple[Request, Mapping[str, Any]]]) -> bool:
    """Return whether a cassette holds bodies as structures, which lose the order of their keys.

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
    with contextlib.suppress(Exception):  # code of the suite's own, which may raise anything
        text = serialize({"requests": [probe], "responses": [copy.deepcopy(answer)]}, serializer)
        return body_bytes(deserialize(text, serializer)[0][0].body)[:1] != b" "
    return True


def unpatched(path: str, libraries: Iterable[str]) -> str | None:
    """Return a sentence about the libraries that `skip_patchers` leaves out; None if there are none."""
    if not (names := ", ".join(libraries)):
        return None
    return f"the cassette {path} leaves out {names} (skip_patchers): model calls by that way are not metered"


def _hidden(live: Prompt, kept: Prompt) -> int:
    """Return how many characters of a prompt its filters remove; 0 if few (`_SHARE`, `_LEAST`)."""
    whole, left = (
        sum(len(compact_json(block.content)) for block in prompt.blocks) for prompt in (live, kept)
    )
    return whole - left if whole - left > max(whole // _SHARE, _LEAST) else 0
