"""AWS event stream, the binary framing of Bedrock's streamed answers: bytes to events and back.

A frame is: total length, headers length, CRC32 of these eight bytes; headers; payload; CRC32 of all before
it. Numbers are big-endian. (Amazon event stream encoding, "application/vnd.amazon.eventstream".)
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from zlib import crc32

from pytest_tokenbudget.wire.framing import compact_json

_PRELUDE = struct.Struct(">III")
_NUMBER = struct.Struct(">I")
_FIXED_WIDTHS = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type; 6 (bytes) and 7 (string) carry their length."""


def looks_like_event_stream(body: bytes) -> bool:
    """Whether a body begins with a frame: its prelude's own checksum tells, whatever the headers say."""
    return len(body) >= _PRELUDE.size and crc32(body[:8]) == _PRELUDE.unpack_from(body)[2]


def read_event_stream(body: bytes) -> Iterator[dict[str, Any]]:
    """The Messages events inside the chunks of a Bedrock stream, in order.

    An exception frame becomes an `error` event, as the API itself sends one. A stream that was cut off ends
    at its last whole frame. Raises ValueError where a checksum is wrong.
    """
    for headers, payload in _frames(body):
        if headers.get(":message-type", "event") != "event":
            kind = headers.get(":exception-type") or headers.get(":error-code") or "error"
            yield {"type": "error", "error": {"type": kind, "message": payload.decode("utf-8", "replace")}}
        elif headers.get(":event-type") == "chunk":
            event = json.loads(base64.b64decode(json.loads(payload)["bytes"]))
            if isinstance(event, dict):
                yield event


def write_event_stream(events: Iterable[Mapping[str, Any]]) -> bytes:
    """Events as Bedrock frames them, one chunk each."""
    return b"".join(
        _frame(
            {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"},
            compact_json({"bytes": base64.b64encode(compact_json(event)).decode()}),
        )
        for event in events
    )


def _frames(body: bytes) -> Iterator[tuple[dict[str, str], bytes]]:
    start = 0
    while start + _PRELUDE.size <= len(body):
        length, headers_length, checksum = _PRELUDE.unpack_from(body, start)
        if crc32(body[start : start + 8]) != checksum:
            raise ValueError(f"the event stream's frame at byte {start} has a wrong prelude checksum")
        end = start + length
        if end > len(body):
            return
        if crc32(body[start : end - 4]) != _NUMBER.unpack_from(body, end - 4)[0]:
            raise ValueError(f"the event stream's frame at byte {start} has a wrong checksum")
        payload = start + _PRELUDE.size + headers_length
        yield _read_headers(body[start + _PRELUDE.size : payload]), body[payload : end - 4]
        start = end


def _read_headers(data: bytes) -> dict[str, str]:
    """The string headers of a frame; those of other types are stepped over."""
    headers: dict[str, str] = {}
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        name, kind = data[at + 1 : name_end].decode(), data[name_end]
        at = name_end + 1
        if kind in _FIXED_WIDTHS:
            at += _FIXED_WIDTHS[kind]
            continue
        width = int.from_bytes(data[at : at + 2], "big")
        if kind == 7:
            headers[name] = data[at + 2 : at + 2 + width].decode()
        at += 2 + width
    return headers


def _frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    packed = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + len(value).to_bytes(2, "big") + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", _PRELUDE.size + len(packed) + len(payload) + 4, len(packed))
    frame = prelude + _NUMBER.pack(crc32(prelude)) + packed + payload
    return frame + _NUMBER.pack(crc32(frame))
