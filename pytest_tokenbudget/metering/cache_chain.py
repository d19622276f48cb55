"""A prompt as its cache sees it: one chain of prefixes, each known by a key, with breakpoints on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pytest_tokenbudget.metering.cache_rules import (
    LEVELS,
    cache_model,
    is_outside_prefix,
    scopes,
)
from pytest_tokenbudget.metering.overheads import overhead
from pytest_tokenbudget.wire.prompt import Block, Level, Prompt, Ttl, digest

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
    automatic = _last_markable(links) if prompt.automatic_ttl else None
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
            content, ttl = _unmarked(block)
            if not is_outside_prefix(block):
                key, text = _linked(key, content), _linked(text, content)
            yield Link(block, index, content, text, key, ttl)


def _rendered(prompt: Prompt) -> Iterator[tuple[int, Block]]:
    """Blocks with their index, without the thinking that the API drops from the prompt.

    On models that drop it, the thinking of a turn goes once the user has said something that is no tool
    result; within a loop of tools it stays ("Thinking" of the platform's documentation).
    """
    last_said = -1
    if not overhead(prompt.model).keeps_thinking:
        said = (b.message for b in prompt.blocks if b.role == "user" and b.kind != "tool_result")
        last_said = max((message for message in said if message is not None), default=-1)
    for index, block in enumerate(prompt.blocks):
        if block.kind not in _THINKING or block.message is None or block.message > last_said:
            yield index, block


def _unmarked(block: Block) -> tuple[str, Ttl | None]:
    """Digest and lifetime of a block; a marker on a part of a tool result is a marker on the result.

    A result of text is one to the model whether it is a string or a list, so it has one digest: frameworks
    turn strings into lists where they set a marker.
    """
    inner = block.content.get("content")
    if block.kind != "tool_result" or not isinstance(inner, list):
        return block.digest, block.ttl
    parts = [part for part in inner if isinstance(part, Mapping)]
    marks = [mark for part in parts if isinstance(mark := part.get("cache_control"), Mapping)]
    ttl = block.ttl
    if marks:
        ttl = "1h" if marks[-1].get("ttl") == "1h" else "5m"
    bare: object = [{k: v for k, v in part.items() if k != "cache_control"} for part in parts]
    if all(part.get("type") == "text" for part in parts):
        bare = "".join(str(part.get("text", "")) for part in parts)
    return digest(block.level, block.role, {**block.content, "content": bare}), ttl


def _last_markable(links: tuple[Link, ...]) -> int | None:
    """Where automatic caching sets its breakpoint: the last block that is no thinking and no empty text."""
    for position in reversed(range(len(links))):
        block = links[position].block
        if block.kind not in _THINKING and not (block.kind == "text" and not block.content.get("text")):
            return position
    return None


def _linked(prefix: str, content: str) -> str:
    return hashlib.blake2b((prefix + content).encode(), digest_size=16).hexdigest()
