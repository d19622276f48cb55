"""HTTP requests in vcr's shape, read: what each asks, and whom."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pytest_tokenbudget.replay.message_threads import MessageThreads
from pytest_tokenbudget.wire.batches import read_batch_requests
from pytest_tokenbudget.wire.endpoints import endpoint, unmetered_reason
from pytest_tokenbudget.wire.exchange import Request
from pytest_tokenbudget.wire.prompt import Prompt
from pytest_tokenbudget.wire.requests import TELLING_HEADERS, read_request

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
    def is_of_an_sdk(self) -> bool:
        """Whether it is for the API, or for a gateway in its place, whatever it asks."""
        return "anthropic-version" in lower(self.raw.get("headers"))

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


class Reader:
    """Reads HTTP requests. What says the same to the byte is read once: in replay most was recorded so, and
    a conversation is sent again on every turn."""

    def __init__(self) -> None:
        self._read: dict[bytes, tuple[Request, tuple[Request, ...]]] = {}

    def read(self, raw: Mapping[str, Any], url: str | None = None) -> Sent:
        """A request in vcr's shape; `url` where its own is not to be trusted."""
        url, headers, body = url or str(raw["uri"]), lower(raw.get("headers")), body_bytes(raw.get("body"))
        telling = [headers.get(name) for name in TELLING_HEADERS]
        said = hashlib.blake2b(repr((str(raw["method"]), url, telling)).encode("utf-8", "surrogatepass"))
        said.update(body)
        known = self._read.get(key := said.digest())
        if known is None and (request := read_request(str(raw["method"]), url, headers, body)):
            known = self._read[key] = request, read_batch_requests(request, headers, body)
        return Sent({**raw, "body": body or None}, url, *(known or (None,)))


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
