"""Which path is which call: Anthropic's own, Bedrock's and Vertex's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Call = Literal["message", "count", "create_batch", "poll_batch", "batch_results", "charges"]


@dataclass(frozen=True)
class Route:
    """A call, and what its path says of it."""

    call: Call
    model: str | None = None
    """Where the path names it (Bedrock, Vertex)."""
    stream: bool | None = None
    """Where the path tells it; else the body does."""
    event_stream: bool = False
    """AWS event stream instead of server-sent events."""
    batch: str = ""


_PLAIN: dict[tuple[str, str], Call] = {
    ("POST", "/v1/messages"): "message",
    ("POST", "/v1/messages/count_tokens"): "count",
    ("POST", "/v1/messages/batches"): "create_batch",
    ("GET", "/_charges"): "charges",
}
_PREFIX = re.compile(r"^/.+?(?=/v1/messages(?:/|$))")
"""Of a gateway, or of a cloud that serves Anthropic's own paths."""
_BATCH = re.compile(r"GET /v1/messages/batches/(?P<id>[^/]+)(?P<results>/results)?")
_BEDROCK = re.compile(r"POST /model/(?P<model>[^/]+)/invoke(?P<stream>-with-response-stream)?")
_VERTEX = re.compile(
    r"POST (?:/v1)?/projects/.+/publishers/anthropic/models/"
    r"(?P<model>[^/:]+):(?:rawPredict|(?P<stream>streamRawPredict))"
)


def route(method: str, path: str) -> Route | None:
    """The call of a path without its query; None where there is none."""
    path = _PREFIX.sub("", path)
    if call := _PLAIN.get((method, path)):
        return Route(call)
    line = f"{method} {path}"
    if match := _BATCH.fullmatch(line):
        return Route("batch_results" if match["results"] else "poll_batch", batch=match["id"])
    if match := _BEDROCK.fullmatch(line):
        return Route("message", match["model"], bool(match["stream"]), event_stream=True)
    if match := _VERTEX.fullmatch(line):
        if match["model"] == "count-tokens":
            return Route("count")
        return Route("message", match["model"], bool(match["stream"]))
    return None
