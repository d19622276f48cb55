"""Read HTTP interactions in vcr's shape as exchanges: what each request asks, and which one answers it.

Message threads: the API keeps a conversation, and a request that continues it holds only what is new. To
be compared and counted, such a request is read as the conversation that the API makes of it ("Message
threads" of the platform's docs; the SDK's tool runner and Claude Code send them by themselves). Otherwise
a longer system prompt would show in the first request alone, and every later turn would keep its old
number.

Where a recorder wrote it down, an exchange also knows when it was sent and when its answer began, on one
clock.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.credentials import holds_stand_in
from pytest_tokenbudget.replay.redaction import PLACEHOLDER, Secrets, redact_uri
from pytest_tokenbudget.wire.answers import read_answer, read_message
from pytest_tokenbudget.wire.exchange import Answer, Exchange, Request, endpoint, unmetered_reason
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
"""Stands in for a recorded address that a filter has blotted out."""


class Traffic:
    """The interactions of a cassette, read once."""

    def __init__(self, interactions: Sequence[Interaction], *, sort_keys: bool = False) -> None:
        """`sort_keys` where the cassette does not tell the order of keys in a body (`Reader`)."""
        self.interactions = list(interactions)
        self.reader = Reader(sort_keys=sort_keys)
        """Knows what was recorded."""
        self.exchanges: list[Exchange] = []
        """Messages requests, token counts, and the entries of batches."""
        self.carriers: list[int] = []
        """Of each exchange: the interaction with its answer, of a batch's entry the batch's creation."""
        self.by_address: dict[tuple[object, ...], list[int]] = defaultdict(list)
        """Interactions about a batch, and batches that could not be created."""
        self.others: dict[tuple[str, str], list[tuple[int, Sent]]] = defaultdict(list)
        """By method and path: interactions that are no Messages traffic."""
        self.batches: dict[str, list[int]] = defaultdict(list)
        """Created batches, by the digest of their request."""
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
        """The answers of batches, by their id and custom_id."""
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
    """A recorded request; where a filter has hidden its address, the answer tells whether it is a message."""
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
    """An answer in vcr's shape, read."""
    return read_answer(status(answer), lower(answer.get("headers")), answer_body(answer), request)


def status(answer: Mapping[str, Any]) -> int:
    """The HTTP status of an answer in vcr's shape, or in that of its old httpx stub; 0 where it has none."""
    code = (answer.get("status") or {}).get("code", answer.get("status_code"))
    return int(str(code)) if str(code).isdecimal() else 0


def session_of(answer: Mapping[str, Any]) -> int:
    """Return in which session an answer in vcr's shape was recorded: 0 where it does not say."""
    timing: Any = answer.get("timing")
    session = timing.get("session") if isinstance(timing, Mapping) else None
    return session if isinstance(session, int) and 0 <= session < _MANY_SESSIONS else 0


class Left(StrEnum):
    """How an agent gave up a call before its answer came: the message of the status that stands for one."""

    CANCELLED = "cancelled by the agent"
    TIMED_OUT = "timed out"


_LEFT_STATUS = 499
"""As servers log a client that closed its request."""
_LEFT_AFTER = "x-left-after-ms"


def left_answer(how: Left, after: float) -> dict[str, Any]:
    """Return what stands in a recording for the answer to a call that was left after so many seconds."""
    headers = {
        "content-type": ["application/json"],
        "x-should-retry": ["false"],
        _LEFT_AFTER: [str(round(1000 * after))],
    }
    return {
        "status": {"code": _LEFT_STATUS, "message": str(how)},
        "headers": headers,
        "body": {"string": b"{}"},
    }


def how_left(answer: Mapping[str, Any]) -> tuple[Left, float] | None:
    """Return how a recorded call was left, and after how many seconds; None for one that was answered."""
    after = lower(answer.get("headers")).get(_LEFT_AFTER, "")
    message = (answer.get("status") or {}).get("message")
    if status(answer) != _LEFT_STATUS or not after.isdecimal() or message not in list(Left):
        return None
    return Left(message), int(after) / 1000


def answer_body(answer: Mapping[str, Any]) -> bytes:
    """The body of an answer in vcr's shape, or in the one of its old httpx stub."""
    if "body" not in answer:
        return body_bytes(answer.get("content"))
    body = answer["body"]
    return body_bytes(body.get("string") if isinstance(body, Mapping) else body)


STREAMS = ("text/event-stream", "application/vnd.amazon.eventstream")
"""What the content type of an answer begins with that comes piece by piece."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104  # compared, never bound
_VERSIONED = re.compile(r"/v\d+[a-z0-9]*/.*")
_BOUNDARY = re.compile(r"""boundary="?([^";,\s]+)""")
_FIRST_WORDS = 80  # characters


@dataclass(frozen=True, slots=True)
class Sent:
    """One HTTP request, read."""

    raw: dict[str, Any]
    """In vcr's shape, as a cassette keeps it."""
    url: str
    request: Request | None
    """None where it is not Messages traffic."""
    entries: tuple[Request, ...] = ()
    """Of a batch's creation."""

    def in_full(self, threads: MessageThreads, reader: Reader) -> Sent | None:
        """With the conversation that the API keeps for it; None where that is not known."""
        if self.request is None or self.request.endpoint.api != "messages":
            return self
        body = threads.whole(self.body)
        if body is None or body is self.body:
            return self if body else None
        return replace(self, request=reader.read({**self.raw, "body": body}, self.url).request)

    @property
    def requests(self) -> tuple[Request, ...]:
        """Return the model requests that it makes: of a batch all entries, of other traffic none."""
        return self.entries or (() if self.request is None else (self.request,))

    @property
    def body(self) -> bytes:
        """As it is sent."""
        return self.raw["body"] or b""

    @property
    def method(self) -> str:
        """In upper case."""
        return str(self.raw["method"]).upper()

    @property
    def host(self) -> str:
        """In lower case, without a port."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_of_an_sdk(self) -> bool:
        """Whether it is for the API, or for a gateway in its place, whatever it asks."""
        return "anthropic-version" in lower(self.raw.get("headers"))

    @property
    def has_no_key(self) -> bool:
        """Whether what it shows for a key only stands in for one, so that it must not leave this machine."""
        return self.host not in LOOPBACK and holds_stand_in(lower(self.raw.get("headers")))

    @property
    def unmetered(self) -> str | None:
        """Why what it costs goes unmetered, in a sentence; None where nothing does."""
        if self.request is not None:
            return None
        packed = "content-encoding" in lower(self.raw.get("headers"))
        if packed and (where := endpoint(self.method, self.url)) and where.api == "messages":
            return f"{self} is compressed, so that nobody can tell what it asks. Let the client send it plain"
        return unmetered_reason(self.method, self.url)

    @property
    def address(self) -> tuple[object, ...]:
        """What a request is answered by that is not paired by what it says: vcr's own default matchers, and
        for a batch its id, since its results may lie on another host."""
        where = self.request.endpoint if self.request else None
        if where is not None:
            return self.method, where.api, where.batch_id
        parts = urlsplit(self.url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
        query = tuple(sorted(parse_qsl(parts.query)))
        return self.method, parts.scheme, parts.hostname, port, parts.path or "/", query

    @property
    def place(self) -> str:
        """Method and address without the query, which may hold anything, and without who asks."""
        shown = urlsplit(redact_uri(self.url, Secrets()))
        return f"{self.method} {shown._replace(query='', fragment='').geturl()}"

    @property
    def route(self) -> tuple[str, str]:
        """Method and path from its version on: what a call keeps below another base URL."""
        path = urlsplit(self.url).path or "/"
        versioned = _VERSIONED.search(path)
        return self.method, versioned[0] if versioned else path

    @property
    def content(self) -> bytes:
        """The body without the boundary of an upload, which is another one on every run."""
        boundary = _BOUNDARY.search(lower(self.raw.get("headers")).get("content-type", ""))
        return self.body.replace(boundary[1].encode(), b"") if boundary else self.body

    @property
    def is_upload(self) -> bool:
        """Whether it sends files."""
        return "multipart/" in lower(self.raw.get("headers")).get("content-type", "")

    @property
    def identity(self) -> tuple[object, ...]:
        """What a retry has in common with the attempt before."""
        return self.address, self.request.digest if self.request else self.raw["body"]

    @property
    def is_about_a_batch(self) -> bool:
        """Whether it asks for a batch's state or results, which is free."""
        return self.request is not None and self.request.endpoint.api in ("batch", "batch_results")

    @property
    def costs(self) -> bool:
        """Whether it is a model call, or many."""
        return self.request is not None and self.request.endpoint.api in ("messages", "batch_create")

    def __str__(self) -> str:
        """`POST /v1/messages (claude-haiku-4-5): "Where is my order, and ..."`"""
        path = urlsplit(self.url).path
        if self.request is None:
            return f"{self.method} {redact_uri(self.url, Secrets())}"
        prompt = (self.entries[0] if self.entries else self.request).prompt
        if not prompt.blocks:
            return f"{self.method} {path}"
        return f'{self.method} {path} ({prompt.model}): "{_first_words(prompt)}"'


class Reader:
    """Reads HTTP requests. What says the same to the byte is read once: in replay most was recorded so, and
    a conversation is sent again on every turn."""

    def __init__(self, *, sort_keys: bool = False) -> None:
        """With `sort_keys`, every body is read with its keys in alphabetical order (`read_request`)."""
        self._sort_keys = sort_keys
        self._read: dict[bytes, tuple[Request, tuple[Request, ...]]] = {}

    def read(self, raw: Mapping[str, Any], url: str | None = None) -> Sent:
        """A request in vcr's shape; `url` where its own is not to be trusted."""
        url, headers, body = url or str(raw["uri"]), lower(raw.get("headers")), body_bytes(raw.get("body"))
        telling = [headers.get(name) for name in TELLING_HEADERS]
        said = hashlib.blake2b(repr((str(raw["method"]), url, telling)).encode("utf-8", "surrogatepass"))
        said.update(body)
        known = self._read.get(key := said.digest())
        if known is None:
            request = read_request(str(raw["method"]), url, headers, body, sort_keys=self._sort_keys)
            if request is not None:
                entries = read_batch_requests(request, headers, body, sort_keys=self._sort_keys)
                known = self._read[key] = request, entries
        return Sent({**raw, "body": body or None}, url, *(known or (None,)))


def _first_words(prompt: Prompt) -> str:
    """Of the last thing that the user, or a tool, said."""
    for block in reversed(prompt.blocks):
        said = block.content.get("text", block.content.get("content"))
        if isinstance(said, list):
            said = " ".join(str(part.get("text", "")) for part in said if isinstance(part, Mapping))
        if block.role == "user" and isinstance(said, str) and said.strip():
            words = " ".join(Secrets().redact(said)[: 4 * _FIRST_WORDS].split())
            return words if len(words) <= _FIRST_WORDS else f"{words[: _FIRST_WORDS - 3]}..."
    return prompt.blocks[-1].name


def lower(headers: Mapping[str, Any] | None) -> dict[str, str]:
    """Headers by lower-case names, several values joined."""
    return {name.lower(): ", ".join(_values(values)) for name, values in (headers or {}).items()}


def _values(values: Any) -> list[str]:
    listed = values if isinstance(values, (list, tuple)) else [values]
    return [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in listed]


def hides_text(body: Mapping[str, Any]) -> bool:
    """Whether something was hidden in a parsed request body."""
    return PLACEHOLDER in json.dumps(body, ensure_ascii=False)


def body_bytes(body: Any) -> bytes:
    """A request's body as it is sent: vcr keeps bytes, text, and what aiohttp was given as `json=`."""
    if isinstance(body, (bytes, bytearray)):
        return bytes(body)
    if isinstance(body, (dict, list)):
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else b""


_KEPT = ("system", "tools")
"""What a thread keeps from the request that began it."""


class MessageThreads:
    """The conversations that the API keeps, each under the id of the answer that a request may continue."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}

    def whole(self, body: bytes) -> bytes | None:
        """A request's body as it would be without a thread; None where it continues one that is not known."""
        if not may_be_of_a_thread(body):
            return body
        whole = self._whole(body)
        if whole is None:
            return None
        text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass")

    def keep(self, body: bytes, message: Mapping[str, Any] | None) -> None:
        """A request with this body was answered by this message: the next one may continue from there."""
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
    """Whether a request may begin or continue a thread, at a glance."""
    return b'"thread"' in body


def _unmarked(messages: Iterable[Any]) -> list[Any]:
    """Messages without their cache breakpoints, which are those of the request that sent them."""
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
"""What is more is no session that anybody wrote."""
_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)
"""Only differences count; a day for recordings whose answers have no `Date`."""


class Clock:
    """Of one recording: its first answer with a `timing` sets it; the others follow in milliseconds."""

    def __init__(self) -> None:
        self._began: datetime | None = None

    def timed(self, answer: Answer, timing: object) -> Answer:
        """The answer with `sent` and a finer `date`, where `timing` tells both; else as it is."""
        started, answered = _milliseconds(timing, "started"), _milliseconds(timing, "answered")
        if started is None or answered is None:
            return answer
        if self._began is None:
            self._began = (answer.date or _SOME_DAY) - answered
        return replace(answer, sent=self._began + started, date=self._began + answered)


def _milliseconds(timing: object, name: str) -> timedelta | None:
    value: Any = timing.get(name) if isinstance(timing, Mapping) else None
    return timedelta(milliseconds=value) if isinstance(value, int) and 0 <= value < 10**10 else None


_NAMED = frozenset({"id", "tool_use_id", "signature"})
"""Fields whose values are another in every answer, and come back in later requests."""
_LEAST_NAME = 8
"""Characters of a value that is replaced wherever it stands; what is shorter may mean something else."""


def settled(new: Sequence[Interaction], old: Sequence[Interaction]) -> list[Interaction]:
    """Return a new recording with what says nothing as the `old` one has it, so that their diff is quiet.

    An answer of the same content keeps its old ids, headers and times; a turn that bills the same too stays
    as it was. Later requests repeat the old ids. Times stay only where all answers are the old ones, asked
    as much at once as before, since those of two runs cannot be compared.
    """
    names: dict[str, str] = {}
    left = list(range(len(old)))
    pairs: list[tuple[Interaction, int | None]] = []
    for index, (request, answer) in enumerate(new):
        asked = _renamed(request, names)
        same = (number for number in left if _asks_the_same(asked, old[number][0]))
        number = next(same, index if index in left else None)
        ids = None if number is None else _ids(answer, old[number][1], names)
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


def _asks_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    same = (one["method"], one["uri"]) == (other["method"], other["uri"])
    return same and body_bytes(one.get("body")) == body_bytes(other.get("body"))


def _renamed(request: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A request with ids replaced in its address and body."""
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
    """Return the old id by the new one of two answers that say the same; None where they do not."""
    said, before = _said(new), _said(old)
    if status(new) != status(old):
        return None
    if said is None or before is None:
        return {} if answer_body(new) == answer_body(old) else None
    ids = dict(names)
    same = _says_the_same(_without_usage(said), _without_usage(before), "", ids)
    return ids if same else None


def _says_the_same(new: Any, old: Any, key: str, ids: dict[str, str]) -> bool:
    """Whether two values of an answer differ in ids and dates alone; learns the ids."""
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
    """The message, or other JSON, that an answer is in whatever framing; None where it is neither."""
    try:
        return read_message(decode_body(lower(answer.get("headers")), answer_body(answer))).message
    except CassetteError:
        return None


def _without_usage(said: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key != "usage"}


def _kept(new: Interaction, old: Interaction, *, same_times: bool) -> Interaction:
    """Return a new turn whose answer says what the old one says, with what says nothing taken from there."""
    (request, answer), (asked, told) = new, old
    headers, earlier = lower(request.get("headers")), lower(asked.get("headers"))
    if all(headers.get(name) == earlier.get(name) for name in TELLING_HEADERS):
        request = asked if _asks_the_same(request, asked) else {**request, "headers": asked.get("headers")}
    if lower(answer.get("headers")).get("content-type") != lower(told.get("headers")).get("content-type"):
        return request, answer  # in another framing
    bills_the_same = (_said(answer) or {}).get("usage") == (_said(told) or {}).get("usage")
    kept = told if bills_the_same else {**answer, "headers": told.get("headers")}
    return request, _timed_as(kept, told if same_times else answer)


def _timed_as(answer: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with the date and the timing of another."""
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
    """Whether the same turns were under way at once in both; `numbers` are those of the old ones."""
    spans = [_span(answer) for _, answer in new]
    earlier = [_span(old[number][1]) if number is not None else None for number in numbers]
    return all(
        _at_once(spans[first], spans[second]) == _at_once(earlier[first], earlier[second])
        for first, second in itertools.combinations(range(len(new)), 2)
    )


_Span = tuple[timedelta, timedelta] | None
"""From the start of a request to its answer, or None where nobody knows."""


def _span(answer: Mapping[str, Any]) -> _Span:
    timing = answer.get("timing")
    started, answered = _milliseconds(timing, "started"), _milliseconds(timing, "answered")
    return None if started is None or answered is None else (started, answered)


def _at_once(one: _Span, other: _Span) -> bool | None:
    """Whether two turns overlap, or None where nobody knows."""
    return None if one is None or other is None else one[0] < other[1] and other[0] < one[1]
