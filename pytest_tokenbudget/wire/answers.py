"""An answer as a message and its usage: JSON, SSE, AWS event stream; compressed or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.model import Usage
from pytest_tokenbudget.wire.billing import answered
from pytest_tokenbudget.wire.bodies import decode_body, parse_body
from pytest_tokenbudget.wire.event_stream import looks_like_event_stream, read_event_stream
from pytest_tokenbudget.wire.exchange import Answer, Request
from pytest_tokenbudget.wire.framing import Streamed, assemble
from pytest_tokenbudget.wire.sse import looks_like_sse, read_sse


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
