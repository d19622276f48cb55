"""Bound what a real call costs before it is made: the least that it counts, and the most that it may bill."""

from __future__ import annotations

from pytest_tokenbudget.metering.cache_rules import hidden_sizes, server_tools
from pytest_tokenbudget.metering.rendering import block_weights
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.wire.answers import asked_modifiers
from pytest_tokenbudget.wire.exchange import Request
from pytest_tokenbudget.wire.prompt import Prompt, as_mapping, mappings

_MARGIN = 1.5
"""By what factor a prompt may differ from its cheap count: more than any error in docs/accuracy.md."""
_API_TOOL = 1_500
"""Tokens that a tool of the API's own may add beside what the request shows, more than any documented one:
computer use adds 735 and a system prompt of 499 ("Tool use", pricing)."""


def unbounded(prompt: Prompt) -> str | None:
    """Return why nobody can say before a call what it costs at most, or None where that can be said.

    Server tools, MCP and advisors bill rounds inside one answer, a compaction its own summary, a fallback
    another model; a PDF, a file and an image by URL have no known size.
    """
    if reason := server_tools(prompt) or next(iter(hidden_sizes(prompt).values()), None):
        return reason
    edits = as_mapping(prompt.options.get("context_management")).get("edits")
    if any(str(edit.get("type", "")).startswith("compact") for edit in mappings(edits)):
        return "context_management: a compaction bills a summary beside the answer"
    for option in ("fallbacks", "fallback"):
        if prompt.options.get(option):
            return f"{option}: another model may answer, and bill, as well"
    return None


def most(request: Request) -> Usage:
    """Return the usage that one request bills at most: its prompt written to the cache for an hour, and an
    answer of `max_tokens`. It is a bound only where `unbounded` says None.
    """
    prompt = request.prompt
    tools = sum(block.content.get("type", "custom") != "custom" for block in prompt.level("tools"))
    counted = _MARGIN * sum(block_weights(prompt)) + _API_TOOL * tools
    tokens = Tokens(ephemeral_1h_input_tokens=int(counted) + 1, output_tokens=prompt.max_tokens or 0)
    batch = () if request.custom_id is None else ("batch",)
    return Usage.of(Rate(prompt.model, (*asked_modifiers(request), *batch)), tokens)


def least(request: Request) -> Usage:
    """Return the usage that one request cannot stay below once it is answered: its prompt read from the
    cache, and one token of output. What cannot be counted counts 0.
    """
    prompt = request.prompt
    counted = sum(block_weights(prompt, unknown_rate=0.0)) / _MARGIN
    tokens = Tokens(cache_read_input_tokens=int(counted), output_tokens=0 if prompt.max_tokens == 0 else 1)
    return Usage.of(Rate(prompt.model, tuple(asked_modifiers(request))), tokens)
