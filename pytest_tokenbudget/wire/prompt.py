"""Read a request body as one ordered chain of blocks with cache breakpoints: tools, system, messages.

The API hashes this chain for its prompt cache (levels render tools -> system -> messages). Tokens are counted
block by block, and blocks are compared to say which part grew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["tools", "system", "messages"]
LEVELS: tuple[Level, ...] = ("tools", "system", "messages")
"""The levels of a prompt, in the order in which the API renders them."""
Ttl = Literal["5m", "1h", "unknown"]
"""The lifetime of a cache entry; `unknown` if its marker has no form that the API takes."""

THINKING = frozenset({"thinking", "redacted_thinking"})
"""The kinds of blocks that hold thinking."""

_NOT_IN_PROMPT = frozenset(
    {"model", "max_tokens", "messages", "system", "tools", "stream", "metadata", "stop_sequences"}
    | {"temperature", "top_k", "top_p", "cache_control", "diagnostics", "anthropic_version", "anthropic_beta"}
    | {"service_tier", "user_profile_id", "thread"}
)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Block:
    """One tool definition, system block or content block, without its cache marker."""

    level: Level
    where: str
    """Its place in the body: `tools[2]`, `system[0]`, `messages[4].content[1]`."""
    kind: str
    """`tool` for a tool definition, else the API's content type: `text`, `tool_use`, `tool_result`, ..."""
    content: Mapping[str, Any] = field(compare=False)
    """The block as sent, in sent key order, without `cache_control` on it and in its parts. A bare string is
    a text block."""
    digest: str
    """Digest of level, role and content, byte for byte in sent key order: what the cache compares."""
    role: str | None = None
    """`user`, `assistant` or `system` in messages; else None."""
    message: int | None = None
    """Index of its message; None outside messages."""
    ttl: Ttl | None = None
    """Lifetime of the explicit cache breakpoint on the block (`lifetime`); None without one."""

    @property
    def name(self) -> str:
        """The name that a person would give it: `tools[search]`, `system[0]`, `messages[4] tool_result`."""
        if self.level == "tools":
            return f"tools[{self.content.get('name', self.content.get('type', '?'))}]"
        if self.level == "system":
            return self.where
        return f"messages[{self.message}] {self.kind}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything of a request that the model is shown or that decides how the prompt is cached."""

    model: str
    blocks: tuple[Block, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else shapes the prompt or its cache, as sent: `tool_choice`, `thinking`, `output_config`, ... A
    message's own options are named by their place: `messages[2].clear_at`."""
    betas: frozenset[str] | None = frozenset()
    """The betas of the request; None if a recording kept no headers that would show them."""
    automatic_ttl: Ttl | None = None
    """Lifetime of automatic caching (`cache_control` at the top level); None if it is not asked for."""
    stream: bool = False
    max_tokens: int | None = field(default=None, compare=False)
    """The longest answer that is asked for, in tokens; it shapes neither prompt nor cache."""
    stop_sequences: tuple[str, ...] = field(default=(), compare=False)
    """Texts that end an answer; they shape neither prompt nor cache."""

    def level(self, level: Level) -> tuple[Block, ...]:
        """Return the blocks of one level, in order."""
        return tuple(block for block in self.blocks if block.level == level)

    @property
    def offers_tools(self) -> bool:
        """Whether it lists any tool."""
        return any(block.level == "tools" for block in self.blocks)

    @property
    def message_count(self) -> int:
        """How many messages the conversation holds."""
        last = self.blocks[-1].message if self.blocks else None
        return 0 if last is None else last + 1


def parse_prompt(
    body: Mapping[str, Any],
    *,
    model: str | None = None,
    betas: Sequence[str] | None = (),
    stream: bool = False,
) -> Prompt:
    """Read a Messages request body. Pass `model` and `stream` if the URL tells them (Bedrock, Vertex).

    It is tolerant on purpose: recorded bodies of any age are read, and what is not understood stays a block
    of its own kind. Odd content raises nothing; the caller must refuse a body that is no mapping.
    """
    blocks = (*_tools(body.get("tools")), *_system(body.get("system")), *_messages(body.get("messages")))
    if isinstance(in_body := body.get("anthropic_beta"), list):
        betas = [*(betas or ()), *map(str, in_body)]
    return Prompt(
        model=str(model or body.get("model") or "unknown"),
        blocks=blocks,
        options={k: v for k, v in body.items() if k not in _NOT_IN_PROMPT and v is not None}
        | _of_messages(body.get("messages")),
        betas=None if betas is None else frozenset(betas),
        automatic_ttl=_asked(body),
        stream=stream or body.get("stream") is True,
        max_tokens=most if isinstance(most := body.get("max_tokens"), int) else None,
        stop_sequences=tuple(map(str, stops))
        if isinstance(stops := body.get("stop_sequences"), list)
        else (),
    )


def body_of(prompt: Prompt, *, marked: bool = False) -> dict[str, Any]:
    """Return a request body that holds the same prompt; with its cache markers only if `marked`."""
    messages: list[dict[str, Any]] = []
    last: int | None = None
    for block in prompt.level("messages"):
        if block.message != last:
            messages.append({"role": block.role, "content": []})
            last = block.message
        messages[-1]["content"].append(_content_of(block, marked=marked))
    body: dict[str, Any] = {"model": prompt.model, "messages": messages, **prompt.options}
    for level in LEVELS[:2]:
        if blocks := prompt.level(level):
            body[level] = [_content_of(block, marked=marked) for block in blocks]
    if marked and prompt.automatic_ttl:
        body["cache_control"] = {"type": "ephemeral", "ttl": prompt.automatic_ttl}
    return body


def _content_of(block: Block, *, marked: bool) -> dict[str, Any]:
    mark = {"cache_control": {"type": "ephemeral", "ttl": block.ttl}} if marked and block.ttl else {}
    return {**block.content, **mark}


def _tools(tools: object) -> Iterator[Block]:
    for index, tool in enumerate(mappings(tools)):
        yield _block("tools", f"tools[{index}]", tool, kind="tool")


def _system(system: object) -> Iterator[Block]:
    for index, content in enumerate(_contents(system)):
        yield _block("system", f"system[{index}]", content)


def _messages(messages: object) -> Iterator[Block]:
    for number, message in enumerate(mappings(messages)):
        role = str(message.get("role", "user"))
        for index, content in enumerate(_contents(message.get("content"))):
            where = f"messages[{number}].content[{index}]"
            yield _block("messages", where, content, role=role, message=number)


def _of_messages(messages: object) -> dict[str, Any]:
    """Return what messages say beside their role and content, by place: `messages[2].clear_at`."""
    return {
        f"messages[{number}].{key}": value
        for number, message in enumerate(mappings(messages))
        for key, value in message.items()
        if key not in ("role", "content") and value is not None
    }


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return `value` if it is a mapping, else an empty mapping: recorded bodies may be odd."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield the mappings in a list; nothing if `value` is no list."""
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, Mapping))


def _contents(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield a string, or a list of blocks and strings, as blocks."""
    if isinstance(value, str):
        yield {"type": "text", "text": value}
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, str):
                yield {"type": "text", "text": item}
            elif isinstance(item, Mapping):
                yield item


def _block(
    level: Level,
    where: str,
    content: Mapping[str, Any],
    *,
    kind: str | None = None,
    role: str | None = None,
    message: int | None = None,
) -> Block:
    bare = _unmarked(content)
    if (parts := result_parts(content)) is not None:
        bare["content"] = [_unmarked(part) if isinstance(part, Mapping) else part for part in parts]
    return Block(
        level=level,
        where=where,
        kind=kind or str(content.get("type", "text")),
        content=bare,
        digest=digest(level, role, bare),
        role=role,
        message=message,
        ttl=lifetime(content),
    )


def _unmarked(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != "cache_control"}


def result_parts(content: Mapping[str, Any]) -> list[Any] | None:
    """Return the parts of a tool result that is given as a list, odd ones too; None for any other content."""
    parts = content.get("content")
    return parts if content.get("type") == "tool_result" and isinstance(parts, list) else None


def lifetime(content: Mapping[str, Any]) -> Ttl | None:
    """Return the lifetime that the breakpoint of a tool, system or content block asks for; None without one.

    A marker on a part of a tool result counts for the result, since only the top-level block is cached. Of
    several the last holds, and the result's own comes after those of its parts. If one has no form that the
    API takes, the lifetime is `unknown`.
    """
    marks = [ttl for part in (*mappings(result_parts(content)), content) if (ttl := _asked(part))]
    return "unknown" if "unknown" in marks else marks[-1] if marks else None


def _asked(content: Mapping[str, Any]) -> Ttl | None:
    """Return the lifetime that `cache_control` itself asks for; None if it is null or missing."""
    control = content.get("cache_control")
    if control is None:
        return None
    if not isinstance(control, Mapping) or control.get("type") != "ephemeral":
        return "unknown"
    ttl = control.get("ttl")
    if ttl == "1h":
        return "1h"
    return "5m" if ttl in (None, "5m") else "unknown"


_SAYS_NOTHING: Mapping[str, Sequence[object]] = {
    "strict": (False,),
    "defer_loading": (False,),
    "eager_input_streaming": (False, True),
    "allowed_callers": (["direct"],),
}
"""Fields of a tool, with the values that are the default or only rule how an answer is streamed."""


def bare_content(block: Block) -> dict[str, Any]:
    """Return a block's content without nulls, default values and citations that are off."""
    return {
        key: value
        for key, value in block.content.items()
        if value is not None
        and value not in _SAYS_NOTHING.get(key, ())
        and not (key == "citations" and as_mapping(value).get("enabled") is False)
    }


def bare_digest(block: Block) -> str:
    """Return the digest of a block's content without nulls, default values and citations that are off."""
    bare = bare_content(block)
    return block.digest if len(bare) == len(block.content) else digest(block.level, block.role, bare)


def is_deferred(block: Block) -> bool:
    """Return whether a tool is kept out of the prompt until a tool search finds it."""
    return block.level == "tools" and block.content.get("defer_loading") is True


def markable(block: Block) -> bool:
    """Return whether the API takes a breakpoint on a block: not on thinking, empty text and deferred tools.

    ("Prompt caching" and "Tool search" of the platform's documentation, 2026-09-26.)
    """
    if block.level == "tools":
        return not is_deferred(block)
    return block.kind not in THINKING and not (block.kind == "text" and not block.content.get("text"))


def automatic_breakpoint(prompt: Prompt) -> int | None:
    """Return the index of the block where automatic caching sets its breakpoint; None without one.

    That is the last block that can be marked. If it carries a breakpoint of its own, that one holds.
    """
    if prompt.automatic_ttl is None:
        return None
    return next((n for n in reversed(range(len(prompt.blocks))) if markable(prompt.blocks[n])), None)


def breakpoints(prompt: Prompt) -> Mapping[int, Ttl]:
    """Return the lifetime of each breakpoint by index of its block, in order; the automatic one too."""
    marks = {index: block.ttl for index, block in enumerate(prompt.blocks) if block.ttl}
    automatic = automatic_breakpoint(prompt)
    if automatic is not None and prompt.automatic_ttl:
        marks.setdefault(automatic, prompt.automatic_ttl)
    return dict(sorted(marks.items()))


def last_breakpoint(prompt: Prompt) -> int:
    """Return the index of the last block with a breakpoint; -1 if there is none."""
    return max(breakpoints(prompt), default=-1)


def same_options(one: Prompt, other: Prompt) -> bool:
    """Return whether two prompts have the same options, to the type of each value and its key order."""
    was, now = ({name: digest(value) for name, value in prompt.options.items()} for prompt in (one, other))
    return was == now


def digest(*values: object) -> str:
    """Return a digest of JSON-like values that depends on key order.

    It has 128 bits and serves for comparing, not for secrecy.
    """
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def text_digest(text: str) -> bytes:
    """Return 16 bytes to remember a text by that is too large to be kept."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
