"""Turn bodies into events and messages and back: JSON, SSE, AWS event streams, compressed or not.

A recorded answer is written again in the framing that the request asks for now. A frame of an AWS event
stream is: total length, headers length, CRC32 of these eight bytes; headers; payload; CRC32 of all before it.
Numbers are big-endian. (Amazon event stream encoding, "application/vnd.amazon.eventstream".)
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any
from zlib import crc32

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.wire.exchange import Request


@dataclass(frozen=True, slots=True)
class Streamed:
    """The message that a stream of events makes, and whether the stream was complete."""

    message: dict[str, Any] | None
    """The message as the non-streaming API would have returned it, as far as it came. None before
    `message_start`."""
    error: str | None
    """The API's error type, or that the stream was cut off, which leaves its usage unknown."""
    ended: bool = True
    """Whether the server ended the stream, also by an error. Else it was cut off and might have said more."""


def assemble(events: Iterable[Mapping[str, Any]]) -> Streamed:
    """Rebuild the message of a stream.

    Counts are cumulative: of `message_start` and every `message_delta`, the last value that is not null
    counts, field by field. That covers servers that send input first and output last, all at the end, or a
    placeholder first. Without a final `message_delta` that has the output tokens, the usage is not known.
    """
    message: dict[str, Any] | None = None
    content: dict[int, _OpenBlock] = {}
    error = None
    told = False
    for event in events:
        kind = event.get("type")
        if kind == "error":
            error = str((event.get("error") or {}).get("type", "error"))
        elif kind == "message_start":
            message = {**event["message"], "usage": dict(event["message"].get("usage") or {})}
        elif kind == "content_block_start":
            content[event["index"]] = _OpenBlock(event["content_block"])
        elif kind == "content_block_delta" and event["index"] in content:
            content[event["index"]].add(event["delta"])
        elif kind == "message_delta" and message is not None:
            told = _apply(event, message) or told
    if message is not None:
        message["content"] = [block.close() for _, block in sorted(content.items())]
    cut = None if told else "the stream ended before it told its usage"
    return Streamed(message, error or cut, ended=told or error is not None)


def _apply(event: Mapping[str, Any], message: dict[str, Any]) -> bool:
    """Merge a `message_delta` into the message; return whether it had the output tokens."""
    usage = event.get("usage") or {}
    message["usage"].update((key, value) for key, value in usage.items() if value is not None)
    rest = {key: value for key, value in event.items() if key not in ("type", "delta", "usage")}
    for key, value in {**(event.get("delta") or {}), **rest}.items():
        if value is not None or key not in message:
            message[key] = value
    return usage.get("output_tokens") is not None


class _OpenBlock:
    """A content block that is still being streamed. Its pieces are joined at the end."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self._block = dict(start)
        self._pieces: dict[str, list[str]] = {}

    def add(self, delta: Mapping[str, Any]) -> None:
        match delta.get("type"):
            case "text_delta":
                self._pieces.setdefault("text", []).append(delta["text"])
            case "thinking_delta":
                self._pieces.setdefault("thinking", []).append(delta["thinking"])
            case "input_json_delta":
                self._pieces.setdefault("input", []).append(delta["partial_json"])
            case "citations_delta":
                self._block["citations"] = [*(self._block.get("citations") or ()), delta["citation"]]
            case _:  # signature_delta, compaction_delta: the delta holds the whole value
                self._block.update((key, value) for key, value in delta.items() if key != "type")

    def close(self) -> dict[str, Any]:
        """Return the whole block. If its input's JSON was cut off (at max_tokens), its first input stays."""
        for key, pieces in self._pieces.items():
            joined = "".join(pieces)
            if key != "input":
                self._block[key] = str(self._block.get(key) or "") + joined
            elif joined:
                try:
                    self._block["input"] = json.loads(joined)
                except ValueError:
                    continue
        return self._block


def disassemble(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events that a stream of this message could have had: each block in one delta of each kind.

    As from the API, `message_start` has the usage without output, and `message_delta` has the final counts.
    """
    usage = message.get("usage") or {}
    start = {**message, **{key: None for key in _FINAL if key in message}, "content": []}
    start["usage"] = {k: v for k, v in usage.items() if k not in _FINAL_USAGE or v is None}
    start["usage"]["output_tokens"] = 0
    yield {"type": "message_start", "message": start}
    for index, block in enumerate(message.get("content") or ()):
        yield from _block_events(index, block)
    delta = {key: message[key] for key in _FINAL_DELTA if key in message}
    counts = {key: usage[key] for key in _DELTA_USAGE if usage.get(key) is not None}
    beside = {key: message[key] for key in _FINAL_BESIDE if key in message}
    yield {"type": "message_delta", "delta": delta, "usage": counts, **beside}
    yield {"type": "message_stop"}


_FINAL_DELTA = ("stop_reason", "stop_sequence", "stop_details", "container")
_FINAL_BESIDE = ("context_management",)
_FINAL = (*_FINAL_DELTA, *_FINAL_BESIDE)
"""Fields that are null at the start of a stream and are sent at its end."""
_FINAL_USAGE = ("output_tokens_details", "iterations", "fallback_credit")
_DELTA_USAGE = (
    *("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"),
    *("server_tool_use", *_FINAL_USAGE),
)
"""The counts that a `message_delta` can carry (MessageDeltaUsage of the SDK, with its beta fields)."""


def _block_events(index: int, block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    start, deltas = _opened(block)
    yield {"type": "content_block_start", "index": index, "content_block": start}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _opened(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a block as it starts, and the deltas that fill it. What the API sends whole is in the start."""
    match block.get("type"):
        case "text":
            start = {**block, "text": ""}
            deltas = [{"type": "text_delta", "text": block["text"]}] if block.get("text") else []
            if block.get("citations"):
                start["citations"] = []
                deltas = [{"type": "citations_delta", "citation": one} for one in block["citations"]] + deltas
            return start, deltas
        case "thinking":
            text = (
                [{"type": "thinking_delta", "thinking": block["thinking"]}] if block.get("thinking") else []
            )
            signature = {"type": "signature_delta", "signature": block.get("signature", "")}
            return {**block, "thinking": "", "signature": ""}, [*text, signature]
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            text_of_input = json.dumps(block.get("input", {}), ensure_ascii=False)
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text_of_input}]
        case "compaction":
            filled = {key: value for key, value in block.items() if key != "type"}
            return {"type": "compaction", "content": None}, [{"type": "compaction_delta", **filled}]
        case _:
            return dict(block), []


def compact_json(value: Mapping[str, Any]) -> bytes:
    """Return JSON as the API writes it: compact, in UTF-8.

    If a text has a lone surrogate, which UTF-8 cannot hold, all characters beyond ASCII are escaped.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def looks_like_sse(body: bytes) -> bool:
    """Return whether a body begins like a stream of server-sent events, whatever its headers say."""
    return body.lstrip()[:6].startswith((b"event:", b"data:", b"id:", b":", b"retry:"))


def read_sse(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in the data of a stream's events; what is cut off or no JSON is skipped.

    Lines end in LF, CRLF or CR and nothing else (WHATWG HTML, "Parsing an event stream"). `str.splitlines` is
    not used, since it would also break at U+2028 inside a text.
    """
    data: list[str] = []
    text = body.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    for line in (*text.split("\n"), ""):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            try:
                event = json.loads("\n".join(data))
            except ValueError:
                event = None
            data = []
            if isinstance(event, dict):
                yield event


def write_sse(events: Iterable[Mapping[str, Any]]) -> bytes:
    """Return events as the Messages API sends them: named by their type, with one line of data each."""
    return b"".join(
        f"event: {event['type']}\ndata: ".encode() + compact_json(event) + b"\n\n" for event in events
    )


_PRELUDE = struct.Struct(">III")
_NUMBER = struct.Struct(">I")
_FIXED_WIDTHS = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value, by the header's type. Types 6 (bytes) and 7 (string) carry their length."""


def looks_like_event_stream(body: bytes) -> bool:
    """Return whether a body begins with a frame, by its prelude's checksum, whatever its headers say."""
    return len(body) >= _PRELUDE.size and crc32(body[:8]) == _PRELUDE.unpack_from(body)[2]


def read_event_stream(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the Messages events inside the chunks of a Bedrock stream, in order.

    An exception frame becomes an `error` event, as the API itself sends one. A stream that was cut off ends
    at its last whole frame. Raises ValueError if a checksum is wrong.
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
    """Return events as Bedrock frames them, one chunk for each."""
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
    """Return the string headers of a frame; headers of other types are skipped."""
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


_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_ZSTD = b"\x28\xb5\x2f\xfd"
_MODULES = {
    "br": ("brotli", "brotlicffi"),
    "zstd": ("zstandard", "compression.zstd", "backports.zstd", "pyzstd"),
}
"""Modules, in order of preference, for encodings that the standard library cannot undo. Each has a
`decompress` for whole bodies."""


def decode_body(headers: Mapping[str, str], body: bytes) -> bytes:
    """Undo Content-Encoding, as often as it was applied.

    It is tolerant of cassettes: a body that was decoded before it was stored, with its header left in place,
    is returned as it is; gzip without its header is undone. Raises CassetteError if a body is damaged, or if
    its compression needs a module that is not installed.
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
    """Undo `deflate`, which is zlib by its specification (RFC 9110), but raw from some servers."""
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


def parse_body(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a body; None for anything else."""
    if body.lstrip()[:1] != b"{":
        return None
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


class Framing(StrEnum):
    """How a message travels. The value is its content type."""

    JSON = "application/json"
    SSE = "text/event-stream; charset=utf-8"
    EVENT_STREAM = "application/vnd.amazon.eventstream"

    @classmethod
    def asked_by(cls, request: Request) -> Framing:
        """Return the framing that the sender of `request` can read."""
        if not request.prompt.stream:
            return cls.JSON
        on_bedrock = request.endpoint.platform == "aws" and request.endpoint.stream
        return cls.EVENT_STREAM if on_bedrock else cls.SSE


def transcode(
    headers: Mapping[str, str], body: bytes, request: Request
) -> tuple[dict[str, str | None], bytes]:
    """Return a recorded answer as `request` can read it: changes to its headers (None: remove), and its body.

    `headers` has lower-case names. An answer that fits is returned untouched, with its compression. So is
    anything that is no message: errors are JSON even for a streaming request. From one stream framing to the
    other, a stream keeps its deltas; a JSON message becomes a stream with each block in one piece. Raises
    CassetteError if a stream that was cut off would have to become one message.
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
