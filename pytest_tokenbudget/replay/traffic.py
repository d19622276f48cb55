"""HTTP interactions read as exchanges: what each request asks, and which interaction holds the answer."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.replay.message_threads import MessageThreads
from pytest_tokenbudget.replay.packing import Interaction
from pytest_tokenbudget.replay.secret_text import PLACEHOLDER
from pytest_tokenbudget.replay.timing import Clock
from pytest_tokenbudget.wire.batches import read_batch_requests, read_batch_results
from pytest_tokenbudget.wire.exchange import Answer, Exchange, Request
from pytest_tokenbudget.wire.prompt import Prompt
from pytest_tokenbudget.wire.request import parse_body, read_request
from pytest_tokenbudget.wire.usage import decode_body, read_answer

_NO_RESULTS = Answer(200, error="the results of its batch are not in the recording")
_FIRST_WORDS = 80  # characters
_HIDDEN_TEXT = PLACEHOLDER.encode()
_HIDDEN = "https://hidden/v1/messages"
"""Stands in for a recorded address that a filter has blotted out."""


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

    @classmethod
    def of(cls, raw: Mapping[str, Any], url: str | None = None) -> Sent:
        """Read a request in vcr's shape; `url` where its own is not to be trusted."""
        url, headers, body = url or str(raw["uri"]), lower(raw.get("headers")), body_bytes(raw.get("body"))
        request = read_request(str(raw["method"]), url, headers, body)
        entries = read_batch_requests(request, headers, body) if request else ()
        return cls({**raw, "body": body or None}, url, request, entries)

    def in_full(self, threads: MessageThreads) -> Sent | None:
        """With the conversation that the API keeps for it; None where that is not known."""
        if self.request is None or self.request.endpoint.api != "messages":
            return self
        body = threads.whole(self.body)
        if body is None or body is self.body:
            return self if body else None
        return replace(
            self, request=read_request(self.method, self.url, lower(self.raw.get("headers")), body)
        )

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
            return f"{self.method} {self.url}"
        prompt = (self.entries[0] if self.entries else self.request).prompt
        if not prompt.blocks:
            return f"{self.method} {path}"
        return f'{self.method} {path} ({prompt.model}): "{_first_words(prompt)}"'


def _first_words(prompt: Prompt) -> str:
    """Of the last thing that the user, or a tool, said."""
    for block in reversed(prompt.blocks):
        said = block.content.get("text", block.content.get("content"))
        if isinstance(said, list):
            said = " ".join(str(part.get("text", "")) for part in said if isinstance(part, Mapping))
        if block.role == "user" and isinstance(said, str) and said.strip():
            words = " ".join(said[: 4 * _FIRST_WORDS].split())
            return words if len(words) <= _FIRST_WORDS else f"{words[: _FIRST_WORDS - 3]}..."
    return prompt.blocks[-1].name


class Traffic:
    """The interactions of a cassette, read once."""

    def __init__(self, interactions: Sequence[Interaction]) -> None:
        self.interactions = list(interactions)
        self.exchanges: list[Exchange] = []
        """Messages requests, token counts, and the entries of batches."""
        self.carriers: list[int] = []
        """Of each exchange: the interaction with its answer, of a batch's entry the batch's creation."""
        self.by_address: dict[tuple[object, ...], list[int]] = defaultdict(list)
        """Interactions with anything else, and batches that could not be created."""
        self.batches: dict[str, list[int]] = defaultdict(list)
        """Created batches, by the digest of their request."""
        self.hides_text = any(_HIDDEN_TEXT in body_bytes(sent.get("body")) for sent, _ in self.interactions)
        """Whether something was hidden in a request when it was recorded."""
        self._threads = MessageThreads()
        self._clock = Clock()
        sent = [_recorded(request, answer) for request, answer in self.interactions]
        results = self._results(sent)
        for number, one in enumerate(sent):
            if one.request is None or one.request.endpoint.api in ("batch", "batch_results"):
                self.by_address[one.address].append(number)
            elif one.request.endpoint.api == "batch_create":
                self._add_batch(number, one, results)
            else:
                self._add_one(number, one, one.request)

    def _add_one(self, number: int, sent: Sent, request: Request) -> None:
        answer = self._answer(number, request)
        whole = sent.in_full(self._threads) or sent
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
        return self._clock.timed(answer_to(request, answer), answer.get("timing"))


def _recorded(request: Mapping[str, Any], answer: Mapping[str, Any]) -> Sent:
    """A recorded request; where a filter has hidden its address, the answer tells whether it is a message."""
    sent = Sent.of(request)
    if sent.request is not None or "messages" not in (parse_body(sent.raw["body"] or b"") or {}):
        return sent
    try:
        plain = decode_body(lower(answer.get("headers")), answer_body(answer))
    except CassetteError:
        return sent
    hidden = Sent.of(request, _HIDDEN)
    if hidden.request is None:
        return sent
    message = read_answer(200, {}, plain, hidden.request).message or {}
    return hidden if message.get("type") == "message" and "content" in message else sent


def answer_to(request: Request, answer: Mapping[str, Any]) -> Answer:
    """An answer in vcr's shape, read."""
    return read_answer(status(answer), lower(answer.get("headers")), answer_body(answer), request)


def lower(headers: Mapping[str, Any] | None) -> dict[str, str]:
    """Headers by lower-case names, several values joined."""
    return {name.lower(): ", ".join(_values(values)) for name, values in (headers or {}).items()}


def _values(values: Any) -> list[str]:
    listed = values if isinstance(values, (list, tuple)) else [values]
    return [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in listed]


def body_bytes(body: Any) -> bytes:
    """A request's body as it is sent: vcr keeps bytes, text, and what aiohttp was given as `json=`."""
    if isinstance(body, (bytes, bytearray)):
        return bytes(body)
    if isinstance(body, (dict, list)):
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else b""


def status(answer: Mapping[str, Any]) -> int:
    """The HTTP status of an answer in vcr's shape, or in that of its old httpx stub; 0 where it has none."""
    code = (answer.get("status") or {}).get("code", answer.get("status_code"))
    return int(str(code)) if str(code).isdecimal() else 0


def answer_body(answer: Mapping[str, Any]) -> bytes:
    """The body of an answer in vcr's shape, or in the one of its old httpx stub."""
    if "body" not in answer:
        return body_bytes(answer.get("content"))
    body = answer["body"]
    return body_bytes(body.get("string") if isinstance(body, Mapping) else body)
