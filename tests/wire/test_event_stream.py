"""The AWS event stream, beside Amazon's own implementation of it."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any
from zlib import crc32

import pytest

from pytest_tokenbudget.wire.framing import (
    looks_like_event_stream,
    read_event_stream,
    write_event_stream,
    write_sse,
)

EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 3}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Grüezi \u2028"}},
    {"type": "message_stop"},
]


def frame(headers: bytes, payload: bytes) -> bytes:
    """A frame by hand, to hold the writer against."""
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    data = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return data + struct.pack(">I", crc32(data))


def header(name: str, value: str) -> bytes:
    return bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()


def test_it_reads_what_it_wrote() -> None:
    body = write_event_stream(EVENTS)
    assert looks_like_event_stream(body)
    assert list(read_event_stream(body)) == EVENTS


def test_amazons_own_parser_reads_it() -> None:
    eventstream = pytest.importorskip("botocore.eventstream")
    buffer = eventstream.EventStreamBuffer()
    buffer.add_data(write_event_stream(EVENTS))
    read = [message.to_response_dict() for message in buffer]
    assert {message["headers"][":event-type"] for message in read} == {"chunk"}
    chunks = [json.loads(message["body"])["bytes"] for message in read]
    assert [json.loads(base64.b64decode(chunk)) for chunk in chunks] == EVENTS


def test_headers_of_any_type_are_stepped_over() -> None:
    chunk = json.dumps({"bytes": base64.b64encode(b'{"type": "ping"}').decode(), "p": "abc"}).encode()
    values = (b"\x00", b"\x02\x07", b"\x03\x01\x02", b"\x04" + bytes(4), b"\x05" + bytes(8))
    values += (b"\x06\x00\x02ab", b"\x08" + bytes(8), b"\x09" + bytes(16), b"\x01")
    others = b"".join(b"\x01x" + value for value in values)
    body = frame(others + header(":event-type", "chunk") + header(":message-type", "event"), chunk)
    assert list(read_event_stream(body)) == [{"type": "ping"}]


def test_an_exception_frame_is_an_error_event() -> None:
    headers = header(":message-type", "exception") + header(":exception-type", "throttlingException")
    body = write_event_stream(EVENTS[:1]) + frame(headers, b'{"message":"Too many"}')
    kinds = [event["type"] for event in read_event_stream(body)]
    assert kinds == ["message_start", "error"]
    assert list(read_event_stream(body))[1]["error"]["type"] == "throttlingException"


def test_other_events_are_not_messages() -> None:
    headers = header(":message-type", "event") + header(":event-type", "initial-response")
    assert list(read_event_stream(frame(headers, b"{}"))) == []


def test_a_stream_cut_off_ends_at_its_last_whole_frame() -> None:
    body = write_event_stream(EVENTS)
    ends = [len(write_event_stream(EVENTS[:n])) for n in range(len(EVENTS) + 1)]
    for size in range(len(body)):
        assert list(read_event_stream(body[:size])) == EVENTS[: sum(end <= size for end in ends[1:])]


@pytest.mark.parametrize("at", [0, 9, 30, -1])
def test_a_wrong_checksum_is_an_error(at: int) -> None:
    body = bytearray(write_event_stream(EVENTS[:1]))
    body[at] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        list(read_event_stream(bytes(body)))


@pytest.mark.parametrize("body", [b"", b"{}", b'{"type": "message"}', write_sse(EVENTS)])
def test_nothing_else_is_taken_for_it(body: bytes) -> None:
    assert not looks_like_event_stream(body)
