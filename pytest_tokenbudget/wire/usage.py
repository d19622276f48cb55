"""An answer as a message and its usage: JSON, SSE, AWS event stream; compressed or not."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.model import Usage
from pytest_tokenbudget.wire.billing import answered
from pytest_tokenbudget.wire.event_stream import looks_like_event_stream, read_event_stream
from pytest_tokenbudget.wire.events import Streamed, assemble
from pytest_tokenbudget.wire.exchange import Answer, Request
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
    return answered(status, message, request.endpoint, request.prompt.model)


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
