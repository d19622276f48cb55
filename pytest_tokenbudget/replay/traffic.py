"""Read recorded HTTP interactions (in vcr's shape) as exchanges: what each request asks, and its answer.

Message threads: the API keeps the conversation, and a request that continues it holds only what is new. Such
a request is read as the whole conversation that the API makes of it, so that it can be compared and counted
("Message threads" of the platform's docs; the SDK's tool runner and Claude Code send them by themselves).
Otherwise a longer system prompt would show in the first request alone, and every later turn would keep its
old number.

If a recorder wrote down the times, an exchange also knows when it was sent and when its answer began, both on
one clock.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.credentials import asks_for_a_token, holds_stand_in
from pytest_tokenbudget.replay.redaction import LEFT_AFTER, PLACEHOLDER, Secrets, redact_uri
from pytest_tokenbudget.wire.answers import read_answer, read_message
from pytest_tokenbudget.wire.endpoints import endpoint, unmetered_reason
from pytest_tokenbudget.wire.exchange import Answer, Exchange, Request
from pytest_tokenbudget.wire.framing import decode_body, parse_body
from pytest_tokenbudget.wire.prompt import Prompt
from pytest_tokenbudget.wire.requests import (
    TELLING_HEADERS,
    read_batch_requests,
    read_batch_results,
    read_request,
)

_NO_RESULTS = Answer(200, error="the results of its batch are not in the recording: let the test fetch them")
_HIDDEN_TEXT = PLACEHOLDER.encode()
_HIDDEN = "https://hidden/v1/messages"
"""Stands in for a recorded address that a filter has hidden."""


class Traffic:
    """All interactions of a cassette, read once when it is made."""

    def __init__(self, interactions: Sequence[Interaction], *, sort_keys: bool = False) -> None:
        """Read the interactions; `sort_keys` if the cassette lost the order of keys in a body (`Reader`)."""
        self.interactions = list(interactions)
        self.reader = Reader(sort_keys=sort_keys)
        """Has read every recorded request, and so reads the same bytes at once when they are sent again."""
        self.exchanges: list[Exchange] = []
        """Messages requests, token counts, and the entries of batches."""
        self.carriers: list[int] = []
        """For each exchange, the index of the interaction that holds its request.

        An entry of a batch has the index of the interaction that created the batch.
        """
        self.by_address: dict[tuple[object, ...], list[int]] = defaultdict(list)
        """Indices of interactions that ask about a batch, or failed to create one, by `Sent.address`."""
        self.others: dict[tuple[str, str], list[tuple[int, Sent]]] = defaultdict(list)
        """Interactions that are no Messages traffic, as (index, request), by `Sent.route`."""
        self.batches: dict[str, list[int]] = defaultdict(list)
        """Indices of interactions that created a batch, by the digest of their request."""
        self.hides_text = any(_HIDDEN_TEXT in body_bytes(sent.get("body")) for sent, _ in self.interactions)
        """Whether something was hidden in a request when it was recorded."""
        self._threads = MessageThreads()
        self._clock = Clock()
        sent = [_recorded(self.reader, request, answer) for request, answer in self.interactions]
        results = self._results(sent)
        for number, one in enumerate(sent):
            if one.request is None:
                self.others[one.route].append((number, one))
            elif one.request.endpoint.api in ("batch", "batch_results"):
                self.by_address[one.address].append(number)
            elif one.request.endpoint.api == "batch_create":
                self._add_batch(number, one, results)
            else:
                self._add_one(number, one, one.request)

    def alike(self, sent: Sent) -> list[tuple[int, Sent]]:
        """Return what is no Messages traffic and differs from `sent` in ids that a client makes, in order."""
        if sent.shape == sent.route:
            return []
        every = itertools.chain.from_iterable(self.others.values())
        return sorted((n, one) for n, one in every if (one.host, one.shape) == (sent.host, sent.shape))

    def _add_one(self, number: int, sent: Sent, request: Request) -> None:
        answer = self._answer(number, request)
        whole = sent.in_full(self._threads, self.reader) or sent
        self._threads.keep(sent.body, answer.message)
        self._add(number, Exchange(whole.request or request, answer))

    def _add(self, number: int, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        self.carriers.append(number)

    def _add_batch(self, number: int, sent: Sent, results: Mapping[str, Mapping[str, Answer]]) -> None:
        assert sent.request is not None
        created = self._answer(number, sent.request)
        if not created.billed:
            self.by_address[sent.address].append(number)
            return
        self.batches[sent.request.digest].append(number)
        answers = results.get(str((created.message or {}).get("id")), {})
        for entry in sent.entries:
            self._add(number, Exchange(entry, answers.get(entry.custom_id or "", _NO_RESULTS)))

    def _results(self, sent: Sequence[Sent]) -> dict[str, dict[str, Answer]]:
        """Return the answers of batches, by the batch's id and the entry's custom_id."""
        results: dict[str, dict[str, Answer]] = defaultdict(dict)
        for number, one in enumerate(sent):
            if one.request is None or one.request.endpoint.api != "batch_results":
                continue
            answer = self.interactions[number][1]
            if 200 <= status(answer) < 300:
                read = read_batch_results(lower(answer.get("headers")), answer_body(answer), one.request)
                results[str(one.request.endpoint.batch_id)] |= read
        return results

    def _answer(self, number: int, request: Request) -> Answer:
        answer = self.interactions[number][1]
        timed = self._clock.timed(answer_to(request, answer), answer.get("timing"))
        return replace(timed, recording_session=session_of(answer))


def _recorded(reader: Reader, request: Mapping[str, Any], answer: Mapping[str, Any]) -> Sent:
    """Read a recorded request.

    If a filter has hidden its address, the request is read as a Messages request when its body and the answer
    show that it is one.
    """
    sent = reader.read(request)
    if sent.request is not None or "messages" not in (parse_body(sent.raw["body"] or b"") or {}):
        return sent
    try:
        plain = decode_body(lower(answer.get("headers")), answer_body(answer))
    except CassetteError:
        return sent
    hidden = reader.read(request, _HIDDEN)
    if hidden.request is None:
        return sent
    message = read_answer(200, {}, plain, hidden.request).message or {}
    return hidden if message.get("type") == "message" and "content" in message else sent


def answer_to(request: Request, answer: Mapping[str, Any]) -> Answer:
    """Read an answer in vcr's shape as the answer to `request`."""
    return read_answer(status(answer), lower(answer.get("headers")), answer_body(answer), request)


def status(answer: Mapping[str, Any]) -> int:
    """Return the HTTP status of an answer in vcr's shape, or in that of its old httpx stub; 0 without one."""
    code = (answer.get("status") or {}).get("code", answer.get("status_code"))
    return int(str(code)) if str(code).isdecimal() else 0


def session_of(answer: Mapping[str, Any]) -> int:
    """Return the number of the session in which an answer (vcr's shape) was recorded; 0 if unknown."""
    timing: Any = answer.get("timing")
    session = timing.get("session") if isinstance(timing, Mapping) else None
    return session if isinstance(session, int) and 0 <= session < _MANY_SESSIONS else 0


class Left(StrEnum):
    """How an agent gave up a call before its answer came. The value is the message of the recorded status."""

    CANCELLED = "cancelled by the agent"
    TIMED_OUT = "timed out"
    OUTLIVED = "under way when the test ended"


_LEFT_STATUS = 499
"""The status that servers log for a client that closed its request."""


def left_answer(how: Left, after: float) -> dict[str, Any]:
    """Return the answer (vcr's shape) that a recording keeps for a call given up after `after` seconds."""
    headers = {
        "content-type": ["application/json"],
        "x-should-retry": ["false"],
        LEFT_AFTER: [str(round(1000 * after))],
    }
    return {
        "status": {"code": _LEFT_STATUS, "message": str(how)},
        "headers": headers,
        "body": {"string": b"{}"},
    }


def how_left(answer: Mapping[str, Any]) -> tuple[Left, float] | None:
    """Return how a recorded call was given up, and after how many seconds; None if it was answered."""
    after = lower(answer.get("headers")).get(LEFT_AFTER, "")
    message = (answer.get("status") or {}).get("message")
    if status(answer) != _LEFT_STATUS or not after.isdecimal() or message not in list(Left):
        return None
    return Left(message), int(after) / 1000


def answer_body(answer: Mapping[str, Any]) -> bytes:
    """Return the body of an answer in vcr's shape, or in that of its old httpx stub."""
    if "body" not in answer:
        return body_bytes(answer.get("content"))
    body = answer["body"]
    return body_bytes(body.get("string") if isinstance(body, Mapping) else body)


STREAMS = ("text/event-stream", "application/vnd.amazon.eventstream")
"""Beginnings of the content types whose answers come piece by piece."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104  # compared, never bound
_MADE_ID = re.compile(r"(?<=/)(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32})(?=/|$)", re.I)
_VERSIONED = re.compile(r"/v\d+[a-z0-9]*/.*")
_BOUNDARY = re.compile(r"""boundary="?([^";,\s]+)""")
_FIRST_WORDS = 80  # characters


@dataclass(frozen=True, slots=True)
class Sent:
    """An HTTP request, read."""

    raw: dict[str, Any]
    """The request in vcr's shape, as a cassette keeps it."""
    url: str
    request: Request | None
    """The model request that it makes; None if it is no Messages traffic."""
    entries: tuple[Request, ...] = ()
    """The entries of the batch that it creates; else empty."""

    def in_full(self, threads: MessageThreads, reader: Reader) -> Sent | None:
        """Return this request with the whole conversation that the API keeps for its thread.

        A request that continues no thread is returned as it is. Return None if it continues an unknown
        thread.
        """
        if self.request is None or self.request.endpoint.api != "messages":
            return self
        body = threads.whole(self.body)
        if body is None or body is self.body:
            return self if body else None
        return replace(self, request=reader.read({**self.raw, "body": body}, self.url).request)

    @property
    def requests(self) -> tuple[Request, ...]:
        """The model requests that it makes: its own, or all entries of a batch; none for other traffic."""
        return self.entries or (() if self.request is None else (self.request,))

    @property
    def body(self) -> bytes:
        """The body as it is sent; empty bytes without one."""
        return self.raw["body"] or b""

    @property
    def method(self) -> str:
        """The HTTP method in upper case."""
        return str(self.raw["method"]).upper()

    @property
    def host(self) -> str:
        """The host in lower case, without a port."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_of_an_sdk(self) -> bool:
        """Whether an SDK of the API sent it, to the API or to a gateway in its place, whatever it asks."""
        return "anthropic-version" in lower(self.raw.get("headers"))

    @property
    def has_no_key(self) -> bool:
        """Whether it holds only a stand-in for a key, which no host may see."""
        return self.asks_for_a_token or holds_stand_in(lower(self.raw.get("headers")))

    @property
    def asks_for_a_token(self) -> bool:
        """Whether a client asks, with a stand-in for its credentials, for the token of its model calls."""
        return self.request is None and asks_for_a_token(self.body)

    @property
    def unmetered(self) -> str | None:
        """The reason, in a sentence, why what it costs is not counted; None if nothing is missed."""
        if self.request is not None:
            return None
        packed = "content-encoding" in lower(self.raw.get("headers"))
        if packed and (where := endpoint(self.method, self.url)) and where.api == "messages":
            return f"{self} is compressed, so that nobody can tell what it asks. Let the client send it plain"
        return unmetered_reason(self.method, self.url)

    @property
    def address(self) -> tuple[object, ...]:
        """The key by which a request is answered that is not paired by its content.

        That is what vcr's own default matchers compare (method and URL). For a Messages endpoint it is
        method, API and batch id instead, since the results of a batch may lie on another host.
        """
        where = self.request.endpoint if self.request else None
        if where is not None:
            return self.method, where.api, where.batch_id
        parts = urlsplit(self.url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
        query = tuple(sorted(parse_qsl(parts.query)))
        return self.method, parts.scheme, parts.hostname, port, parts.path or "/", query

    @property
    def place(self) -> str:
        """Method and address, without the query (which may hold anything) and without user and password."""
        shown = urlsplit(redact_uri(self.url, Secrets()))
        return f"{self.method} {shown._replace(query='', fragment='').geturl()}"

    @property
    def route(self) -> tuple[str, str]:
        """Method and path from its version on: these stay the same if only the base URL changes."""
        path = urlsplit(self.url).path or "/"
        versioned = _VERSIONED.search(path)
        return self.method, versioned[0] if versioned else path

    @property
    def shape(self) -> tuple[str, str]:
        """Its route without ids that a client makes anew on every run: UUIDs, with dashes or without."""
        method, path = self.route
        return method, _MADE_ID.sub("*", path)

    @property
    def content(self) -> bytes:
        """The body without the boundary of an upload, which is a different one on every run."""
        boundary = _BOUNDARY.search(lower(self.raw.get("headers")).get("content-type", ""))
        return self.body.replace(boundary[1].encode(), b"") if boundary else self.body

    @property
    def is_upload(self) -> bool:
        """Whether it sends files (a multipart body)."""
        return "multipart/" in lower(self.raw.get("headers")).get("content-type", "")

    @property
    def identity(self) -> tuple[object, ...]:
        """A key that a retry has in common with the attempt before it."""
        return self.address, self.request.digest if self.request else self.raw["body"]

    @property
    def is_about_a_batch(self) -> bool:
        """Whether it asks for a batch's state or results, which is free."""
        return self.request is not None and self.request.endpoint.api in ("batch", "batch_results")

    @property
    def costs(self) -> bool:
        """Whether it is a model call, or a batch of them."""
        return self.request is not None and self.request.endpoint.api in ("messages", "batch_create")

    def __str__(self) -> str:
        """Return a short line about it: `POST /v1/messages (claude-haiku-4-5): "Where is my order?"`"""
        path = urlsplit(self.url).path
        if self.request is None:
            return f"{self.method} {redact_uri(self.url, Secrets())}"
        prompt = (self.entries[0] if self.entries else self.request).prompt
        if not prompt.blocks:
            return f"{self.method} {path}"
        return f'{self.method} {path} ({prompt.model}): "{_first_words(prompt)}"'


class Reader:
    """Read HTTP requests, each distinct one only once.

    In replay most requests were recorded byte for byte, and a conversation is sent again on every turn.
    """

    def __init__(self, *, sort_keys: bool = False) -> None:
        """Read every body with its keys in alphabetical order if `sort_keys` (see `read_request`)."""
        self._sort_keys = sort_keys
        self._read: dict[bytes, tuple[Request, tuple[Request, ...]]] = {}
        self._texts: dict[str, str] = {}

    def read(self, raw: Mapping[str, Any], url: str | None = None) -> Sent:
        """Read a request in vcr's shape. Pass `url` if the request's own cannot be trusted."""
        url, headers, body = url or str(raw["uri"]), lower(raw.get("headers")), body_bytes(raw.get("body"))
        telling = [headers.get(name) for name in TELLING_HEADERS]
        said = hashlib.blake2b(repr((str(raw["method"]), url, telling)).encode("utf-8", "surrogatepass"))
        said.update(body)
        known = self._read.get(key := said.digest())
        if known is None:
            request = read_request(
                str(raw["method"]), url, headers, body, sort_keys=self._sort_keys, texts=self._texts
            )
            if request is not None:
                entries = read_batch_requests(request, headers, body, sort_keys=self._sort_keys)
                known = self._read[key] = request, entries
        return Sent({**raw, "body": body or None}, url, *(known or (None,)))


def _first_words(prompt: Prompt) -> str:
    """Return the first words of the last thing that the user, or a tool, said, without secrets.

    Without any such text, return the name of the last block.
    """
    for block in reversed(prompt.blocks):
        said = block.content.get("text", block.content.get("content"))
        if isinstance(said, list):
            said = " ".join(str(part.get("text", "")) for part in said if isinstance(part, Mapping))
        if block.role == "user" and isinstance(said, str) and said.strip():
            words = " ".join(Secrets().redact(said)[: 4 * _FIRST_WORDS].split())
            return words if len(words) <= _FIRST_WORDS else f"{words[: _FIRST_WORDS - 3]}..."
    return prompt.blocks[-1].name


def lower(headers: Mapping[str, Any] | None) -> dict[str, str]:
    """Return headers by lower-case name, with several values of one name joined by commas."""
    return {name.lower(): ", ".join(_values(values)) for name, values in (headers or {}).items()}


def _values(values: Any) -> list[str]:
    listed = values if isinstance(values, (list, tuple)) else [values]
    return [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in listed]


def hides_text(body: Mapping[str, Any]) -> bool:
    """Return whether something was hidden in a parsed request body when it was recorded."""
    return PLACEHOLDER in json.dumps(body, ensure_ascii=False)


def body_bytes(body: Any) -> bytes:
    """Return a request's body as it is sent; empty bytes without one.

    vcr keeps bytes, text, or the object that aiohttp was given as `json=`.
    """
    if isinstance(body, (bytes, bytearray)):
        return bytes(body)
    if isinstance(body, (dict, list)):
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else b""


_KEPT = ("system", "tools")
"""The fields that a thread keeps from the request that began it."""


class MessageThreads:
    """The conversations that the API keeps, each by the id of the answer that a request may continue."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}

    def whole(self, body: bytes) -> bytes | None:
        """Return a request's body as it would be without a thread.

        Return `body` itself if it has no thread; None if it continues an unknown thread, or has no messages.
        """
        if not may_be_of_a_thread(body):
            return body
        whole = self._whole(body)
        if whole is None:
            return None
        text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass")

    def keep(self, body: bytes, message: Mapping[str, Any] | None) -> None:
        """Keep a request's body and the message that answered it: the next request may continue there."""
        whole = self._whole(body) if message and may_be_of_a_thread(body) else None
        if whole is None or message is None or "id" not in message:
            return
        said = {"role": "assistant", "content": message.get("content", [])}
        kept = {name: whole[name] for name in _KEPT if name in whole}
        self._kept[str(message["id"])] = {**kept, "messages": [*_unmarked(whole["messages"]), said]}

    def _whole(self, body: bytes) -> dict[str, Any] | None:
        sent = parse_body(body)
        if sent is None or not isinstance(sent.get("messages"), list):
            return None
        thread = sent.pop("thread", None)
        if not isinstance(thread, Mapping) or thread.get("type") != "continue":
            return sent
        kept = self._kept.get(str(thread.get("previous_message_id")))
        if kept is None:
            return None
        own = {name: value for name, value in sent.items() if name not in _KEPT}
        return {**own, **kept, "messages": [*kept["messages"], *sent["messages"]]}


def may_be_of_a_thread(body: bytes) -> bool:
    """Return whether a request may begin or continue a thread, without parsing it."""
    return b'"thread"' in body


def _unmarked(messages: Iterable[Any]) -> list[Any]:
    """Return messages without their cache breakpoints, which belong to the request that sent them."""
    return [_without_marks(message) if isinstance(message, Mapping) else message for message in messages]


def _without_marks(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_without_mark(block) for block in content]}


def _without_mark(block: Any) -> Any:
    if not isinstance(block, Mapping):
        return block
    return {key: value for key, value in block.items() if key != "cache_control"}


_MANY_SESSIONS = 10**6
"""A session's number from here on is not believed."""
_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)
"""The day of recordings whose answers have no `Date`; only differences of times count."""


class Clock:
    """The clock of one recording.

    The first answer with a `timing` sets it by its `Date`; the others follow in milliseconds.
    """

    def __init__(self) -> None:
        self._began: datetime | None = None

    def timed(self, answer: Answer, timing: object) -> Answer:
        """Return the answer with `sent` and a finer `date` if `timing` tells both; else as it is."""
        started, answered = _milliseconds(timing, "started"), _milliseconds(timing, "answered")
        if started is None or answered is None:
            return answer
        if self._began is None:
            self._began = (answer.date or _SOME_DAY) - answered
        return replace(answer, sent=self._began + started, date=self._began + answered)


def _milliseconds(timing: object, name: str) -> timedelta | None:
    value: Any = timing.get(name) if isinstance(timing, Mapping) else None
    return timedelta(milliseconds=value) if isinstance(value, int) and 0 <= value < 10**10 else None


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A recorded call whose answer the agent did not wait for: it lost its patience and asked for more."""

    last: int
    """Index of the last call that the agent sent before the answer came."""
    pause: float
    """Seconds that the agent let pass at most, with nothing else going on, before it sent one of them."""


_AT_ONCE = timedelta(milliseconds=100)
"""Calls sent within this time are sent at once: no agent loses its patience so soon."""


def overtaken(interactions: Sequence[Interaction], calls: Collection[int]) -> dict[int, Overtaken]:
    """Return the calls that were overtaken, by the index of their interaction, from the recorded times.

    `calls` are the indices of the model calls. A call was overtaken if, before its answer came, the agent
    sent another one for which it had nothing but time to go by: no call was answered in between.
    """
    spans = [(number, *_times(interactions[number][1])) for number in calls]
    sent = sorted((began, number, answered) for number, began, answered in spans if began is not None)
    begins = [began for began, _, _ in sent]
    answers = sorted(answered for _, _, answered in sent if answered is not None)
    events = sorted([*begins, *answers])
    pauses = [began - events[max(bisect_left(events, began) - 1, 0)] for began in begins]
    found = {}
    for place, (began, number, answered) in enumerate(sent):
        if answered is None or answered <= began:
            continue
        first = bisect_left(begins, began + _AT_ONCE)
        if first < len(begins) and begins[first] < answers[bisect_right(answers, began)]:
            end = bisect_left(begins, answered)
            pause = max(pauses[place + 1 : end])
            found[number] = Overtaken(sent[end - 1][1], pause.total_seconds())
    return found


_NAMED = frozenset({"id", "tool_use_id", "signature"})
"""Fields whose values differ in every answer, and that later requests repeat."""
_LEAST_NAME = 8
"""Fewest characters of an id that is replaced wherever it stands; a shorter one may mean something else."""


def settled(new: Sequence[Interaction], old: Sequence[Interaction]) -> list[Interaction]:
    """Return a new recording with what does not matter taken from the `old` one, so that their diff is small.

    An answer with the same content keeps its old ids, headers and times; a turn that also bills the same
    stays as it was. Later requests then repeat the old ids. An old id never comes to stand for two calls: one
    that the new recording has itself is not given to another of its answers. Times are kept only if all
    answers are the old ones and overlapped as before, since the times of two runs cannot be compared.
    """
    names: dict[str, str] = {}
    left = list(range(len(old)))
    bodies = [(body_bytes(asked.get("body")), answer_body(told)) for asked, told in new]
    texts = b"\n".join(itertools.chain.from_iterable(bodies))
    pairs: list[tuple[Interaction, int | None]] = []
    for index, (request, answer) in enumerate(new):
        asked = _renamed(request, names)
        same = (number for number in left if _asks_the_same(asked, old[number][0]))
        number = next(same, index if index in left else None)
        ids = None if number is None else _ids(answer, old[number][1], names)
        if ids is not None and not _are_free([ids[name] for name in ids.keys() - names], names, texts):
            ids = None
        if number is not None and ids is not None:
            names |= ids
            left.remove(number)
        pairs.append(((asked, _renamed_answer(answer, names)), number if ids is not None else None))
    numbers = [number for _, number in pairs]
    same_times = len(pairs) == len(old) and not left and _is_as_concurrent(new, old, numbers)
    kept = [
        pair if number is None else _kept(pair, old[number], same_times=same_times) for pair, number in pairs
    ]
    is_old = same_times and all(
        one == old[number] for one, number in zip(kept, numbers, strict=True) if number is not None
    )
    return list(old) if is_old else kept


def _are_free(ids: Sequence[str], names: Mapping[str, str], texts: bytes) -> bool:
    """Return whether old ids, each once, are not taken: by a call of `names`, or in the new `texts`."""
    is_once = len({*ids, *names.values()}) == len(ids) + len({*names.values()})
    return is_once and not any(earlier.encode() in texts for earlier in ids)


def _asks_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two requests in vcr's shape have the same method, path and body, on whatever host."""
    same = one["method"] == other["method"] and _path(one["uri"]) == _path(other["uri"])
    return same and body_bytes(one.get("body")) == body_bytes(other.get("body"))


def _path(uri: str) -> tuple[str, str]:
    address = urlsplit(uri)
    return address.path, address.query


def _renamed(request: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a request with ids replaced in its address and body (`names`: new id -> old id)."""
    uri = _replaced(str(request["uri"]).encode(), names).decode()
    body = request.get("body")
    return {**request, "uri": uri, "body": body and _replaced(body_bytes(body), names)}


def _renamed_answer(answer: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(answer.get("body"), Mapping):
        return dict(answer)
    return {**answer, "body": {**answer["body"], "string": _replaced(answer_body(answer), names)}}


def _replaced(text: bytes, names: Mapping[str, str]) -> bytes:
    for name, earlier in names.items():
        text = text.replace(name.encode(), earlier.encode())
    return text


def _ids(new: Mapping[str, Any], old: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str] | None:
    """Return the old id for each new id (with those of `names`) if two answers say the same; else None."""
    said, before = _said(new), _said(old)
    if status(new) != status(old):
        return None
    if said is None or before is None:
        return {} if answer_body(new) == answer_body(old) else None
    ids = dict(names)
    same = _says_the_same(_without_usage(said), _without_usage(before), "", ids)
    return ids if same else None


def _says_the_same(new: Any, old: Any, key: str, ids: dict[str, str]) -> bool:
    """Return whether two values of an answer differ in ids and dates alone; adds what it learns to `ids`."""
    if isinstance(new, dict) and isinstance(old, dict):
        return new.keys() == old.keys() and all(
            _says_the_same(value, old[name], name, ids) for name, value in new.items()
        )
    if isinstance(new, list) and isinstance(old, list):
        pairs = zip(new, old, strict=False)
        return len(new) == len(old) and all(_says_the_same(one, other, key, ids) for one, other in pairs)
    if type(new) is not type(old) or new == old or not isinstance(new, str):
        return type(new) is type(old) and bool(new == old)
    if key.endswith("_at"):
        return True
    if key in _NAMED and min(len(new), len(old)) >= _LEAST_NAME:
        return bool(ids.setdefault(new, old) == old)
    return bool(_replaced(new.encode("utf-8", "surrogatepass"), ids) == old.encode("utf-8", "surrogatepass"))


def _said(answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the message, or other JSON, that an answer holds in any framing; None if it holds neither."""
    try:
        return read_message(decode_body(lower(answer.get("headers")), answer_body(answer))).message
    except CassetteError:
        return None


def _without_usage(said: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key != "usage"}


def _kept(new: Interaction, old: Interaction, *, same_times: bool) -> Interaction:
    """Return a new turn that says the same as an old one, with what does not matter taken from there."""
    (request, answer), (asked, told) = new, old
    headers, earlier = lower(request.get("headers")), lower(asked.get("headers"))
    if all(headers.get(name) == earlier.get(name) for name in TELLING_HEADERS):
        is_same = request["uri"] == asked["uri"] and _asks_the_same(request, asked)
        request = asked if is_same else {**request, "headers": asked.get("headers")}
    if lower(answer.get("headers")).get("content-type") != lower(told.get("headers")).get("content-type"):
        return request, answer  # in another framing
    bills_the_same = (_said(answer) or {}).get("usage") == (_said(told) or {}).get("usage")
    kept = told if bills_the_same else {**answer, "headers": told.get("headers")}
    return request, _timed_as(kept, told if same_times else answer)


def _timed_as(answer: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer with the `date` header and the timing of another."""
    dates = {name: value for name, value in (other.get("headers") or {}).items() if name.lower() == "date"}
    headers = {
        name: value for name, value in (answer.get("headers") or {}).items() if name.lower() != "date"
    } | dates
    timing = {"timing": other["timing"]} if "timing" in other else {}
    rest = {name: value for name, value in answer.items() if name not in ("timing", "headers")}
    return {**rest, "headers": headers, **timing}


def _is_as_concurrent(
    new: Sequence[Interaction], old: Sequence[Interaction], numbers: Sequence[int | None]
) -> bool:
    """Return whether the same turns overlapped in time in both recordings.

    `numbers` has, for each new turn, the index of the old turn, or None.
    """
    spans = [_span(answer) for _, answer in new]
    earlier = [_span(old[number][1]) if number is not None else None for number in numbers]
    return all(
        _at_once(spans[first], spans[second]) == _at_once(earlier[first], earlier[second])
        for first, second in itertools.combinations(range(len(new)), 2)
    )


_Span = tuple[timedelta, timedelta] | None
"""The time from a request's start to its answer's first byte, or None if not recorded."""


def _span(answer: Mapping[str, Any]) -> _Span:
    started, answered = _times(answer)
    return None if started is None or answered is None else (started, answered)


def _times(answer: Mapping[str, Any]) -> tuple[timedelta | None, timedelta | None]:
    """Return when a request was started and its answer's first byte came, each None if not recorded."""
    timing = answer.get("timing")
    return _milliseconds(timing, "started"), _milliseconds(timing, "answered")


def _at_once(one: _Span, other: _Span) -> bool | None:
    """Return whether two turns overlapped in time, or None if that is not known."""
    return None if one is None or other is None else one[0] < other[1] and other[0] < one[1]
