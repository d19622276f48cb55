"""A recorded answer in the framing that the request asks for now: JSON, SSE or AWS event stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.wire.bodies import decode_body, parse_body
from pytest_tokenbudget.wire.event_stream import (
    looks_like_event_stream,
    read_event_stream,
    write_event_stream,
)
from pytest_tokenbudget.wire.exchange import Request
from pytest_tokenbudget.wire.framing import assemble, compact_json, disassemble
from pytest_tokenbudget.wire.sse import looks_like_sse, read_sse, write_sse


class Framing(StrEnum):
    """How a message travels; the value is its content type."""

    JSON = "application/json"
    SSE = "text/event-stream; charset=utf-8"
    EVENT_STREAM = "application/vnd.amazon.eventstream"

    @classmethod
    def asked_by(cls, request: Request) -> Framing:
        """What the sender of `request` can read."""
        if not request.prompt.stream:
            return cls.JSON
        on_bedrock = request.endpoint.platform == "aws" and request.endpoint.stream
        return cls.EVENT_STREAM if on_bedrock else cls.SSE


def transcode(
    headers: Mapping[str, str], body: bytes, request: Request
) -> tuple[dict[str, str | None], bytes]:
    """A recorded answer as `request` can read it: changes to its headers (None: remove), and its body.

    `headers` has lower-case names. An answer that fits is returned untouched, its compression too, and so is
    anything that is no message: errors are JSON even for a streaming request. A stream keeps its deltas from
    one stream framing to the other; out of JSON, each block comes in one piece. Raises CassetteError where a
    stream that was cut off would have to become one message.
    """
    plain = decode_body(headers, body)
    asked = Framing.asked_by(request)
    framing = _framing(plain)
    message = parse_body(plain) if framing is Framing.JSON else None
    if framing is asked or (framing is Framing.JSON and (message or {}).get("type") != "message"):
        return {}, body
    changes: dict[str, str | None] = {"content-type": asked.value}
    changes |= dict.fromkeys(("content-encoding", "content-length", "transfer-encoding"))
    events = disassemble(message) if message is not None else _events(framing, plain)
    return changes, _written(asked, events)


def _framing(body: bytes) -> Framing:
    if looks_like_event_stream(body):
        return Framing.EVENT_STREAM
    return Framing.SSE if looks_like_sse(body) else Framing.JSON


def _events(framing: Framing, body: bytes) -> Iterable[dict[str, Any]]:
    return read_event_stream(body) if framing is Framing.EVENT_STREAM else read_sse(body)


def _written(framing: Framing, events: Iterable[Mapping[str, Any]]) -> bytes:
    if framing is Framing.SSE:
        return write_sse(events)
    if framing is Framing.EVENT_STREAM:
        return write_event_stream(events)
    streamed = assemble(events)
    if streamed.message is None or streamed.error:
        raise CassetteError(
            f"A recorded stream cannot answer a request that does not stream: {streamed.error}. "
            "Record the scenario anew."
        )
    return compact_json(streamed.message)
