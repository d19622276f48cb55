"""The events of a streamed answer and the message they make: one out of the other, whatever the framing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Streamed:
    """What a stream of events amounts to."""

    message: dict[str, Any] | None
    """As the non-streaming API would have returned it; as far as it came. None before `message_start`."""
    error: str | None
    """The API's error type, or that the stream was cut off: its usage is then not known."""


def assemble(events: Iterable[Mapping[str, Any]]) -> Streamed:
    """Rebuild the message of a stream.

    Counts are cumulative: of `message_start` and every `message_delta`, the last one that is not null wins,
    field by field. That covers servers that tell input first and output last, all at the end, or a
    placeholder first. Without a final `message_delta` that tells the output the usage is not known.
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
    return Streamed(message, error or (None if told else "the stream ended before it told its usage"))


def _apply(event: Mapping[str, Any], message: dict[str, Any]) -> bool:
    """Merge a `message_delta` into the message; whether it told the output tokens."""
    usage = event.get("usage") or {}
    message["usage"].update((key, value) for key, value in usage.items() if value is not None)
    rest = {key: value for key, value in event.items() if key not in ("type", "delta", "usage")}
    for key, value in {**(event.get("delta") or {}), **rest}.items():
        if value is not None or key not in message:
            message[key] = value
    return usage.get("output_tokens") is not None


class _OpenBlock:
    """A content block that is still being streamed; its pieces are joined once."""

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
        """The block; an input whose JSON was cut off (at max_tokens) keeps what its start said."""
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
    """The events that a stream of this message could have had: every block in one delta of each kind.

    `message_start` tells the whole usage but the output, `message_delta` the final counts, as the API does.
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
"""What a stream tells at its end; at its start it is null."""
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
    """A block as it starts, and the deltas that fill it; what the API sends whole stays in the start."""
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
    """JSON as the API writes it: compact, UTF-8; a lone surrogate, which UTF-8 has not, stays escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
