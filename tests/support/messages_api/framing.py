"""A message as the frames of a stream: server-sent events, or AWS event stream for Bedrock."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

Event = Mapping[str, Any]

_PIECE = 24
"""Characters of a delta."""


def events(message: Mapping[str, Any]) -> Iterator[Event]:
    """The events of a streamed message; `message_start` has a placeholder for the output tokens."""
    usage = message["usage"]
    start = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": start}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        yield from _block_events(index, block)
    kept = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {name: usage[name] for name in kept}}
    yield {"type": "message_stop"}


def _block_events(index: int, block: Mapping[str, Any]) -> Iterator[Event]:
    if block["type"] == "tool_use":
        empty, whole = {**block, "input": {}}, json.dumps(block["input"])
        kind, key = "input_json_delta", "partial_json"
    else:
        empty, whole = {**block, "text": ""}, block["text"]
        kind, key = "text_delta", "text"
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    for at in range(0, len(whole), _PIECE):
        delta = {"type": kind, key: whole[at : at + _PIECE]}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def sse_frame(event: Event) -> bytes:
    """One server-sent event."""
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def aws_frame(event: Event) -> bytes:
    """One message of an AWS event stream: lengths, headers, payload and two checksums."""
    headers = b"".join(
        _aws_header(name, value)
        for name, value in (
            (":event-type", "chunk"),
            (":content-type", "application/json"),
            (":message-type", "event"),
        )
    )
    payload = json.dumps({"bytes": base64.b64encode(json.dumps(event).encode()).decode()}).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    frame = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return frame + struct.pack(">I", zlib.crc32(frame))


def _aws_header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack(">B", len(key)) + key + b"\x07" + struct.pack(">H", len(text)) + text
