"""Tell which URL is which API, platform and model.

A request is known by its path and body, never by its host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Api = Literal["messages", "count_tokens", "batch_create", "batch_results", "batch"]
Platform = Literal["anthropic", "aws", "google", "azure"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint of the Messages API, on any platform."""

    api: Api
    platform: Platform = "anthropic"
    model: str | None = None
    """The model if the path names it (Bedrock, Vertex), unquoted; of an ARN the last part."""
    region: str | None = None
    """The region if the path or host names it. None and `global` are priced at the base rate."""
    stream: bool = False
    """Whether the path asks for a stream (Bedrock, Vertex); elsewhere the body does."""
    batch_id: str | None = None


_MESSAGES = re.compile(r"(?:^|/)v1/messages/?$")
_COUNT = re.compile(r"(?:^|/)v1/messages/count_tokens/?$")
_BATCH_CREATE = re.compile(r"(?:^|/)v1/messages/batches/?$")
# A results_url is the server's to choose: it is known by a batch's id in front of /results.
_BATCH_RESULTS = re.compile(r"(?:/batches/(?P<id>[^/]+)|/(?P<bare>msgbatch_[^/]+))(?:/[^/]+)*/results/?$")
_BATCH = re.compile(r"(?:^|/)v1/messages/batches/(?P<id>[^/]+)(?:/cancel)?/?$")
_BEDROCK = re.compile(r"(?:^|/)model/(?P<model>.+)/(?P<verb>[a-z-]+)$")
_VERTEX = re.compile(
    r"(?:^|/)locations/(?P<region>[^/]+)/publishers/anthropic/models/(?P<model>[^/:]+)"
    r":(?P<verb>rawPredict|streamRawPredict)$"
)
_BEDROCK_STREAM = {"invoke": False, "invoke-with-response-stream": True}
_ANTHROPIC_ON_BEDROCK = re.compile(r"(?:(?P<profile>[a-z]+(?:-[a-z]+)*)\.)?anthropic\.")

_HOSTS: tuple[tuple[Platform, re.Pattern[str]], ...] = (
    ("azure", re.compile(r"\.azure\.com$")),
    ("aws", re.compile(r"^bedrock-(?:mantle|runtime)(?:-fips)?\.(?P<region>[^.]+)\.")),
    ("google", re.compile(r"^claude\.googleapis\.com$")),
)
"""Platforms and regions of known hosts, for prices only. Claude Platform on AWS bills as Anthropic's API."""


def endpoint(method: str, url: str, body: Mapping[str, Any] | None = None) -> Endpoint | None:
    """Return the Messages endpoint that a request goes to; None for any other traffic.

    `body` is the parsed request, if there is one. It tells a Messages request from another service's
    `/v1/messages`, and shows Anthropic's models behind an opaque ARN. Bedrock's Converse API is not the
    Messages API: the result is None, and `unmetered_reason` names it.
    """
    path = urlsplit(url).path
    posted = method.upper() == "POST"
    if posted and (cloud := _bedrock(path, url, body) or _vertex(path, body)):
        return cloud
    found = (_posted(path, body) if posted else None) or _batch(path, posted)
    return _hosted(found, url, body) if found else None


def _posted(path: str, body: Mapping[str, Any] | None) -> Endpoint | None:
    if _COUNT.search(path):
        return Endpoint("count_tokens") if _conversation(body) else None
    if _BATCH_CREATE.search(path):
        return Endpoint("batch_create") if body is None or "requests" in body else None
    return Endpoint("messages") if _MESSAGES.search(path) and _conversation(body) else None


def _batch(path: str, posted: bool) -> Endpoint | None:
    """Return the endpoint of a request that asks about a batch, or for its results; else None."""
    if match := _BATCH_RESULTS.search(path):
        return Endpoint("batch_results", batch_id=match["id"] or match["bare"])
    if match := _BATCH.search(path):
        return Endpoint("batch", batch_id=match["id"])
    return Endpoint("batch") if _BATCH_CREATE.search(path) and not posted else None


def _conversation(body: Mapping[str, Any] | None) -> bool:
    return body is None or isinstance(body.get("messages"), list)


def _hosted(found: Endpoint, url: str, body: Mapping[str, Any] | None) -> Endpoint:
    """Return the endpoint with the platform and region that the host of its URL shows."""
    host = urlsplit(url).hostname or ""
    for platform, pattern in _HOSTS:
        if match := pattern.search(host):
            region = match.groupdict().get("region")
            if platform == "aws" and str((body or {}).get("model", "")).startswith("global."):
                region = "global"
            return replace(found, platform=platform, region=region)
    return found


def _vertex(path: str, body: Mapping[str, Any] | None) -> Endpoint | None:
    match = _VERTEX.search(unquote(path))
    if match is None or not _conversation(body):
        return None
    if match["model"] == "count-tokens":
        return Endpoint("count_tokens", "google", region=match["region"])
    stream = match["verb"] == "streamRawPredict"
    return Endpoint("messages", "google", match["model"], match["region"], stream)


def _bedrock(path: str, url: str, body: Mapping[str, Any] | None) -> Endpoint | None:
    match = _BEDROCK.search(path)
    if match is None or match["verb"] not in _BEDROCK_STREAM or not _conversation(body):
        return None
    model = unquote(match["model"])
    if not _anthropic_on_bedrock(model) and "anthropic_version" not in (body or {}):
        return None
    region = _bedrock_region(model, url)
    return Endpoint("messages", "aws", model.rsplit("/", 1)[-1], region, _BEDROCK_STREAM[match["verb"]])


def _anthropic_on_bedrock(model: str) -> bool:
    return _ANTHROPIC_ON_BEDROCK.match(model.rsplit("/", 1)[-1]) is not None


def _bedrock_region(model: str, url: str) -> str:
    """Return the region of the profile (`us`, `eu`, `global`), else that of the ARN or of the host.

    A bare model id runs in a region, so the last resort is `regional`.
    """
    profile = _ANTHROPIC_ON_BEDROCK.match(model.rsplit("/", 1)[-1])
    if profile and profile["profile"]:
        return profile["profile"]
    if model.startswith("arn:"):
        return model.split(":")[3]
    host = _HOSTS[1][1].search(urlsplit(url).hostname or "")
    return host["region"] if host else "regional"


def unmetered_reason(method: str, url: str) -> str | None:
    """Return why a request that `endpoint` does not know still spends Claude tokens that go unmetered.

    It is one sentence for a warning; None if nothing is missed. Ask only if `endpoint` returns None.
    """
    parts = urlsplit(url)
    path, host = parts.path, parts.hostname or ""
    if method.upper() != "POST":
        return None
    if (match := _BEDROCK.search(path)) and _anthropic_on_bedrock(unquote(match["model"])):
        if match["verb"].startswith("converse"):
            return "Bedrock's Converse API is not the Messages API; use invoke, or the SDK's AnthropicBedrock"
        return "this Bedrock request is no Messages request" if match["verb"] in _BEDROCK_STREAM else None
    if "anthropic" not in host and "anthropic" not in path:
        return None
    for pattern, reason in _UNMETERED:
        if pattern.search(path):
            return reason
    return None


_UNMETERED = (
    (
        re.compile(r"/v1/(?:sessions|agents)(?:/|$)"),
        "managed agents run on the server: their model calls are not seen here",
    ),
    (re.compile(r"/v1/complete/?$"), "the legacy Text Completions API reports no usage"),
    (re.compile(r"/v1/chat/completions/?$"), "the OpenAI-compatible API is not the Messages API"),
)
