"""An answer as a message and its usage: JSON, SSE, AWS event stream; compressed or not."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.event_stream import looks_like_event_stream, read_event_stream
from pytest_tokenbudget.wire.events import Streamed, assemble
from pytest_tokenbudget.wire.exchange import Answer, Request, is_refusal
from pytest_tokenbudget.wire.rates import modifiers
from pytest_tokenbudget.wire.request import parse_body
from pytest_tokenbudget.wire.sse import looks_like_sse, read_sse

_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_ZSTD = b"\x28\xb5\x2f\xfd"
_MODULES = {
    "br": ("brotli", "brotlicffi"),
    "zstd": ("zstandard", "compression.zstd", "backports.zstd", "pyzstd"),
}
"""Who can undo what the standard library cannot; each has a `decompress` for whole bodies."""


def read_answer(status: int, headers: Mapping[str, str], body: bytes, request: Request) -> Answer:
    """What came back for one request; nothing that a server or a cassette can hold raises.

    `headers` has lower-case names; `body` may still be compressed. The framing is told by the bytes, since
    cassettes strip headers. The answer to a count, to a batch's creation or to a question about it bills
    nothing: its usage is empty, not unknown.
    """
    date = _date(headers.get("date"))
    try:
        return replace(_read(status, headers, body, request), date=date)
    except (CassetteError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return Answer(status, error=f"the answer cannot be read: {error}", date=date)


def _read(status: int, headers: Mapping[str, str], body: bytes, request: Request) -> Answer:
    ok = 200 <= status < 300
    if request.endpoint.api == "batch_results" and ok:
        return Answer(status, usage=Usage())  # its entries: wire/batches.py
    streamed = _read_message(decode_body(headers, body))
    message = streamed.message
    if not ok or (message is not None and message.get("type") == "error"):
        return Answer(status, error=_error_type(message) or f"HTTP {status}")
    if message is None or streamed.error:
        return Answer(status, message, error=streamed.error)
    if request.endpoint.api != "messages":
        return Answer(status, message, Usage())
    usage = billed(message, request.endpoint, request.prompt.model)
    return Answer(status, message, usage, None if usage else "the answer reports no usage")


def _read_message(body: bytes) -> Streamed:
    if looks_like_event_stream(body):
        return assemble(read_event_stream(body))
    if looks_like_sse(body):
        return assemble(read_sse(body))
    message = parse_body(body)
    return Streamed(message, None if message is not None else "the answer is neither JSON nor a stream")


def _error_type(message: Mapping[str, Any] | None) -> str | None:
    error = (message or {}).get("error")
    return str(error.get("type") or error.get("code")) if isinstance(error, Mapping) else None


def _date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None


def decode_body(headers: Mapping[str, str], body: bytes) -> bytes:
    """Undo Content-Encoding, as often as it was applied.

    Tolerant of cassettes: a body that was decoded before it was stored, its header left in place, is
    returned as it is; gzip without its header is undone. Raises CassetteError where a body is damaged, or
    where its compression needs a module that is not installed.
    """
    encodings = headers.get("content-encoding", "").lower().split(",")
    for encoding in (*reversed(encodings), "gzip"):
        body = _decoded(encoding.strip(), body)
    return body


def _decoded(encoding: str, body: bytes) -> bytes:
    if body.lstrip()[:1] in (b"{", b"") or looks_like_sse(body):
        return body
    try:
        if encoding in ("gzip", "x-gzip") and body.startswith(_GZIP):
            return zlib.decompress(body, _GZIP_WINDOW)
        if encoding == "deflate":
            return _inflate(body)
    except zlib.error as error:
        raise CassetteError(
            f"A recorded answer is damaged: its {encoding} cannot be undone ({error})."
        ) from None
    if encoding == "br" or (encoding == "zstd" and body.startswith(_ZSTD)):
        return _foreign(encoding, body)
    return body


def _inflate(body: bytes) -> bytes:
    """`deflate` is zlib by its specification (RFC 9110), raw by some servers."""
    try:
        return zlib.decompress(body)
    except zlib.error:
        return zlib.decompress(body, -zlib.MAX_WBITS)


def _foreign(encoding: str, body: bytes) -> bytes:
    for name in _MODULES[encoding]:
        try:
            module = import_module(name)
        except ImportError:
            continue
        try:
            decompressed: bytes = module.decompress(body)
        except Exception as error:  # each of them has its own
            raise CassetteError(
                f"A recorded answer is damaged: {encoding} cannot be undone ({error})."
            ) from None
        return decompressed
    raise CassetteError(
        f"A recorded answer is compressed with {encoding}, and no module that undoes it is installed. "
        f"Install {_MODULES[encoding][0]}, or record with decode_compressed_response=True."
    )


def billed(
    message: Mapping[str, Any], endpoint: Endpoint, requested: str, *, batch: bool = False
) -> Usage | None:
    """What one message bills, by rate; None where it does not say.

    The model is the answer's, since that is what is billed; else the requested one. A refusal before any
    output is one turn without tokens: it is not billed.
    """
    usage = message.get("usage")
    counted = tokens(usage) if isinstance(usage, Mapping) else None
    if counted is None or not isinstance(usage, Mapping):
        return None
    words = tuple(modifiers(usage, endpoint)) + (("batch",) if batch else ())
    rate = Rate(_serving_model(message, usage) or requested, words)
    if is_refusal(message):
        counted = Tokens()
    extra = (Usage.of(*iteration, turns=0) for iteration in _iterations(usage, rate))
    return sum(extra, Usage.of(rate, counted))


def tokens(usage: Mapping[str, Any]) -> Tokens | None:
    """The counts of a usage object; None where input or output is missing, or where one is no count.

    What was written to the cache without a split by lifetime was written for five minutes, the default; a
    total above its split (a server tool's own breakpoint, told at the end of a stream) likewise.
    """
    try:
        split = usage.get("cache_creation") or {}
        hour = _count(split.get("ephemeral_1h_input_tokens") or 0)
        written = usage.get("cache_creation_input_tokens")
        if written is None:
            written = hour + _count(split.get("ephemeral_5m_input_tokens") or 0)
        return Tokens(
            input_tokens=_count(usage["input_tokens"]),
            ephemeral_5m_input_tokens=max(_count(written) - hour, 0),
            ephemeral_1h_input_tokens=hour,
            cache_read_input_tokens=_count(usage.get("cache_read_input_tokens") or 0),
            output_tokens=_count(usage["output_tokens"]),
            web_search_requests=_count((usage.get("server_tool_use") or {}).get("web_search_requests") or 0),
        )
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _count(value: Any) -> int:
    """A count, also one that a gateway writes as `5.0` or `"5"`; raises where it is none."""
    count = int(value)
    if isinstance(value, bool) or count < 0 or (isinstance(value, float) and value != count):
        raise ValueError(f"{value!r} is no count")
    return count


def _serving_model(message: Mapping[str, Any], usage: Mapping[str, Any]) -> str | None:
    """The model that the top-level counts belong to: a fallback's, where one served."""
    served = [entry for entry in _entries(usage) if entry.get("type") == "fallback_message"]
    return (served[-1].get("model") if served else None) or message.get("model")


def _entries(usage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    entries = usage.get("iterations")
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []


_SNAPSHOT = re.compile(r"[-@]\d{8}$")


def _iterations(usage: Mapping[str, Any], rate: Rate) -> Iterator[tuple[Rate, Tokens]]:
    """What the top-level counts leave out: compactions, advisors, and other models' attempts with output.

    The `message` entries of the serving model and a `fallback_message` are in the top-level sum already; an
    attempt that was declined before any output is not billed. An advisor does not run in fast mode.
    """
    standard = tuple(word for word in rate.modifiers if word != "fast")
    for entry in _entries(usage):
        model = entry.get("model") or rate.model
        own = _SNAPSHOT.sub("", model) == _SNAPSHOT.sub("", rate.model)
        counted = tokens(entry)
        kind = entry.get("type")
        if counted is None or kind == "fallback_message" or (kind == "message" and own):
            continue
        if kind == "message" and not counted.output_tokens:
            continue
        yield Rate(rate.model if own else model, rate.modifiers if own else standard), counted
