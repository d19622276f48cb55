"""Server-sent events, the framing of a streamed answer: bytes to events and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pytest_tokenbudget.wire.framing import compact_json


def looks_like_sse(body: bytes) -> bool:
    """Whether a body begins as an event stream does, whatever its headers say."""
    return body.lstrip()[:6].startswith((b"event:", b"data:", b"id:", b":", b"retry:"))


def read_sse(body: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects in the data of a stream's events, in order; what is cut off or no JSON is skipped.

    Lines end in LF, CRLF or CR and nothing else (WHATWG HTML, "Parsing an event stream"), so not by
    `str.splitlines`, which would break at U+2028 inside a text.
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
    """Events as the Messages API sends them: named by their type, one line of data each."""
    return b"".join(
        f"event: {event['type']}\ndata: ".encode() + compact_json(event) + b"\n\n" for event in events
    )
