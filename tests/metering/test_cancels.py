"""What cannot be counted and stands on both sides cancels, whatever free changes stand beside it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from pytest_tokenbudget.metering.counting import BuiltinCounter, Memo
from pytest_tokenbudget.metering.estimate import Known, estimate
from pytest_tokenbudget.wire.prompt import parse_prompt
from support.sample import tenth

Body = dict[str, Any]
Edit = Callable[[Body], object]
COUNTER = Memo(BuiltinCounter())
LOOK_UP = {"name": "look_up", "description": "Look it up.", "input_schema": {"type": "object"}}
CODE = {"type": "code_execution_20250825", "name": "code_execution"}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
SERVER = {"type": "url", "url": "https://mcp.example", "name": "shop"}


def body(*content: Body, **more: Any) -> Body:
    words = {"type": "text", "text": "Where is it?"}
    return {
        "model": "claude-sonnet-4-5",
        "max_tokens": 500,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [*content, words]}],
        **more,
    }


def source(kind: str, **more: str) -> Body:
    return {"type": kind, "source": more}


UNCOUNTABLE = {
    "web search": body(tools=[SEARCH]),
    "web search beside a tool": body(tools=[SEARCH, LOOK_UP]),
    "code execution": body(tools=[CODE, LOOK_UP]),
    "memory": body(tools=[{"type": "memory_20250818", "name": "memory"}]),
    "a PDF": body(source("document", type="base64", media_type="application/pdf", data="JVBERi0=")),
    "a file": body(source("document", type="file", file_id="file_1")),
    "an image by its URL": body(source("image", type="url", url="https://example.com/a.png")),
    "an MCP toolset": body(mcp_servers=[SERVER], tools=[{"type": "mcp_toolset", "mcp_server_name": "shop"}]),
    "an MCP server": body(mcp_servers=[SERVER]),
    "a container": body(container={"id": "c"}, tools=[CODE]),
    "context management": body(context_management={"edits": [{"type": "clear_tool_uses_20250919"}]}),
}


def option(**options: Any) -> Edit:
    return lambda request: request.update(options)


def tools(**fields: Any) -> Edit:
    return lambda request: [tool.update(copy.deepcopy(fields)) for tool in request.get("tools", ())]


def blocks(**fields: Any) -> Edit:
    return lambda request: [
        block.update(copy.deepcopy(fields)) for message in request["messages"] for block in message["content"]
    ]


def turned_round(request: Body) -> None:
    """The keys of the body and of each tool come in another order."""
    for mapping in (request, *request.get("tools", ())):
        for key in [*mapping][::-1]:
            mapping[key] = mapping.pop(key)


FREE: dict[str, Edit] = {
    "tool_choice auto": option(tool_choice={"type": "auto"}),
    "tool_choice auto, in parallel": option(tool_choice={"type": "auto", "disable_parallel_tool_use": False}),
    "max_uses null": tools(max_uses=None),
    "user_location null": tools(user_location=None),
    "strict false": tools(strict=False),
    "defer_loading false": tools(defer_loading=False),
    "called directly": tools(allowed_callers=["direct"]),
    "streamed eagerly": tools(eager_input_streaming=True),
    "a marker on tools": tools(cache_control={"type": "ephemeral"}),
    "a marker on blocks": blocks(cache_control={"type": "ephemeral"}),
    "no marker": blocks(cache_control=None),
    "citations null": blocks(citations=None),
    "citations off": blocks(citations={"enabled": False}),
    "temperature": option(temperature=0.1),
    "a longer limit": option(max_tokens=900),
    "no stop sequence": option(stop_sequences=[]),
    "streamed": option(stream=True),
    "who asks": option(metadata={"user_id": "u"}),
    "thinking off": option(thinking={"type": "disabled"}),
    "output_config empty": option(output_config={}),
    "output_format null": option(output_format=None),
    "system as a text": option(system="Be brief."),
    "automatic caching": option(cache_control={"type": "ephemeral"}),
    "keys turned round": turned_round,
}
PAIRS = tenth([*itertools.combinations(FREE, 2)], of="free changes")


@pytest.mark.parametrize("kind", UNCOUNTABLE)
def test_what_stands_on_both_sides_cancels(kind: str) -> None:
    base = UNCOUNTABLE[kind]
    for names in (*((name,) for name in FREE), *PAIRS):
        changed = copy.deepcopy(base)
        for name in names:
            FREE[name](changed)
        for was, now in ((base, changed), (changed, base)):
            counted = estimate(Known(parse_prompt(was), 5000), parse_prompt(now), COUNTER)
            assert counted.prompt_tokens == 5000, (names, counted.reason)


@pytest.mark.parametrize(
    "edit",
    [
        option(tool_choice={"type": "any"}),
        tools(max_uses=3),
        blocks(text="Where is my parcel now, and who has it?"),
        option(system="Be brief and polite."),
    ],
)
def test_what_is_no_free_change_does_not_cancel(edit: Edit) -> None:
    base = UNCOUNTABLE["web search beside a tool"]
    changed = copy.deepcopy(base)
    edit(changed)
    counted = estimate(Known(parse_prompt(base), 5000), parse_prompt(changed), COUNTER)
    assert counted.prompt_tokens != 5000
