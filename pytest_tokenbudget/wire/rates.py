"""What decides the rate of an answer beside its model: what it says itself, and what its request asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_tokenbudget.model import Rate
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.exchange import Request


def modifiers(usage: Mapping[str, Any], endpoint: Endpoint) -> Iterator[str]:
    """What an answer to an endpoint says of its rate, as in `Rate.modifiers`; not that it is of a batch."""
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
    """The rate of an answer to `was`, had it been asked as `now`: that one's model, speed and geography."""
    before, after = set(_asked_modifiers(was)), set(_asked_modifiers(now))
    if was.endpoint.platform != now.endpoint.platform:  # reached by another way: where it runs is not told
        before -= {"regional"}
        after -= {"regional"}
    kept = [word for word in rate.modifiers if word in after or word not in before]
    model = rate.model if was.prompt.model == now.prompt.model else now.prompt.model
    return Rate(model, (*kept, *(after - before)))


def _asked_modifiers(request: Request) -> Iterator[str]:
    options, where = request.prompt.options, request.endpoint
    if options.get("speed") == "fast":
        yield "fast"
    if where.platform in ("anthropic", "azure") and options.get("inference_geo") == "us":
        yield "us"
    if where.region not in (None, "global"):
        yield "regional"
