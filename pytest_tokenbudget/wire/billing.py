"""What one message bills: its usage object, by rate; or why that is not known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.exchange import Answer, is_refusal
from pytest_tokenbudget.wire.rates import modifiers

_SNAPSHOT = re.compile(r"[-@]\d{8}$")
_IN_THE_SUM = "fallback_message"
_BESIDE_THE_SUM = ("compaction", "advisor_message")


def answered(
    status: int, message: Mapping[str, Any], endpoint: Endpoint, requested: str, *, batch: bool = False
) -> Answer:
    """The answer that a message is: with what it bills, by rate, or with why that is not known.

    The model is the answer's, since that is what is billed; else the requested one. A refusal before any
    output is one turn without tokens: it is not billed.
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
    """The counts of a usage object; None where input or output is missing, or where one is no count.

    What was written to the cache without a split by lifetime was written for five minutes, the default; a
    total above its split (a server tool's own breakpoint, told at the end of a stream) likewise.
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
    """A count, also one that a gateway writes as `5.0` or `"5"`; raises where it is none."""
    count = int(value)
    if isinstance(value, bool) or count < 0 or (isinstance(value, float) and value != count):
        raise ValueError(f"{value!r} is no count")
    return count


def _entries(usage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of `iterations`; raises ValueError where one cannot be read, for it may bill anything."""
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
    """The model that the top-level counts belong to: a fallback's, where one served."""
    served = [entry for entry in entries if entry["type"] == _IN_THE_SUM]
    return (served[-1].get("model") if served else None) or message.get("model")


def _iterations(entries: list[Mapping[str, Any]], rate: Rate) -> Iterator[tuple[Rate, Tokens]]:
    """What the top-level counts leave out: compactions, advisors, and other models' attempts with output.

    The `message` entries of the serving model and a `fallback_message` are in the top-level sum already; an
    attempt that was declined before any output is not billed. An advisor does not run in fast mode.
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
