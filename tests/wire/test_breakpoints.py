"""Where the breakpoints of a request stand, and for how long: one reading for all who ask."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from pytest_tokenbudget.metering.prompt_cache import chain
from pytest_tokenbudget.wire.prompt import (
    LEVELS,
    Prompt,
    Ttl,
    body_of,
    breakpoints,
    last_breakpoint,
    parse_prompt,
)

MARK: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
HOUR: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
ODD: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "2h"}}
NULL: dict[str, Any] = {"cache_control": None}
THOUGHT: dict[str, Any] = {"type": "thinking", "thinking": "hm", "signature": "s"}


def words(text: str, mark: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    return {"type": "text", "text": text, **mark}


def answered(*parts: Any, **mark: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": list(parts), **mark}


def said(*content: Any, model: str = "claude-opus-4-8", **body: Any) -> Prompt:
    messages = [{"role": "user", "content": [words("a")]}, {"role": "user", "content": list(content)}]
    return parse_prompt({"model": model, "messages": messages, **body})


BREAKPOINTS: Mapping[str, tuple[Prompt, dict[int, Ttl]]] = {
    "none": (said(words("b")), {}),
    "automatic": (said(words("b"), **MARK), {1: "5m"}),
    "automatic, the last block is thinking": (said(words("b"), THOUGHT, **HOUR), {1: "1h"}),
    "automatic, the last block is redacted thinking": (
        said(words("b"), {"type": "redacted_thinking", "data": "x"}, **MARK),
        {1: "5m"},
    ),
    "automatic, the last block is empty text": (said(words("b"), words(""), **MARK), {1: "5m"}),
    "automatic, nothing can be marked": (
        parse_prompt({"messages": [{"role": "user", "content": ""}], **MARK}),
        {},
    ),
    "automatic, on an explicit one": (said(words("b", MARK), **HOUR), {1: "5m"}),
    "automatic, after an explicit one": (said(words("b", HOUR), words("c"), **MARK), {1: "1h", 2: "5m"}),
    "inside a tool result": (said(answered(words("b"), words("c", HOUR))), {1: "1h"}),
    "null inside a tool result": (said(answered(words("b", NULL))), {}),
    "null inside a tool result, and on it": (said(answered(words("b", NULL), **HOUR)), {1: "1h"}),
    "an unknown lifetime inside a tool result": (said(answered(words("b", ODD))), {1: "unknown"}),
    "no form of a marker inside a tool result": (
        said(answered(words("b", {"cache_control": 1}))),
        {1: "unknown"},
    ),
    "inside a tool result and on it": (said(answered(words("b", HOUR), **MARK)), {1: "5m"}),
    "on a tool result and, for longer, inside it": (said(answered(words("b", MARK), **HOUR)), {1: "1h"}),
    "an unknown one inside a tool result, and on it": (
        said(answered(words("b", ODD), **MARK)),
        {1: "unknown"},
    ),
    "several inside a tool result": (said(answered(words("b", HOUR), words("c", MARK))), {1: "5m"}),
    "a tool result that is a string": (said({**answered(), "content": "b", **MARK}), {1: "5m"}),
}


@pytest.mark.parametrize("name", BREAKPOINTS)
def test_breakpoints(name: str) -> None:
    """Of `cache_control` in "Prompt caching" (2026-09-26): where it stands, and for how long."""
    prompt, expected = BREAKPOINTS[name]
    assert dict(breakpoints(prompt)) == expected
    assert last_breakpoint(prompt) == max(expected, default=-1)


@pytest.mark.parametrize("name", BREAKPOINTS)
def test_the_cache_and_the_diagnosis_see_the_same_breakpoints(name: str) -> None:
    prompt, expected = BREAKPOINTS[name]
    laid_out = chain(prompt)
    assert {laid_out.links[p].index: ttl for p, ttl in laid_out.breakpoints.items()} == expected


@pytest.mark.parametrize("name", BREAKPOINTS)
def test_a_body_that_is_written_again_has_the_same_breakpoints(name: str) -> None:
    prompt, expected = BREAKPOINTS[name]
    again = parse_prompt(body_of(prompt, marked=True))
    assert dict(breakpoints(again)) == expected
    assert again.blocks == prompt.blocks
    assert not breakpoints(parse_prompt(body_of(prompt)))


def test_a_marker_inside_a_tool_result_is_no_part_of_the_block() -> None:
    bare, marked = (said(answered(words("b", mark))).blocks[-1] for mark in ({}, HOUR))
    assert (marked.content, marked.digest) == (bare.content, bare.digest)


def test_what_else_a_tool_result_holds_is_kept() -> None:
    """Odd parts are no form that the API takes, but two results that differ in one are two results."""
    one, other = (said(answered("odd", words(text), 1, **MARK)) for text in ("b", "c"))
    assert one.blocks[-1].content["content"] == ["odd", words("b"), 1]
    keys = {chain(said(answered(odd, words("b")))).links[-1].key for odd in ("odd", "even", 1)}
    assert len(keys) == 3
    assert one.blocks[-1] != other.blocks[-1]


def test_levels_come_in_the_order_of_the_prompt() -> None:
    body = {"tools": [{"name": "f"}], "system": "s", "messages": [{"role": "user", "content": "m"}]}
    assert tuple(block.level for block in parse_prompt(body).blocks) == LEVELS
