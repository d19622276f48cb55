"""Assistant turns that come back in later prompts: their size is what their answer was billed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from pytest_tokenbudget.metering.models import model_row
from pytest_tokenbudget.wire.prompt import Block, Prompt, as_mapping, digest, mappings

_SAID = {
    "text": ("text",),
    "tool_use": ("name", "input"),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
}


def message_digest(contents: Iterable[Mapping[str, Any]]) -> str | None:
    """Of what an assistant message says, however a client writes it; None where a server tool had a part.

    Ids, citations and cache markers do not count, nor does white space around text or an empty block.
    """
    said: list[object] = []
    for content in contents:
        kind = str(content.get("type", "text"))
        if kind not in _SAID:
            return None
        values = [content.get(name) for name in _SAID[kind]]
        if kind == "text":
            values = [str(values[0] or "").strip()]
        if any(values):
            said.append([kind, *values])
    return digest(said) if said else None


def fed_back_tokens(prompt: Prompt, message: Mapping[str, Any], output_tokens: int) -> dict[str, int]:
    """Tokens that the answer `message` to `prompt` adds to a later prompt that holds it, by its digest.

    Empty where its output tokens do not tell: the API wrote the beginning of a forced tool call itself, the
    results of server tools come on top, and nested tool input is written anew, with white space of its own.
    """
    contents = list(mappings(message.get("content")))
    key = message_digest(contents)
    choice = prompt.options.get("tool_choice")
    forced = isinstance(choice, Mapping) and choice.get("type") in ("any", "tool")
    if key is None or forced or any(map(_nested, contents)):
        return {}
    # An answer that ran its course is billed for ending its turn; one that was cut short gets that end later.
    ended = message.get("stop_reason") in ("end_turn", "tool_use")
    framing = model_row(prompt.model).framing
    calls = any(content.get("type") == "tool_use" for content in contents)
    added = (0 if ended else framing.message) + (framing.calls_fed_back if calls else 0)
    return {key: max(output_tokens + added, 0)}


def worked(message: Mapping[str, Any]) -> str | None:
    """What the API did by itself for an answer, so that it billed another prompt than the one that was sent,
    or several; None where it did nothing.
    """
    kinds = {str(content.get("type")) for content in mappings(message.get("content"))}
    if kinds & {"server_tool_use", "mcp_tool_use"}:
        return "the API ran tools of its own for the recorded answer, and billed several prompts"
    if len(as_mapping(message.get("usage")).get("iterations") or ()) > 1:
        return "the recorded answer took several prompts (usage.iterations), and the API billed each"
    if as_mapping(message.get("context_management")).get("applied_edits"):
        return "the API left a part of the recorded prompt out (context_management)"
    return None


def _nested(content: Mapping[str, Any]) -> bool:
    given = content.get("input")
    return isinstance(given, Mapping) and any(isinstance(value, dict | list) for value in given.values())


def assistant_messages(blocks: Iterable[Block]) -> Iterator[tuple[str, tuple[Block, ...]]]:
    """Each assistant message among `blocks` that may be an answer fed back, with its digest."""
    for (role, _), grouped in groupby(blocks, lambda block: (block.role, block.message)):
        message = tuple(grouped)
        if role == "assistant":
            key = message_digest(block.content for block in message)
            if key is not None:
                yield key, message
