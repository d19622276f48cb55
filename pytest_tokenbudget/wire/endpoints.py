"""Which URL is which API, platform and model. A turn is known by its path and body, never by its host."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Api = Literal["messages", "count_tokens", "batch_create", "batch_results", "batch"]
Platform = Literal["anthropic", "aws", "google", "azure"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint of the Messages API, on any platform."""

    api: Api
    platform: Platform = "anthropic"
    model: str | None = None
    """Where the path names it (Bedrock, Vertex)."""
    region: str | None = None
    """Where the path or host names it; None or `global` is priced as the base rate."""
    stream: bool = False
    """Where the path says so (Bedrock, Vertex); else the body does."""
    batch_id: str | None = None


_MESSAGES = re.compile(r"(?:^|/)v1/messages$")
_COUNT = re.compile(r"(?:^|/)v1/messages/count_tokens$")
_BATCH_CREATE = re.compile(r"(?:^|/)v1/messages/batches$")
_BATCH_RESULTS = re.compile(r"(?:^|/)v1/messages/batches/(?P<id>[^/]+)/results$")
_BATCH = re.compile(r"(?:^|/)v1/messages/batches/(?P<id>[^/]+)(?:/cancel)?$")
_BEDROCK = re.compile(r"(?:^|/)model/(?P<model>[^/]+)/invoke(?P<stream>-with-response-stream)?$")
_VERTEX = re.compile(
    r"(?:^|/)locations/(?P<region>[^/]+)/publishers/anthropic/models/(?P<model>[^/:]+):(?P<verb>\w+)$"
)


def endpoint(method: str, url: str, body: Mapping[str, Any] | None = None) -> Endpoint | None:
    """Which Messages endpoint a request goes to; None for any other traffic."""
    raise NotImplementedError
