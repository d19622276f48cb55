"""How the API renders a prompt before it is tokenised: each block as text, framing and what is unknown.

The forms were derived from recorded totals, which they reproduce to the token: see docs/accuracy.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from pytest_tokenbudget.metering.builtin_counter import BuiltinCounter
from pytest_tokenbudget.metering.counting import Counter, family
from pytest_tokenbudget.metering.images import image_size, image_tokens
from pytest_tokenbudget.metering.overheads import framing, overhead
from pytest_tokenbudget.wire.prompt import Block, Prompt

_NS = "antml:"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A block or an option as the model is shown it."""

    texts: tuple[str, ...] = ()
    """For the tokenizer, each counted as a whole."""
    tokens: int = 0
    """What is no text: image patches and constants."""
    doubt: int = 0
    """By how much `tokens` may be wrong."""
    unknown: str | None = None
    """Why it cannot be counted offline."""

    def __add__(self, other: Rendered) -> Rendered:
        return Rendered(
            self.texts + other.texts,
            self.tokens + other.tokens,
            self.doubt + other.doubt,
            self.unknown or other.unknown,
        )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a block's neighbours decide about its rendering."""

    tool: str | None = None
    """Of a `tool_result` among several in one message: the name of the tool that it answers."""
    dropped: bool = False
    """Whether the API leaves it out: earlier thinking, or a deferred tool that nothing has found."""


ALONE = Surroundings()
_DROPPED = Surroundings(dropped=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block stands in its prompt."""

    framing: int
    """Tokens around it."""
    surroundings: Surroundings = ALONE


def places(prompt: Prompt) -> tuple[Place, ...]:
    """One place a block, in order; the framing of a message is with its first block."""
    return tuple(_Placing(prompt).walk())


class _Placing:
    def __init__(self, prompt: Prompt) -> None:
        self._blocks = prompt.blocks
        self._around = framing(prompt.model)
        self._overhead = overhead(prompt.model)
        self._tools = {
            str(block.content.get("id")): str(block.content.get("name"))
            for block in prompt.blocks
            if block.kind == "tool_use"
        }
        self._hides_deferred = not any(map(_finds_tools, prompt.blocks))
        # Where earlier thinking is left out, it stays within the running tool loop: after the last user
        # message that is not of tool results.
        self._loop = 0 if self._overhead.keeps_thinking else _loop_start(prompt.blocks)

    def walk(self) -> Iterator[Place]:
        first = self._around.prompt
        for level, grouped in groupby(self._blocks, lambda block: (block.level, block.role)):
            blocks = list(grouped)
            if level[0] == "messages":
                yield from self._turn(blocks, first)
            else:
                first += self._overhead.system if level[0] == "system" else 0
                for block in blocks:
                    hidden = self._hides_deferred and block.content.get("defer_loading") is True
                    each = int(level[0] == "tools" and not hidden)
                    yield Place(first + each, _DROPPED if hidden else ALONE)
                    first = 0
            first = 0

    def _turn(self, blocks: list[Block], first: int) -> Iterator[Place]:
        """The messages of one role in a row, which the API merges."""
        around = self._around
        calls, results = (sum(block.kind == kind for block in blocks) for kind in ("tool_use", "tool_result"))
        frame = first + self._frame(blocks, calls, results)
        last: Block | None = None
        for block in blocks:
            before = None if last is None else last.kind
            if block.kind == "tool_use" == before:
                frame += around.tool_call
            elif block.kind == "tool_result" == before:
                frame += 1
            elif before == "tool_result":
                frame += around.after_results
            elif last is not None and block.message != last.message:
                frame += around.merged
            name = self._tools.get(str(block.content.get("tool_use_id")), "") if results > 1 else None
            surroundings = ALONE
            if block.kind in THINKING and (block.message or 0) < self._loop:
                surroundings = _DROPPED
            elif block.kind == "tool_result" and name is not None:
                surroundings = Surroundings(tool=name)
            yield Place(frame, surroundings)
            frame, last = 0, block

    def _frame(self, blocks: list[Block], calls: int, results: int) -> int:
        around = self._around
        opening = around.opening if blocks[0].message == 0 and blocks[0].role == "assistant" else 0
        if calls:
            return opening + around.tool_call + around.calls
        if results:
            return around.tool_results + (around.several_results if results > 1 else 0)
        prefill = blocks[0].role == "assistant" and blocks[-1] is self._blocks[-1]
        return opening + (0 if prefill else around.message)


def _finds_tools(block: Block) -> bool:
    """Whether it may bring deferred tools into the prompt."""
    if block.level == "tools":
        return str(block.content.get("type", "")).startswith("tool_search")
    inner = block.content.get("content")
    parts = inner if isinstance(inner, list) else [block.content]
    return any(isinstance(part, Mapping) and "tool_reference" in str(part.get("type")) for part in parts)


def _loop_start(blocks: tuple[Block, ...]) -> int:
    """Index of the last user message that holds anything else than tool results."""
    for block in reversed(blocks):
        if block.role == "user" and block.kind != "tool_result":
            return block.message or 0
    return 0


@lru_cache(maxsize=256)  # the same blocks come back on every turn
def render(block: Block, around: Surroundings, model: str) -> Rendered:
    """`block` as it is shown among its neighbours, without the framing."""
    if around.dropped:
        return Rendered()
    if block.kind == "tool":
        return _tool(block.content, model)
    return _content(block.content, around, model)


def _content(content: Mapping[str, Any], around: Surroundings, model: str) -> Rendered:
    kind = str(content.get("type", "text"))
    if kind == "text":
        return Rendered((str(content.get("text", "")),))
    if kind == "tool_use":
        return Rendered((_call(content),))
    if kind == "tool_result":
        return _result(content, around, model)
    if kind == "image":
        return _image(content, model)
    if kind == "document":
        return _document(content, model)
    if kind in THINKING:
        return Rendered(unknown="thinking is billed in full, and its text is a summary")
    return Rendered(unknown=f"a {kind} block")


THINKING = frozenset({"thinking", "redacted_thinking"})


def _tool(content: Mapping[str, Any], model: str) -> Rendered:
    if "input_schema" not in content or content.get("type", "custom") != "custom":
        return Rendered(unknown=f"the tool {content.get('type', content.get('name', '?'))} of the API's own")
    if content.get("defer_loading"):
        return Rendered(unknown="a tool with defer_loading")
    definition = {"description": content.get("description")} if content.get("description") else {}
    definition |= {"name": content.get("name"), "parameters": content["input_schema"]}
    text = json.dumps(definition, ensure_ascii=overhead(model).escapes)
    return Rendered((f"<function>{text}</function>",))


def _call(content: Mapping[str, Any]) -> str:
    given = content.get("input")
    values = given.items() if isinstance(given, Mapping) else ()
    parameters = "".join(
        f'<{_NS}parameter name="{name}">{_value(value)}</{_NS}parameter>\n' for name, value in values
    )
    return f'<{_NS}invoke name="{content.get("name")}">\n{parameters}</{_NS}invoke>'


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _result(content: Mapping[str, Any], around: Surroundings, model: str) -> Rendered:
    """A result alone is bare; among several each names its tool."""
    inner = content.get("content")
    parts = [inner] if isinstance(inner, str) else inner if isinstance(inner, list) else []
    texts: list[str] = []
    other = Rendered()
    if content.get("is_error") is True:
        other += Rendered(tokens=framing(model).is_error, doubt=1)
    before = "text"
    for part in parts:
        part = {"type": "text", "text": part} if isinstance(part, str) else _mapping(part)
        kind, rendered = str(part.get("type")), _content(part, ALONE, model)
        if kind == "text":
            texts += rendered.texts
        else:
            other += rendered
        if (before, kind) != ("text", "text"):
            other += Rendered(tokens=_AROUND_IN_RESULT.get(kind, 0), doubt=6)
        before = kind
    text = "".join(texts)
    if around.tool is None:
        return Rendered((f"<function_results>{text}</function_results>",)) + other
    named = f"<result>\n<name>{around.tool}</name>\n<output>{text}</output>\n</result>"
    return Rendered((named,)) + other


# Tokens around what is no text in a tool result, and around text that follows it; from few recordings.
_AROUND_IN_RESULT = {"image": 12, "document": 6, "text": 12}


def _image(content: Mapping[str, Any], model: str) -> Rendered:
    source = _mapping(content.get("source"))
    if source.get("type") != "base64":
        return Rendered(unknown=f"an image by {source.get('type', '?')}")
    size = image_size(str(source.get("data", "")))
    if size is None:
        return Rendered(unknown=f"an image ({source.get('media_type', '?')}) whose size cannot be read")
    around = framing(model)
    patches = image_tokens(*size, max_edge=around.image_edge, max_patches=around.image_patches)
    scaled = max(size) > around.image_edge or patches > around.image_patches * 0.97
    return Rendered(tokens=patches + around.image, doubt=patches // 50 if scaled else 0)


def _document(content: Mapping[str, Any], model: str) -> Rendered:
    source = _mapping(content.get("source"))
    if source.get("type") != "text":
        return Rendered(
            unknown=f"a document by {source.get('type', '?')} {source.get('media_type', '')}".rstrip()
        )
    if _mapping(content.get("citations")).get("enabled"):
        return Rendered(unknown="a document with citations")
    around = framing(model)
    titles = tuple(str(content[key]) for key in ("title", "context") if content.get(key))
    tokens = around.document + around.title * len(titles)
    return Rendered((str(source.get("data", "")), *titles), tokens, doubt=4 + 4 * len(titles))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def render_options(prompt: Prompt) -> dict[str, Rendered]:
    """What of a request's options is in the prompt, by option; `tools` is the tool-use prompt.

    An option that adds nothing is left out, so that adding it is no difference.
    """
    found = {name: _option(name, value, prompt) for name, value in prompt.options.items()}
    found["tool_choice"] = _tool_choice(prompt)
    if any(block.level == "tools" for block in prompt.blocks):
        found["tools"] = Rendered(tokens=overhead(prompt.model).tools, doubt=3)
    if _SHAPING_BETAS & prompt.betas:
        found["betas"] = Rendered(unknown=f"the beta {', '.join(sorted(_SHAPING_BETAS & prompt.betas))}")
    return {name: rendered for name, rendered in found.items() if rendered != Rendered()}


# Betas that change what the model is shown of an otherwise unchanged request.
_SHAPING_BETAS = frozenset({"token-efficient-tools-2025-02-19"})
_NOT_SHOWN = frozenset({"speed", "tool_choice", "betas", "fallbacks"})


def _option(name: str, value: Any, prompt: Prompt) -> Rendered:
    if name in _NOT_SHOWN:
        return Rendered()
    if name == "thinking":
        return _thinking(str(_mapping(value).get("type")), prompt)
    if name == "output_format":
        return _format(value, prompt.model)
    if name == "output_config":
        rendered = _format(_mapping(value).get("format"), prompt.model)
        if _mapping(value).get("task_budget"):
            rendered += Rendered(tokens=framing(prompt.model).task_budget, doubt=2)
        return rendered
    return Rendered((json.dumps(value, default=str),), unknown=f"the option {name}")


def _thinking(kind: str, prompt: Prompt) -> Rendered:
    extra = overhead(prompt.model)
    if kind == "enabled":
        interleaved = any(beta.startswith("interleaved-thinking") for beta in prompt.betas)
        between = extra.interleaved if interleaved and prompt.level("tools") else 0
        return Rendered(tokens=extra.thinking + between, doubt=2)
    return Rendered(tokens=extra.adaptive, doubt=2) if kind == "adaptive" else Rendered()


def _format(value: object, model: str) -> Rendered:
    schema = _mapping(value).get("schema")
    if schema is None:
        return Rendered()
    return Rendered((json.dumps(schema, indent=2, ensure_ascii=False),), framing(model).schema, doubt=1)


def _tool_choice(prompt: Prompt) -> Rendered:
    choice = _mapping(prompt.options.get("tool_choice"))
    extra = overhead(prompt.model)
    if not prompt.level("tools"):
        return Rendered()
    if choice.get("type") == "any":
        return Rendered(tokens=extra.any_tool - extra.tools, doubt=3)
    if choice.get("type") == "tool":
        return Rendered((str(choice.get("name", "")),), extra.one_tool - extra.tools, doubt=5)
    return Rendered()


def block_weights(prompt: Prompt, counter: Counter | None = None) -> tuple[float, ...]:
    """Approximate tokens of each block of `prompt`, framing included, cheaply: no tokenizer is loaded.

    One weight a block, in order, for splitting a known total over the chain; never negative. What cannot be
    counted offline gets the size of its JSON. Hand in one `Memo` for many prompts of one conversation.
    """
    counter = counter or BuiltinCounter()
    kin = family(prompt.model)
    before_tools = overhead(prompt.model).tools
    weights = []
    for block, place in zip(prompt.blocks, places(prompt), strict=True):
        rendered = render(block, place.surroundings, prompt.model)
        texts = rendered.texts if rendered.unknown is None else (json.dumps(block.content, default=str),)
        weight = place.framing + rendered.tokens + sum(counter.count(text, kin) for text in texts)
        if block.level == "tools":
            weight, before_tools = weight + before_tools, 0
        weights.append(float(weight))
    return tuple(weights)
