"""Read an answer (JSON, SSE or AWS event stream) as a message and the usage that it bills.

Usage is kept by rate: the model, and what else decides the price, as the answer says it or its request asks
for it. If what an answer bills cannot be read, its usage is None and its error says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.exchange import Answer, Request, is_refusal
from pytest_tokenbudget.wire.framing import (
    Streamed,
    assemble,
    decode_body,
    looks_like_event_stream,
    looks_like_sse,
    parse_body,
    read_event_stream,
    read_sse,
)


def read_answer(status: int, headers: Mapping[str, str], body: bytes, request: Request) -> Answer:
    """Read what came back for one request. Nothing that a server or a cassette can hold raises an error.

    `headers` has lower-case names; `body` may still be compressed. The framing is found from the bytes, since
    cassettes strip headers. The answer to a token count, to a batch's creation or to a question about a batch
    bills nothing: its usage is empty, not unknown.
    """
    date = _date(headers.get("date"))
    try:
        return replace(_read(status, headers, body, request), date=date)
    except (CassetteError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return Answer(status, error=f"the answer cannot be read: {error}", date=date)


def _read(status: int, headers: Mapping[str, str], body: bytes, request: Request) -> Answer:
    ok = 200 <= status < 300
    if request.endpoint.api == "batch_results" and ok:
        return Answer(status, usage=Usage())  # its entries are read by read_batch_results
    streamed = read_message(decode_body(headers, body))
    message = streamed.message
    if not ok or (message is not None and message.get("type") == "error"):
        return Answer(status, error=_error_type(message) or f"HTTP {status}")
    if message is None or (streamed.error and not streamed.ended):
        return Answer(status, message, error=streamed.error)
    if request.endpoint.api != "messages":
        return Answer(status, message, Usage())
    answer = answered(status, message, request.endpoint, request.prompt.model)
    return replace(answer, error=streamed.error or answer.error)


def read_message(body: bytes) -> Streamed:
    """Read a plain body (JSON or a stream) as the message that it holds. Raises CassetteError."""
    if looks_like_event_stream(body):
        return assemble(read_event_stream(body))
    if looks_like_sse(body):
        return assemble(read_sse(body))
    message = parse_body(body)
    return Streamed(message, None if message is not None else "the answer is neither JSON nor a stream")


def _error_type(message: Mapping[str, Any] | None) -> str | None:
    error = (message or {}).get("error")
    return str(error.get("type") or error.get("code")) if isinstance(error, Mapping) else None


def _date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None


_SNAPSHOT = re.compile(r"[-@]\d{8}$")
_IN_THE_SUM = "fallback_message"
_BESIDE_THE_SUM = ("compaction", "advisor_message")


def answered(
    status: int, message: Mapping[str, Any], endpoint: Endpoint, requested: str, *, batch: bool = False
) -> Answer:
    """Return the Answer that a message is, with what it bills by rate, or with why that is not known.

    The model is the answer's, since that is what is billed; without one, it is the requested model. A refusal
    before any output is one turn without tokens: it is not billed.
    """
    try:
        return Answer(status, message, _billed(message, endpoint, requested, batch))
    except ValueError as error:
        return Answer(status, message, error=str(error))


def _billed(message: Mapping[str, Any], endpoint: Endpoint, requested: str, batch: bool) -> Usage:
    usage = message.get("usage")
    counted = tokens(usage) if isinstance(usage, Mapping) else None
    if counted is None or not isinstance(usage, Mapping):
        raise ValueError("the answer reports no usage")
    entries = _entries(usage)
    words = tuple(modifiers(usage, endpoint)) + (("batch",) if batch else ())
    rate = Rate(_serving_model(message, entries) or requested, words)
    if is_refusal(message):
        counted = Tokens()
    extra = (Usage.of(*iteration, turns=0) for iteration in _iterations(entries, rate))
    return sum(extra, Usage.of(rate, counted))


def tokens(usage: Mapping[str, Any]) -> Tokens | None:
    """Return the counts of a usage object; None if input or output is missing, or a value is no count.

    What was written to the cache without a split by lifetime counts as written for five minutes, the default.
    So does what a total has above its split (a server tool's own breakpoint, told at a stream's end).
    """
    try:
        split = usage.get("cache_creation") or {}
        hour = _count(split.get("ephemeral_1h_input_tokens") or 0)
        written = usage.get("cache_creation_input_tokens")
        if written is None:
            written = hour + _count(split.get("ephemeral_5m_input_tokens") or 0)
        return Tokens(
            input_tokens=_count(usage["input_tokens"]),
            ephemeral_5m_input_tokens=max(_count(written) - hour, 0),
            ephemeral_1h_input_tokens=hour,
            cache_read_input_tokens=_count(usage.get("cache_read_input_tokens") or 0),
            output_tokens=_count(usage["output_tokens"]),
            web_search_requests=_count((usage.get("server_tool_use") or {}).get("web_search_requests") or 0),
        )
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        return None


def _count(value: Any) -> int:
    """Return a count, also one that a gateway writes as `5.0` or `"5"`. Raises an error for other values."""
    count = int(value)
    if isinstance(value, bool) or count < 0 or (isinstance(value, float) and value != count):
        raise ValueError(f"{value!r} is no count")
    return count


def _entries(usage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of `iterations`. Raises ValueError if one cannot be read: it may bill anything."""
    entries = usage.get("iterations") or []
    if not isinstance(entries, list):
        raise ValueError("usage.iterations of the answer is no list")
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("model"), str | None):
            raise ValueError(f"usage.iterations[{number}] of the answer cannot be read")
        if (kind := entry.get("type")) not in ("message", _IN_THE_SUM, *_BESIDE_THE_SUM):
            raise ValueError(f"usage.iterations[{number}] of the answer is of an unknown type, {kind!r}")
        if kind == "advisor_message" and not entry.get("model"):
            raise ValueError(f"usage.iterations[{number}] of the answer names no model")
        if kind != _IN_THE_SUM and tokens(entry) is None:
            raise ValueError(f"usage.iterations[{number}] of the answer reports no usage")
    return entries


def _serving_model(message: Mapping[str, Any], entries: list[Mapping[str, Any]]) -> str | None:
    """Return the model that the top-level counts belong to: a fallback if one served, else the answer's."""
    served = [entry for entry in entries if entry["type"] == _IN_THE_SUM]
    return (served[-1].get("model") if served else None) or message.get("model")


def _iterations(entries: list[Mapping[str, Any]], rate: Rate) -> Iterator[tuple[Rate, Tokens]]:
    """Yield (rate, tokens) that the top-level counts leave out.

    These are compactions, advisors, and other models' attempts with output. The `message` entries of the
    serving model and a `fallback_message` are in the top-level sum already. An attempt that was declined
    before any output is not billed. An advisor does not run in fast mode.
    """
    standard = tuple(word for word in rate.modifiers if word != "fast")
    for entry in entries:
        model = entry.get("model") or rate.model
        own = _SNAPSHOT.sub("", model) == _SNAPSHOT.sub("", rate.model)
        counted, kind = tokens(entry) or Tokens(), entry["type"]
        if kind == _IN_THE_SUM or (kind == "message" and (own or not counted.output_tokens)):
            continue
        words = rate.modifiers if own and kind != "advisor_message" else standard
        yield Rate(rate.model if own else model, words), counted


def modifiers(usage: Mapping[str, Any], endpoint: Endpoint) -> Iterator[str]:
    """Yield the modifiers of `Rate` that an answer's usage and endpoint show; not that it is of a batch."""
    if (tier := usage.get("service_tier")) in ("batch", "priority"):
        yield str(tier)
    if usage.get("speed") == "fast":
        yield "fast"
    if endpoint.platform in ("anthropic", "azure") and usage.get("inference_geo") == "us":
        yield "us"
    if endpoint.platform != "anthropic":
        yield endpoint.platform
        if endpoint.region not in (None, "global"):
            yield "regional"


def asked_rate(rate: Rate, was: Request, now: Request) -> Rate:
    """Return the rate that an answer to `was` would have if it had been asked as `now`.

    That is the model, speed and geography of `now`; the other modifiers stay.
    """
    before, after = set(asked_modifiers(was)), set(asked_modifiers(now))
    if was.endpoint.platform != now.endpoint.platform:  # the paths do not both tell where it runs
        before -= {"regional"}
        after -= {"regional"}
    kept = [word for word in rate.modifiers if word in after or word not in before]
    model = rate.model if was.prompt.model == now.prompt.model else now.prompt.model
    return Rate(model, (*kept, *(after - before)))


def asked_modifiers(request: Request) -> Iterator[str]:
    """Yield the modifiers of `Rate` that a request itself asks for."""
    options, where = request.prompt.options, request.endpoint
    if options.get("speed") == "fast":
        yield "fast"
    if where.platform in ("anthropic", "azure") and options.get("inference_geo") == "us":
        yield "us"
    if where.region not in (None, "global"):
        yield "regional"
