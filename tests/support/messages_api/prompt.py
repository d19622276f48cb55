"""A request rendered as the chain of blocks that the API counts and caches.

The framing constants were measured on real recorded usage: one user message is its text + 7 tokens (family
3.0), each further message + 3, a tool result + 8 more, and the last `suffix` tokens open the answer, so that
they are in no cache entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .counting import Family, count
from .models import Model

Body = Mapping[str, Any]


class InvalidRequestError(Exception):
    """A request that the API would refuse with a 400, or that this server cannot count."""


@dataclass(frozen=True)
class Framing:
    """Tokens that no text shows, by tokenizer family."""

    start: int
    message: int
    tool_result: int
    thinking: int
    """Of extended thinking (`enabled`); adaptive thinking adds none."""


FRAMING: dict[Family, Framing] = {
    "3.0": Framing(4, 3, 8, 29),
    "4.7": Framing(9, 2, 3, 0),
    "4.8": Framing(4, 2, 3, 0),
}
TOOL_CALL, PARAMETER, IS_ERROR = 33, 14, 7


@dataclass(frozen=True)
class Block:
    """A place where the prompt could be cached up to."""

    prefix: str
    """Digest of everything up to and with this block."""
    end: int
    """Prompt tokens up to and with this block."""
    ttl: str | None
    """`5m` or `1h` where it is a cache breakpoint."""


@dataclass(frozen=True)
class Prompt:
    """The chain, and what the whole request counts."""

    blocks: tuple[Block, ...]
    total: int


def render(body: Body, model: Model) -> Prompt:
    """Count a request block by block; raises InvalidRequestError or UnknownTextError."""
    _check_conversation(body.get("messages"))
    framing = FRAMING[model.family]
    chain = _Chain(model.name, body.get("thinking"), (body.get("output_config") or {}).get("effort"))
    if body.get("tools"):
        chain.tokens += model.tool_prompt
    for tool in body.get("tools") or []:
        chain.add(tool, chain.tokens + count(_tool_text(tool, model), model.family))
    chain.mark("system", body.get("speed"))
    _add_contents(chain, _contents(body.get("system") or []), model.family)
    chain.mark("messages", body.get("tool_choice"))
    chain.tokens += framing.start + model.extra + _forced_tool(body, model)
    if (body.get("thinking") or {}).get("type") == "enabled":
        chain.tokens += framing.thinking
    previous = None
    for message in body["messages"]:
        role = message["role"]
        if previous is not None:
            chain.tokens += 1 if role == previous else framing.message
        chain.mark(role)
        _add_contents(chain, _contents(message["content"]), model.family)
        previous = role
    blocks = chain.closed(body.get("cache_control"))
    return Prompt(blocks, chain.tokens + framing.message)


def output_tokens(content: Sequence[Body], family: Family) -> int:
    """What an answer bills: exactly what it will add to the prompt when it is fed back."""
    chain = _Chain()
    _add_contents(chain, content, family)
    return chain.tokens + FRAMING[family].message


class _Chain:
    """Builds the blocks: a running digest and a running count."""

    def __init__(self, *seed: object) -> None:
        self.tokens = 0
        self._digest = hashlib.sha256(json.dumps(seed).encode())
        self._blocks: list[Block] = []

    def mark(self, *values: object) -> None:
        """Make everything that follows depend on `values`, which count no tokens."""
        self._digest.update(json.dumps(values).encode())

    def add(self, content: Body, end: int) -> None:
        bare = {key: value for key, value in content.items() if key != "cache_control"}
        self._digest.update(json.dumps(bare).encode() + b"\n")
        self.tokens = end
        self._blocks.append(Block(self._digest.hexdigest(), end, _ttl(content)))

    def closed(self, automatic: object) -> tuple[Block, ...]:
        """All blocks; `automatic` is a top-level cache_control, which marks the last one."""
        if automatic:
            block, ttl = self._blocks[-1], _ttl({"cache_control": automatic})
            if block.ttl not in (None, ttl):
                raise InvalidRequestError("cache_control: the last block is marked with another ttl")
            self._blocks[-1] = Block(block.prefix, block.end, ttl)
        marks = [block.ttl for block in self._blocks if block.ttl]
        if len(marks) > 4:
            raise InvalidRequestError(
                f"A maximum of 4 blocks with cache_control may be provided. Found {len(marks)}."
            )
        if "1h" in marks and "5m" in marks[: len(marks) - marks[::-1].index("1h")]:
            raise InvalidRequestError(
                "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block"
            )
        return tuple(self._blocks)


def _add_contents(chain: _Chain, contents: Sequence[Body], family: Family) -> None:
    """Add the blocks of one message; neighbouring texts are counted as the one text that they make."""
    run, before = "", chain.tokens
    for content in contents:
        if content.get("type", "text") == "text":
            run += content["text"]
            chain.add(content, before + count(run, family))
        else:
            chain.add(content, chain.tokens + _block_tokens(content, family))
            run, before = "", chain.tokens


def _block_tokens(content: Body, family: Family) -> int:
    kind = content.get("type")
    if kind == "tool_use":
        parameters = content["input"].items()
        values = sum(PARAMETER + count(f"{key}{_plain(value)}", family) for key, value in parameters)
        return TOOL_CALL + count(content["name"], family) + values
    if kind == "tool_result":
        text = "".join(part["text"] for part in _contents(content.get("content", [])))
        error = IS_ERROR if content.get("is_error") else 0
        return FRAMING[family].tool_result + count(text, family) + error
    raise InvalidRequestError(f"This test server cannot count content blocks of type {kind!r}")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _contents(value: object) -> list[Body]:
    if isinstance(value, str):
        value = [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise InvalidRequestError("content: must be a string or a list of blocks")
    return list(_checked(value))


def _checked(blocks: list[Any]) -> Iterator[Body]:
    for block in blocks:
        if not isinstance(block, Mapping) or "type" not in block:
            raise InvalidRequestError("content: every block must be an object with a type")
        if block["type"] == "text" and not isinstance(block.get("text"), str):
            raise InvalidRequestError("text: Field required")
        if block.get("text") == "":
            raise InvalidRequestError("text content blocks must be non-empty")
        yield block


def _check_conversation(messages: Any) -> None:
    """Every tool call must be answered by the very next message, and nothing else may be answered."""
    if not isinstance(messages, list) or not messages:
        raise InvalidRequestError("messages: at least one message is required")
    calls: set[str] = set()
    for index, message in enumerate(messages):
        if message["role"] not in ("user", "assistant"):
            raise InvalidRequestError(f"messages.{index}.role: must be 'user' or 'assistant'")
        blocks = message["content"] if isinstance(message["content"], list) else []
        results = {block["tool_use_id"] for block in blocks if block.get("type") == "tool_result"}
        if results != calls:
            raise InvalidRequestError(
                f"messages.{index}: `tool_result` blocks must answer the `tool_use` blocks before them"
            )
        calls = {block["id"] for block in blocks if block.get("type") == "tool_use"}
    if calls:
        raise InvalidRequestError("messages: `tool_use` blocks without `tool_result` blocks after them")


def _tool_text(tool: Body, model: Model) -> str:
    if "input_schema" not in tool:
        raise InvalidRequestError(f"This test server cannot count tools of type {tool.get('type')!r}")
    definition = {"name": tool["name"], "parameters": tool["input_schema"]}
    if tool.get("description"):
        definition = {"description": tool["description"], **definition}
    return f"<function>{json.dumps(definition, ensure_ascii=model.ascii_tools)}</function>\n"


def _forced_tool(body: Body, model: Model) -> int:
    if not body.get("tools"):
        return 0
    forced = dict(zip(("any", "tool"), model.forced_tool, strict=True))
    return forced.get((body.get("tool_choice") or {}).get("type", "auto"), 0)


def _ttl(content: Body) -> str | None:
    control = content.get("cache_control")
    if not control:
        return None
    if not isinstance(control, Mapping) or control.get("type") != "ephemeral":
        raise InvalidRequestError("cache_control.type: must be 'ephemeral'")
    ttl = control.get("ttl", "5m")
    if ttl not in ("5m", "1h"):
        raise InvalidRequestError("cache_control.ttl: must be '5m' or '1h'")
    return str(ttl)
