"""Breakpoints that the API refuses: the recording holds no answer to such a request."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_tokenbudget.metering.prompt_cache import newly_refused, refused
from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.exchange import Answer, Pair, Request
from pytest_tokenbudget.wire.prompt import Prompt, parse_prompt
from support.blocks import body, text
from support.messages_api.models import Model, find_model
from support.messages_api.prompt import InvalidRequestError, render

MARK: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
HOUR: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def marked(control: object) -> dict[str, Any]:
    return {"cache_control": control}


def haiku() -> Model:
    found = find_model("claude-haiku-4-5")
    assert found is not None
    return found


TAKEN = {
    "nothing marked": body(),
    "four": body(*[text(mark=MARK)] * 4),
    "three and automatic": body(*[text(mark=MARK)] * 3, text(), **MARK),
    "four, the last one where automatic would be": body(*[text(mark=MARK)] * 4, **MARK),
    "an hour before five minutes": body(text(mark=HOUR), text(mark=HOUR), text(mark=MARK)),
    "an hour before automatic": body(text(mark=HOUR), text(), **MARK),
    "the default said": body(text(mark=marked({"type": "ephemeral", "ttl": "5m"}))),
    "no marker": body(text(mark=marked(None))),
}
REFUSED = {
    "five": (body(*[text(mark=MARK)] * 5), "5 cache breakpoints are set"),
    "four and automatic": (body(*[text(mark=MARK)] * 4, text(), **MARK), "5 cache breakpoints are set"),
    "five over all levels": (
        body(
            *[text(mark=MARK)] * 3,
            system=[text(mark=MARK)],
            tools=[{"name": "f", "input_schema": {}, **MARK}],
        ),
        "5 cache breakpoints are set",
    ),
    "an hour after five minutes": (
        body(text(mark=MARK), text(mark=HOUR)),
        "1h stands after one of 5m",
    ),
    "an automatic hour after five minutes": (body(text(mark=MARK), text(), **HOUR), "1h stands after"),
    "automatic and explicit disagree": (
        body(text(mark=MARK), **HOUR),
        "for 1h at the top level and for 5m",
    ),
    "a lifetime that there is not": (
        body(text(mark=marked({"type": "ephemeral", "ttl": "1d"}))),
        "ttl of 5m or 1h",
    ),
    "a type that there is not": (body(text(mark=marked({"type": "persistent"}))), "of type ephemeral"),
}
UNSENT = {
    "on thinking": (
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "x", **MARK}]},
        "messages[1] thinking cannot carry cache_control",
    ),
    "on empty text": (
        {"role": "assistant", "content": [text(mark=MARK, words="")]},
        "messages[1] text cannot carry cache_control",
    ),
}


@pytest.mark.parametrize("sent", TAKEN.values(), ids=TAKEN)
def test_the_api_takes(sent: dict[str, Any]) -> None:
    assert refused(parse_prompt(sent)) is None
    render(sent, haiku())


@pytest.mark.parametrize(("sent", "why"), REFUSED.values(), ids=REFUSED)
def test_the_api_refuses(sent: dict[str, Any], why: str) -> None:
    found = refused(parse_prompt(sent))
    assert found is not None
    assert why in found
    with pytest.raises(InvalidRequestError):
        render(sent, haiku())


@pytest.mark.parametrize(("message", "why"), UNSENT.values(), ids=UNSENT)
def test_blocks_that_cannot_be_marked(message: dict[str, Any], why: str) -> None:
    sent = body()
    assert refused(parse_prompt({**sent, "messages": [*sent["messages"], message]})) == why


def test_a_deferred_tool_cannot_be_marked() -> None:
    tool = {"name": "search", "input_schema": {}, "defer_loading": True}
    assert refused(parse_prompt(body(tools=[tool]))) is None
    assert refused(parse_prompt(body(tools=[tool | MARK]))) == "tools[search] cannot carry cache_control"


def test_a_marker_inside_a_tool_result_is_the_results_own() -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [text(mark=MARK), text(mark=MARK)],
    }
    assert refused(parse_prompt(body(result, *[text(mark=MARK)] * 3))) is None
    assert refused(parse_prompt(body(result, *[text(mark=MARK)] * 4))) is not None


def pair(was: Prompt, now: Prompt, where: Endpoint) -> Pair:
    return Pair(0, Request(where, now, "n"), Request(where, was, "w"), Answer(200), Paired.LINEAGE)


FINE, FIVE = parse_prompt(body()), parse_prompt(body(*[text(mark=MARK)] * 5))
AUTOMATIC = parse_prompt(body(**MARK))
MESSAGES, INVOKE = Endpoint("messages"), Endpoint("messages", "aws", "anthropic.claude-haiku-4-5")


@pytest.mark.parametrize(
    ("was", "now", "where", "why"),
    [
        (FINE, FIVE, MESSAGES, "would refuse it with an error 400, so mend the request first: 5 cache"),
        (FINE, AUTOMATIC, MESSAGES, None),
        (FINE, AUTOMATIC, INVOKE, "Bedrock's invoke takes no cache_control at the top level"),
        (FIVE, FINE, MESSAGES, None),
        (FIVE, FIVE, MESSAGES, None),
    ],
    ids=["one that was not", "taken", "taken elsewhere", "no more", "whoever answered took it"],
)
def test_only_what_is_refused_now_and_was_not_then(
    was: Prompt, now: Prompt, where: Endpoint, why: str | None
) -> None:
    found = newly_refused(pair(was, now, where))
    assert (found is None) if why is None else (found is not None and why in found)
