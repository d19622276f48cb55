"""A prompt as its cache sees it: one chain of prefixes, each known by a key, with breakpoints on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_tokenbudget.metering.cache_rules import (
    LEVELS,
    cache_model,
    is_outside_prefix,
    scopes,
)
from pytest_tokenbudget.metering.models import model_row
from pytest_tokenbudget.wire.prompt import Block, Level, Prompt, Ttl, digest, ttl_of

_THINKING = ("thinking", "redacted_thinking")


@dataclass(frozen=True, slots=True)
class Link:
    """One block of a chain, and the prefix that ends with it."""

    block: Block
    index: int
    """Of the block in `Prompt.blocks`; blocks that are not rendered have no link."""
    digest: str
    """Of the block alone, markers inside of it left out."""
    text: str
    """Of the prefix: its content, whatever the model and the parameters."""
    key: str
    """Of the prefix, with the model and the parameters: what a cache entry is found by."""
    ttl: Ttl | None
    """Set where the block carries a breakpoint."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The prefixes of one prompt. A position is an index of `links`."""

    prompt: Prompt
    model: str
    """As `cache_model` names it."""
    scopes: Mapping[Level, Mapping[str, str]]
    """The parameters that each level's cache depends on."""
    links: tuple[Link, ...]
    breakpoints: Mapping[int, Ttl]
    """By position, in order, automatic caching's own included."""


def chain(prompt: Prompt) -> Chain:
    """Lay the blocks of a prompt out as the API does: tools, system, messages. Linear in their number."""
    scope = scopes(prompt)
    links = tuple(_links(prompt, scope))
    marks = {position: link.ttl for position, link in enumerate(links) if link.ttl}
    automatic = last_markable([link.block for link in links]) if prompt.automatic_ttl else None
    if automatic is not None and prompt.automatic_ttl:
        marks.setdefault(automatic, prompt.automatic_ttl)
    return Chain(prompt, cache_model(prompt.model), scope, links, dict(sorted(marks.items())))


def same_prompt(one: Prompt, other: Prompt) -> bool:
    """Whether two requests are one to the model and to the cache; streaming makes no difference."""
    return one is other or one == replace(other, stream=one.stream)


def _links(prompt: Prompt, scope: Mapping[Level, Mapping[str, str]]) -> Iterator[Link]:
    rendered = list(_rendered(prompt))
    key = text = ""
    for level in LEVELS:
        key = digest(key, level, scope[level])
        for index, block in rendered:
            if block.level != level:
                continue
            content = _unmarked(block)
            if not is_outside_prefix(block):
                key, text = _linked(key, content), _linked(text, content)
            yield Link(block, index, content, text, key, lifetime(block))


def _rendered(prompt: Prompt) -> Iterator[tuple[int, Block]]:
    """Blocks with their index, without the thinking that the API drops from the prompt.

    On models that drop it, the thinking of a turn goes once the user has said something that is no tool
    result; within a loop of tools it stays ("Thinking" of the platform's documentation).
    """
    last_said = -1
    if not model_row(prompt.model).keeps_thinking:
        said = (b.message for b in prompt.blocks if b.role == "user" and b.kind != "tool_result")
        last_said = max((message for message in said if message is not None), default=-1)
    for index, block in enumerate(prompt.blocks):
        if block.kind not in _THINKING or block.message is None or block.message > last_said:
            yield index, block


def lifetime(block: Block) -> Ttl | None:
    """What the marker of a block asks for; one on a part of a tool result is one on the result."""
    marks = [ttl for part in _result_parts(block) or () if (ttl := ttl_of(part))]
    return marks[-1] if marks else block.ttl


def is_marked(prompt: Prompt) -> bool:
    """Whether a request sets any breakpoint."""
    return prompt.automatic_ttl is not None or any(map(lifetime, prompt.blocks))


def _unmarked(block: Block) -> str:
    """Digest of a block without the markers inside of it.

    A result of text is one to the model whether it is a string or a list, so it has one digest: frameworks
    turn strings into lists where they set a marker.
    """
    parts = _result_parts(block)
    if parts is None:
        return block.digest
    bare: object = [{k: v for k, v in part.items() if k != "cache_control"} for part in parts]
    if all(part.get("type") == "text" for part in parts):
        bare = "".join(str(part.get("text", "")) for part in parts)
    return digest(block.level, block.role, {**block.content, "content": bare})


def _result_parts(block: Block) -> list[Mapping[str, Any]] | None:
    """The parts of a tool result that is given as a list."""
    inner = block.content.get("content")
    if block.kind != "tool_result" or not isinstance(inner, list):
        return None
    return [part for part in inner if isinstance(part, Mapping)]


def markable(block: Block) -> bool:
    """Whether the API takes a marker on a block: not on thinking, empty text and deferred tools."""
    if block.level == "tools":
        return block.content.get("defer_loading") is not True
    return block.kind not in _THINKING and not (block.kind == "text" and not block.content.get("text"))


def last_markable(blocks: Sequence[Block]) -> int | None:
    """Index of the block where automatic caching sets its breakpoint."""
    return next((n for n in reversed(range(len(blocks))) if markable(blocks[n])), None)


def _linked(prefix: str, content: str) -> str:
    return hashlib.blake2b((prefix + content).encode(), digest_size=16).hexdigest()
