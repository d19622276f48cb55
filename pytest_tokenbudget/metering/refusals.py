"""Requests that the API refuses for their cache breakpoints: an error 400, and nothing is billed."""

from __future__ import annotations

from pytest_tokenbudget.wire.exchange import Pair, Request
from pytest_tokenbudget.wire.prompt import Prompt, automatic_breakpoint, markable

MAX_BREAKPOINTS = 4


def newly_refused(pair: Pair) -> str | None:
    """Why the API would not answer the request as it is asked now; None where it does.

    Whoever answered the recorded request although it breaks a rule takes such requests: a gateway that drops
    markers.
    """
    why = _refused(pair.request)
    if why is None or _refused(pair.recorded):
        return None
    return f"the API would refuse it with an error 400, so mend the request first: {why}"


def _refused(request: Request) -> str | None:
    on_invoke = request.endpoint.platform == "aws" and request.endpoint.model is not None
    if on_invoke and request.prompt.automatic_ttl:
        return "Bedrock's invoke takes no cache_control at the top level"
    return refused(request.prompt)


def refused(prompt: Prompt) -> str | None:
    """Which rule of "Prompt caching" (2026-09-26) the breakpoints of a request break; None for none."""
    marks = [(block, block.ttl) for block in prompt.blocks if block.ttl]
    for block, _ in marks:
        if not markable(block):
            return f"{block.name} cannot carry cache_control"
    ttls, automatic = [ttl for _, ttl in marks], prompt.automatic_ttl
    last = automatic_breakpoint(prompt)
    if automatic and last is not None:
        own = prompt.blocks[last].ttl
        if own not in (None, automatic):
            return f"cache_control asks for {automatic} at the top level and for {own} on the last block"
        ttls += [] if own else [automatic]
    if "unknown" in ttls:
        return "cache_control must be of type ephemeral, with a ttl of 5m or 1h"
    if len(ttls) > MAX_BREAKPOINTS:
        return f"{len(ttls)} cache breakpoints are set, and at most {MAX_BREAKPOINTS} are taken"
    if "5m" in ttls and "1h" in ttls[ttls.index("5m") :]:
        return "a cache breakpoint of 1h stands after one of 5m"
    return None
