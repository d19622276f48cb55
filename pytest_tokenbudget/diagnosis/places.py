"""What a person calls a part of a prompt, and the text that it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_tokenbudget.metering.cache_rules import cache_model
from pytest_tokenbudget.wire.prompt import Block, Prompt

ATTRIBUTION = "x-anthropic-billing-header:"
"""Begins a system block of Claude Code that the API strips before it caches (LLM gateway protocol)."""
TOOL_RESULT = "tool_result"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part stands; equal places of different turns are one place."""

    where: str
    """`system[0]`, `tools[search]`, `messages[0] user text`, `messages[2] tool_result of search`."""
    group: str
    """What growth is added up by: `where`, but one for all results of a tool."""


def place(block: Block, tools: Mapping[str, str]) -> Place:
    """The place of a block; `tools` names the tool of each tool use (`tool_names`)."""
    if block.level != "messages":
        return Place(block.name, block.name)
    if block.kind == TOOL_RESULT:
        tool = tools.get(str(block.content.get("tool_use_id")), "an unknown tool")
        return Place(f"messages[{block.message}] tool_result of {tool}", f"tool_results of {tool}")
    where = f"messages[{block.message}] {block.role} {block.kind}"
    return Place(where, where)


def tool_names(prompt: Prompt) -> dict[str, str]:
    """The name of the tool that each tool use calls, by the id that its result refers to."""
    return {
        str(block.content.get("id")): str(block.content.get("name"))
        for block in prompt.blocks
        if block.kind.endswith("tool_use")
    }


def text_of(block: Block) -> str:
    """The text of a block as its author wrote it: of a tool its strings, of other structures their JSON."""
    content = block.content
    if block.kind == "text":
        return str(content.get("text", ""))
    if block.kind == "tool":
        return prose(content)
    if block.kind == TOOL_RESULT:
        return _text_of_result(content.get("content"))
    if block.kind == "document":
        return prose(content)
    return to_json(content)


def _text_of_result(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part.get("text", to_json(part)) if isinstance(part, Mapping) else part for part in content)
    return "\n".join(str(part) for part in parts)


def strings(value: object) -> Iterator[str]:
    """Keys, strings and numbers of a JSON-like value, in order, as text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def prose(value: object) -> str:
    """The words of a JSON-like value, without what structures them: as files of any format hold them."""
    return "\n".join(strings(value))


def to_json(value: Any) -> str:
    """JSON in sent key order."""
    return json.dumps(value, ensure_ascii=False, default=str)


def is_ignored(block: Block) -> bool:
    """Whether the API itself leaves a block out of the cached prefix."""
    return block.level == "system" and str(block.content.get("text", "")).startswith(ATTRIBUTION)


def opening_of(prompt: Prompt) -> str:
    """What turns of one conversation share: its first block, its model, and whether there are tools.

    A small model that sorts the same question first is another conversation than the agent that answers it.
    """
    first = next((block.digest for block in prompt.blocks if block.level == "messages"), "")
    return f"{cache_model(prompt.model)} {any(block.level == 'tools' for block in prompt.blocks)} {first}"
