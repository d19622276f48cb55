"""Requests and answers that are JSON, but no sensible ones: measured or told as unknown, never an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_tokenbudget.metering.counting import BuiltinCounter, Memo
from pytest_tokenbudget.metering.meter import Meter
from pytest_tokenbudget.model import Basis, Paired
from pytest_tokenbudget.wire.answers import read_answer
from pytest_tokenbudget.wire.exchange import Exchange, Pair, Request
from pytest_tokenbudget.wire.requests import read_request
from support.sample import examples

METER = Meter(Memo(BuiltinCounter()))
USAGE = {"input_tokens": 400, "output_tokens": 5, "cache_read_input_tokens": 100}


def request(body: dict[str, Any]) -> Request:
    raw = json.dumps({"model": "claude-haiku-4-5", **body}, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
    found = read_request("POST", "https://api.anthropic.com/v1/messages", {"user-agent": "x"}, raw)
    assert found is not None
    return found


def measured(was: dict[str, Any], now: dict[str, Any], content: object = "Yes.") -> None:
    """Measure `now`, paired with `was`; its numbers must agree with one another."""
    before, after = request(was), request(now)
    message = {"role": "assistant", "content": content, "stop_reason": "end_turn", "usage": USAGE}
    exchange = Exchange(before, read_answer(200, {}, json.dumps(message).encode(), before))
    how = Paired.EXACT if before.digest == after.digest else Paired.LINEAGE
    (turn,) = METER.replayed([exchange], [Pair(0, after, before, exchange.answer, how)]).turns
    told = turn.estimate
    if turn.basis == Basis.UNKNOWN:
        assert told.reason
        return
    assert told.prompt_tokens == turn.usage.tokens.prompt_tokens
    assert told.low is not None
    assert told.high is not None
    assert told.low <= told.prompt_tokens <= told.high
    assert turn.recorded is not None
    grown = told.prompt_tokens - turn.recorded.tokens.prompt_tokens
    assert sum(part.tokens for part in told.parts) == grown


@pytest.mark.parametrize(
    ("was", "now", "content"),
    [
        ({"tools": [{"name": ["f"]}]}, {"tools": [{"name": {"f": 1}}]}, "Yes."),
        ({"system": "a", "messages": []}, {"messages": []}, "Yes."),
        ({"system": "a"}, {"system": "b"}, True),
        ({"system": "a"}, {"system": "b"}, [{"type": ["text"]}]),
    ],
    ids=["names of tools", "no messages", "an answer's content", "an answer's block"],
)
def test_found_by_chance(was: dict[str, Any], now: dict[str, Any], content: object) -> None:
    measured({"messages": [], **was}, {"messages": [], **now}, content)


words = st.sampled_from(["", "Hello there", "über 日本 \U0001f600 \ud800", "x y z " * 30, "\n"])
kinds = ["text", "image", "document", "tool_use", "tool_result", "thinking", "compaction", "custom", "base64"]
keys = ["type", "text", "content", "name", "input", "source", "data", "cache_control", "citations", "id"]
odd = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | words | st.sampled_from(kinds),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(keys), inner, max_size=4),
    max_leaves=6,
)
message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]) | odd,
        "content": words | st.lists(odd, max_size=3),
    }
)
options = [
    "system",
    "tool_choice",
    "thinking",
    "output_config",
    "cache_control",
    "max_tokens",
    "speed",
    "container",
]
body = st.builds(
    lambda messages, tools, more: {"messages": messages, "tools": tools, **more},
    st.lists(message | odd, max_size=3),
    st.lists(odd, max_size=2) | odd,
    st.dictionaries(st.sampled_from(options), odd, max_size=3),
)


@settings(max_examples=examples(60))
@given(body, body, odd)
def test_nothing_that_is_json_raises(was: dict[str, Any], now: dict[str, Any], content: object) -> None:
    measured(was, now, content)
    measured(was, was, content)
