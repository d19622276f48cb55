"""A prompt as its cache sees it: one chain of prefixes, each known by a key, with breakpoints on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pytest_tokenbudget.metering.cache_rules import cache_model, is_outside_prefix, scopes
from pytest_tokenbudget.metering.places import is_dropped_thinking, keeps_thinking_from
from pytest_tokenbudget.wire.prompt import (
    LEVELS,
    Block,
    Level,
    Prompt,
    Ttl,
    as_mapping,
    breakpoints,
    digest,
    result_parts,
)


@dataclass(frozen=True, slots=True)
class Link:
    """One block of a chain, and the prefix that ends with it."""

    block: Block
    index: int
    """Of the block in `Prompt.blocks`; blocks that are not rendered have no link."""
    digest: str
    """Of the block alone; a tool result is one whether it is a string or a list of texts."""
    text: str
    """Of the prefix: its content, whatever the model and the parameters."""
    key: str
    """Of the prefix, with the model and the parameters: what a cache entry is found by."""


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
    ttls = breakpoints(prompt)
    marks = {position: ttls[link.index] for position, link in enumerate(links) if link.index in ttls}
    return Chain(prompt, cache_model(prompt.model), scope, links, marks)


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
            content = _content_digest(block)
            if not is_outside_prefix(block):
                key, text = _linked(key, content), _linked(text, content)
            yield Link(block, index, content, text, key)


def _rendered(prompt: Prompt) -> Iterator[tuple[int, Block]]:
    """Yield blocks with their index, without the thinking that the API drops from the prompt."""
    keeps_from = keeps_thinking_from(prompt.blocks, prompt.model)
    for index, block in enumerate(prompt.blocks):
        if not is_dropped_thinking(block, keeps_from):
            yield index, block


def _content_digest(block: Block) -> str:
    """Return the digest of a block by which the cache compares it.

    A result of text is one to the model whether it is a string or a list, so it has one digest: frameworks
    turn strings into lists where they set a marker.
    """
    parts = result_parts(block.content)
    if parts is None or any(as_mapping(part).get("type") != "text" for part in parts):
        return block.digest
    text = "".join(str(part.get("text", "")) for part in parts)
    return digest(block.level, block.role, {**block.content, "content": text})


def _linked(prefix: str, content: str) -> str:
    return hashlib.blake2b((prefix + content).encode(), digest_size=16).hexdigest()
