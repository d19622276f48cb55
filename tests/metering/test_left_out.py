"""What the API leaves out of a prompt: thinking of finished turns, tools that nothing has found."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.metering.prompt_cache import chain
from pytest_tokenbudget.metering.rendering import places, render
from pytest_tokenbudget.wire.prompt import Prompt, is_deferred, markable, parse_prompt

DROPS, KEEPS = "claude-haiku-4-5", "claude-sonnet-4-6"
TEXT = {"type": "text", "text": "a"}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "s"}
HIDDEN = {"type": "redacted_thinking", "data": "x"}
CALL = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "b"}


def conversation(*messages: tuple[str, list[dict[str, Any]]], model: str = DROPS, **body: Any) -> Prompt:
    told = [{"role": role, "content": content} for role, content in messages]
    return parse_prompt({"model": model, "messages": told, **body})


def left_out(prompt: Prompt) -> tuple[list[int], list[int]]:
    """Indexes of the blocks that the count leaves out, and of those that the cache leaves out."""
    counted = [index for index, place in enumerate(places(prompt)) if place.surroundings.dropped]
    rendered = {link.index for link in chain(prompt).links}
    return counted, [index for index in range(len(prompt.blocks)) if index not in rendered]


LOOP = [("user", [TEXT]), ("assistant", [THOUGHT, CALL]), ("user", [RESULT])]
THINKING: dict[str, tuple[Prompt, list[int]]] = {
    "within a loop of tools": (conversation(*LOOP), []),
    "of a loop that is over": (conversation(*LOOP, ("assistant", [HIDDEN, TEXT]), ("user", [TEXT])), [1, 4]),
    "a result and a word": (conversation(*LOOP[:2], ("user", [RESULT, TEXT])), [1]),
    "of a model that keeps it": (conversation(*LOOP, ("user", [TEXT]), model=KEEPS), []),
    "in what the user says": (conversation(("user", [THOUGHT, TEXT])), []),
    "in the system prompt": (conversation(("user", [TEXT]), ("user", [TEXT]), system=[THOUGHT]), []),
}


@pytest.mark.parametrize("name", THINKING)
def test_thinking_is_left_out_of_count_and_cache_alike(name: str) -> None:
    """ "Thinking" of the platform's documentation: it goes once the user has said more than a tool result."""
    prompt, expected = THINKING[name]
    assert left_out(prompt) == (expected, expected)


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(["user", "assistant"]),
        st.lists(st.sampled_from([TEXT, THOUGHT, HIDDEN, CALL, RESULT]), min_size=1, max_size=3),
    ),
    max_size=6,
)


@given(MESSAGES, st.sampled_from([DROPS, KEEPS]))
def test_count_and_cache_never_disagree_on_thinking(messages: Any, model: str) -> None:
    counted, cached = left_out(conversation(*messages, model=model))
    assert counted == cached


@pytest.mark.parametrize(
    ("told", "deferred"), [(True, True), (False, False), (None, False), ("true", False), (1, False)]
)
def test_a_tool_is_deferred_for_count_cache_and_breakpoints_alike(told: object, deferred: bool) -> None:
    """Only `true` is a value that the API takes for it."""
    tool = {"name": "f", "input_schema": {}, "defer_loading": told}
    prompt = conversation(("user", [TEXT]), tools=[tool])
    (block, _), (place, _) = prompt.blocks, places(prompt)
    assert is_deferred(block) is deferred
    assert markable(block) is not deferred
    assert place.surroundings.dropped is deferred
    assert (render(block, place.surroundings, DROPS).texts == ()) is deferred
    assert (chain(prompt).links[0].text == "") is deferred


@pytest.mark.parametrize(("told", "unknown"), [(True, "a tool with defer_loading"), ("true", None)])
def test_a_deferred_tool_that_may_be_found_cannot_be_counted(told: object, unknown: str | None) -> None:
    tools = [
        {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
        {"name": "f", "input_schema": {}, "defer_loading": told},
    ]
    prompt = conversation(("user", [TEXT]), tools=tools)
    place = places(prompt)[1]
    assert not place.surroundings.dropped
    assert render(prompt.blocks[1], place.surroundings, DROPS).unknown == unknown
