"""State what is documented and measured of the prompt cache: scopes, what is left out, sizes.

Sources, read from September to November 2026, are pages of the platform's documentation: "Prompt caching"
(PC), "Tool use with prompt caching" (TUC), "Thinking" (TH), "Cache diagnostics" (CD) and "Structured
outputs". What was measured says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_tokenbudget.metering.models import model_name, model_row
from pytest_tokenbudget.metering.rendering import OUTSIDE_THE_CACHE, serial_tool_use
from pytest_tokenbudget.wire.prompt import (
    THINKING,
    Block,
    Level,
    Prompt,
    Ttl,
    as_mapping,
    is_deferred,
    mappings,
    result_parts,
)

LOOK_BACK = 20
"""Positions checked from each breakpoint, the breakpoint's own included (PC)."""
TTL_SECONDS: Mapping[Ttl, int] = {"5m": 300, "1h": 3600, "unknown": 300}

_TOOL_PROMPT_BEFORE_TOOLS = 180
"""How much of the tool-use prompt stands before the tools; the rest stands after the system prompt. Measured
where a breakpoint parts the two (2026-11-21): 175 of 313 on Sonnet 4, 180 of 497 on Sonnet 4.6."""
_FORCED_TOOL_AT_END = 16
"""What `tool_choice` any or tool adds to the end of the prompt, measured on Sonnet 4.6."""
_THINKING_AT_END = 7
"""What `thinking: enabled` adds to the end of the prompt, measured on Sonnet 4.6; the rest goes before."""
_WEB_TOOLS = ("web_search_", "web_fetch_")
_SERVER_TOOLS = (*_WEB_TOOLS, "code_execution_", "tool_search_tool_", "mcp_toolset", "advisor_")

_PLAIN = THINKING | {"text", "tool_use"}
"""Kinds of content that hold no image and no document."""


def cache_model(model: str) -> str:
    """Return the model that a cache entry belongs to, such as `sonnet-4-5`: one for all ids of a model.

    That an alias and its snapshots share entries is assumed, for it is not documented. Another maker's model
    is known by its whole id.
    """
    return model_name(model)


def minimum(model: str, overrides: Mapping[str, int]) -> int:
    """Return the shortest cacheable prefix of a model, in tokens.

    `model` is as `cache_model` names it; `overrides` (tokens by model) may name models as requests do.
    """
    named = named_minimum(model, overrides)
    return model_row(model).cache_minimum if named is None else named


def named_minimum(model: str, overrides: Mapping[str, int]) -> int | None:
    """Return the shortest cacheable prefix that `overrides` name for a model, or None; see `minimum`."""
    return next((tokens for name, tokens in overrides.items() if cache_model(name) == model), None)


def tool_prompt(prompt: Prompt) -> tuple[int, int]:
    """Return the tokens that tools add beside their definitions: all, and those after the system prompt."""
    if not prompt.level("tools"):
        return 0, 0
    adds = model_row(prompt.model)
    forced = max(adds.any_tool - adds.tools - _FORCED_TOOL_AT_END, 0) if _forces_tool(prompt) else 0
    late = forced + serial_tool_use(prompt).tokens  # a change of either loses the cache of the messages alone
    return adds.tools + late, max(adds.tools - _TOOL_PROMPT_BEFORE_TOOLS + late, 0)


def after_last_block(prompt: Prompt) -> int:
    """Return the tokens after the last block: `input_tokens` where the last block is cached.

    What ends a prompt is measured for each model, what options add there on Sonnet 4.6 only.
    """
    around = model_row(prompt.model).framing
    after_result = prompt.blocks and prompt.blocks[-1].kind == "tool_result"
    tokens = around.end_after_result if after_result else around.end
    if as_mapping(prompt.options.get("thinking")).get("type") == "enabled":
        tokens += _THINKING_AT_END
    return tokens + (_FORCED_TOOL_AT_END if _forces_tool(prompt) else 0)


def _forces_tool(prompt: Prompt) -> bool:
    return as_mapping(prompt.options.get("tool_choice")).get("type") in ("any", "tool")


def is_outside_prefix(block: Block) -> bool:
    """Return whether a block is a tool that is kept out of the cached tools.

    Deferred tools are, and web tools, which change the system level instead (TUC).
    """
    return block.level == "tools" and (is_deferred(block) or _is_tool(block, _WEB_TOOLS))


def scopes(prompt: Prompt) -> Mapping[Level, Mapping[str, str]]:
    """Return by level the parameters its cache depends on; a change loses that level and those after.

    This is the invalidation table of PC and TUC. A value that equals the documented default is left out. On
    the models of 2025, a change of thinking or effort costs the cache of the messages, as that year's
    documentation says. On models that keep the thinking of finished turns it costs everything, as TH of 2026
    says to assume.
    """
    options = prompt.options
    output = as_mapping(options.get("output_config"))
    thinking = {
        "thinking": _thinking(as_mapping(options.get("thinking"))),
        "effort": "" if output.get("effort") == "high" else str(output.get("effort") or ""),
    }
    choice = as_mapping(options.get("tool_choice")) if prompt.level("tools") else {}
    betas = sorted(beta for beta in prompt.betas or () if not beta.startswith(OUTSIDE_THE_CACHE))
    late = not model_row(prompt.model).keeps_thinking
    return {
        "tools": _set(
            {"model": cache_model(prompt.model), "betas": ",".join(betas)} | ({} if late else thinking)
        ),
        "system": _set(
            {
                "speed": "fast" if options.get("speed") == "fast" else "",
                "web_tools": ",".join(sorted({_type(b) for b in prompt.blocks if _is_tool(b, _WEB_TOOLS)})),
                "citations": "on" if any(_cites(content) for _, content in _contents(prompt)) else "",
                "output_format": _text(output.get("format") or options.get("output_format")),
            }
        ),
        "messages": _set(
            {
                "tool_choice": "" if choice.get("type") == "auto" else _text(_tool_choice(choice)),
                "disable_parallel_tool_use": "on" if choice.get("disable_parallel_tool_use") else "",
                "images": "on"
                if any(content.get("type") == "image" for _, content in _contents(prompt))
                else "",
                "context_management": _text(options.get("context_management")),
            }
            | (thinking if late else {})
        ),
    }


def hidden_sizes(prompt: Prompt) -> Mapping[int, str]:
    """Return by index in `Prompt.blocks`, in order, why the size of a block is not in the request.

    These are server tools and their results, PDFs, files, and images by URL. What a request takes by an
    option (a container, MCP servers without a toolset) counts to its last tool, or to its first block.
    """
    hidden: dict[int, str] = {}
    last_tool = max(len(prompt.level("tools")) - 1, 0)
    listed = any(_is_tool(block, ("mcp_toolset",)) for block in prompt.blocks)
    for option in ("mcp_servers", "container"):
        if prompt.blocks and prompt.options.get(option) and not (option == "mcp_servers" and listed):
            hidden[last_tool] = f"{option}: what it adds is not in the request"
    for index, block in enumerate(prompt.blocks):
        if _is_tool(block, _SERVER_TOOLS) or _is_server_content(block):
            hidden[index] = f"{block.where}: server tools have no known size"
    for index, content in _contents(prompt):
        if (problem := _unreadable(content)) is not None:
            hidden[index] = f"{prompt.blocks[index].where}: {problem}"
    return dict(sorted(hidden.items()))


def server_tools(prompt: Prompt) -> str | None:
    """Return a sentence on the first place where a request has server tools, or None if it has none."""
    for option in ("mcp_servers", "container"):
        if prompt.options.get(option):
            return f"{option}: server tools bill rounds that the request does not show"
    for block in prompt.blocks:
        if _is_tool(block, _SERVER_TOOLS) or _is_server_content(block):
            return f"{block.where}: server tools bill rounds that the request does not show"
    return None


def _is_server_content(block: Block) -> bool:
    return block.kind in ("server_tool_use", "mcp_tool_use", "container_upload") or (
        block.kind.endswith("_tool_result")
    )


def _unreadable(content: Mapping[str, Any]) -> str | None:
    source = as_mapping(content.get("source"))
    if content.get("type") == "image" and source.get("type") in ("url", "file"):
        return "an image that is not in the request has no known size"
    if content.get("type") == "document" and source.get("type") in ("base64", "url", "file"):
        return "a PDF or file has no known size"
    return None


def _contents(prompt: Prompt) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the content of the messages that is not plain text, parts of tool results included.

    Each comes as (index of its block in `Prompt.blocks`, content).
    """
    for index, block in enumerate(prompt.blocks):
        if block.level != "messages" or block.kind in _PLAIN:
            continue
        yield index, block.content
        yield from ((index, part) for part in mappings(result_parts(block.content)))


def _cites(content: Mapping[str, Any]) -> bool:
    return bool(as_mapping(content.get("citations")).get("enabled"))


def _type(block: Block) -> str:
    return str(block.content.get("type", ""))


def _is_tool(block: Block, prefixes: tuple[str, ...]) -> bool:
    return block.level == "tools" and _type(block).startswith(prefixes)


def _thinking(thinking: Mapping[str, Any]) -> str:
    mode = thinking.get("type")
    return "" if mode in (None, "disabled") else f"{mode} {thinking.get('budget_tokens') or ''}".strip()


def _tool_choice(choice: Mapping[str, Any]) -> str:
    return " ".join(str(choice[key]) for key in ("type", "name") if choice.get(key))


def _text(value: object) -> str:
    return str(value) if value else ""


def _set(values: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in values.items() if value}
