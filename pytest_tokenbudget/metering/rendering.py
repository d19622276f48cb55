"""Render a prompt as the API does before it is tokenised: each block as text, framing and what is unknown.

Neighbours decide the framing around a block and how it is shown. Options add the tool-use prompt, thinking
and output formats; some beta headers change what a request counts. The forms were derived from recorded
totals, which they reproduce to the token: see docs/accuracy.md. An image counts by its pixels; their number
is read from the header of its base64 data.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

from pytest_tokenbudget.metering.counting import BuiltinCounter, Counter
from pytest_tokenbudget.metering.models import FRAMINGS, MODELS, model_row
from pytest_tokenbudget.wire.prompt import THINKING, Block, Prompt, as_mapping, is_deferred

_NS = "antml:"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A block or an option as the model is shown it."""

    texts: tuple[str, ...] = ()
    """Texts for the tokenizer, each counted as a whole."""
    tokens: int = 0
    """Tokens beside the texts: image patches and constants."""
    doubt: int = 0
    """By how many tokens `tokens` may be wrong."""
    unknown: str | None = None
    """Why it cannot be counted offline; None if it can."""

    def __add__(self, other: Rendered) -> Rendered:
        return Rendered(
            self.texts + other.texts,
            self.tokens + other.tokens,
            self.doubt + other.doubt,
            self.unknown or other.unknown,
        )


_RENDERED: WeakKeyDictionary[Block, dict[tuple[Surroundings, str], Rendered]] = WeakKeyDictionary()
"""What blocks are rendered as: the same come back on every turn. It keeps none alive, for a block may hold
megabytes of an image."""


def render(block: Block, around: Surroundings, model: str) -> Rendered:
    """Return `block` as the model is shown it among its neighbours, without the framing around it."""
    known = _RENDERED.setdefault(block, {})
    if (around, model) not in known:
        known[around, model] = _rendered(block, around, model)
    return known[around, model]


def _rendered(block: Block, around: Surroundings, model: str) -> Rendered:
    if around.dropped:
        return Rendered()
    if block.kind == "tool":
        return _tool(block, model)
    return _content(block.content, around, model)


# Fields of a tool or of content that are read here, or known not to be shown. Others may be in the prompt.
_FIELDS = {
    "tool": frozenset(
        {"type", "name", "description", "input_schema", "strict", "defer_loading", "eager_input_streaming"}
    ),
    "text": frozenset({"type", "text", "citations"}),
    "tool_use": frozenset({"type", "id", "name", "input"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error"}),
    "image": frozenset({"type", "source"}),
}
_AS_EVER: tuple[object, ...] = (None, [], {}, ["direct"], {"type": "direct"})
"""Values of a field that change nothing: empty ones, and that only the model itself calls tools."""


def _unread(kind: str, content: Mapping[str, Any]) -> str | None:
    """Return the first field of a block that nothing here reads, in words, or None."""
    known = _FIELDS.get(kind, content)
    for name, value in content.items():
        if name not in known and name != "cache_control" and value not in _AS_EVER:
            return f"{name} of a {kind}"
    return None


def _content(content: Mapping[str, Any], around: Surroundings, model: str) -> Rendered:
    kind = str(content.get("type", "text"))
    if unread := _unread(kind, content):
        return Rendered(unknown=unread)
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


def _tool(block: Block, model: str) -> Rendered:
    content = block.content
    if "input_schema" not in content or content.get("type", "custom") != "custom":
        return Rendered(unknown=f"the tool {content.get('type', content.get('name', '?'))} of the API's own")
    if is_deferred(block):
        return Rendered(unknown="a tool with defer_loading")
    if unread := _unread("tool", content):
        return Rendered(unknown=unread)
    definition = {"description": content.get("description")} if content.get("description") else {}
    definition |= {"name": content.get("name"), "parameters": content["input_schema"]}
    text = json.dumps(definition, ensure_ascii=model_row(model).escapes)
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
    """Render a tool result: bare where it is alone in its message, else with the name of its tool."""
    inner = content.get("content")
    parts = [inner] if isinstance(inner, str) else inner if isinstance(inner, list) else []
    texts: list[str] = []
    other = Rendered()
    if content.get("is_error") is True:
        other += Rendered(tokens=model_row(model).framing.is_error, doubt=1)
    before = "text"
    for part in parts:
        part = {"type": "text", "text": part} if isinstance(part, str) else as_mapping(part)
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


# Tokens around a part of a tool result that is no text, and around text after it; from few recordings.
_AROUND_IN_RESULT = {"image": 12, "document": 6, "text": 12}


def _image(content: Mapping[str, Any], model: str) -> Rendered:
    source = as_mapping(content.get("source"))
    if source.get("type") != "base64":
        return Rendered(unknown=f"an image by {source.get('type', '?')}")
    size = image_size(str(source.get("data", "")))
    if size is None:
        return Rendered(unknown=f"an image ({source.get('media_type', '?')}) whose size cannot be read")
    row = model_row(model)
    patches = image_tokens(*size, max_edge=row.images.edge, max_patches=row.images.patches)
    scaled = max(size) > row.images.edge or patches > row.images.patches * 0.97
    return Rendered(tokens=patches + row.image, doubt=patches // 50 if scaled else 0)


def _document(content: Mapping[str, Any], model: str) -> Rendered:
    source = as_mapping(content.get("source"))
    if source.get("type") != "text":
        return Rendered(unknown=f"a document ({source.get('media_type') or 'by ' + str(source.get('type'))})")
    if as_mapping(content.get("citations")).get("enabled"):
        return Rendered(unknown="a document with citations")
    around = model_row(model).framing
    titles = tuple(str(content[key]) for key in ("title", "context") if content.get(key))
    tokens = around.document + around.title * len(titles)
    return Rendered((str(source.get("data", "")), *titles), tokens, doubt=4 + 4 * len(titles))


def block_weights(
    prompt: Prompt, counter: Counter | None = None, *, unknown_rate: float = 0.25
) -> tuple[float, ...]:
    """Return approximate tokens of each block, framing included, without loading a tokenizer.

    There is one weight a block, in order, never negative; they serve to split a known total over the chain.
    What cannot be counted offline weighs `unknown_rate` tokens for each character of its JSON. Pass one
    `Memo` for many prompts of one conversation.
    """
    counter = counter or BuiltinCounter()
    row = model_row(prompt.model)
    around = envelope(prompt)
    if prompt.level("tools"):
        around += row.tools
    weights = []
    for block, place in zip(prompt.blocks, places(prompt), strict=True):
        rendered = render(block, place.surroundings, prompt.model)
        counted: float = sum(counter.count(text, row.family) for text in rendered.texts)
        if rendered.unknown is not None:
            counted = unknown_rate * len(json.dumps(block.content, default=str))
        weights.append(float(around + place.framing + rendered.tokens + counted))
        around = 0
    return tuple(weights)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a block's neighbours decide about its rendering."""

    tool: str | None = None
    """The name of the tool that a `tool_result` answers, if it is one of several in a message; else None."""
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


def envelope(prompt: Prompt) -> int:
    """Return the tokens around the whole prompt; 0 for a prompt without blocks."""
    if not prompt.blocks:
        return 0
    row = model_row(prompt.model)
    return row.framing.prompt + (row.system if prompt.level("system") else 0)


@dataclass(frozen=True, slots=True)
class Head:
    """The tools and the system prompt: what every turn of a conversation begins with."""

    blocks: tuple[Block, ...]
    model: str
    hides_deferred: bool
    """Whether deferred tools are out of the prompt, since nothing in it may bring them in."""

    @classmethod
    def of(cls, prompt: Prompt) -> Head:
        """Return the head of `prompt`: its blocks before the messages."""
        end = next((n for n, block in enumerate(prompt.blocks) if block.level == "messages"), None)
        blocks = prompt.blocks[:end]
        hides = any(map(is_deferred, blocks)) and not any(map(_finds_tools, prompt.blocks))
        return cls(blocks, prompt.model, hides)

    def places(self) -> tuple[Place, ...]:
        """Return one place for each block of the head, in order."""
        return tuple(map(self._place, self.blocks))

    def _place(self, block: Block) -> Place:
        if block.level != "tools":
            return Place(0)
        return Place(0, _DROPPED) if self.hides_deferred and is_deferred(block) else Place(1)


def places(prompt: Prompt) -> tuple[Place, ...]:
    """Return one place for each block of `prompt`, in order; a message's framing is with its first block."""
    head = Head.of(prompt)
    return *head.places(), *message_places(prompt.blocks[len(head.blocks) :], prompt.model)


def message_places(blocks: tuple[Block, ...], model: str) -> tuple[Place, ...]:
    """Return one place for each of `blocks`, which are those of the messages alone, in order."""
    return tuple(_Placing(blocks, model).walk())


class _Placing:
    def __init__(self, blocks: tuple[Block, ...], model: str) -> None:
        self._blocks = blocks
        row = model_row(model)
        self._around = row.framing
        self._tools = {
            str(block.content.get("id")): str(block.content.get("name"))
            for block in blocks
            if block.kind == "tool_use"
        }
        self._keeps_from = keeps_thinking_from(blocks, model)

    def walk(self) -> Iterator[Place]:
        for _, blocks in groupby(self._blocks, lambda block: block.role):
            yield from self._turn(list(blocks))

    def _turn(self, blocks: list[Block]) -> Iterator[Place]:
        """Yield the places of the messages of one role in a row, which the API merges into one."""
        around = self._around
        calls, results = (sum(block.kind == kind for block in blocks) for kind in ("tool_use", "tool_result"))
        frame = self._frame(blocks, calls, results)
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
            if is_dropped_thinking(block, self._keeps_from):
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
    """Return whether a block may bring deferred tools into the prompt."""
    if block.level == "tools":
        return str(block.content.get("type", "")).startswith("tool_search")
    inner = block.content.get("content")
    parts = inner if isinstance(inner, list) else [block.content]
    return any(isinstance(part, Mapping) and "tool_reference" in str(part.get("type")) for part in parts)


def keeps_thinking_from(blocks: Sequence[Block], model: str) -> int:
    """Return the index of the first message whose thinking stays in the prompt; 0 where all of it does.

    On models that drop it, the thinking of a turn goes once the user has said something that is no tool
    result; within a loop of tools it stays ("Thinking" of the platform's documentation).
    """
    if model_row(model).keeps_thinking:
        return 0
    said = (b.message or 0 for b in reversed(blocks) if b.role == "user" and b.kind != "tool_result")
    return next(said, 0)


def is_dropped_thinking(block: Block, keeps_from: int) -> bool:
    """Return whether the API leaves a block out, as thinking of a message before `keeps_from`."""
    return block.kind in THINKING and block.message is not None and block.message < keeps_from


def render_options(prompt: Prompt) -> dict[str, Rendered]:
    """Return what the options of a request put into the prompt, by option.

    `tools` stands for the tool-use prompt. An option that adds nothing is left out, so that adding it makes
    no difference.
    """
    found = {name: _option(name, value, prompt) for name, value in prompt.options.items()}
    found["tool_choice"] = _tool_choice(prompt)
    if prompt.offers_tools:
        found["tools"] = Rendered(tokens=model_row(prompt.model).tools, doubt=3)
    shows_schema = any(found[name].texts for name in ("output_format", "output_config") if name in found)
    if shows_schema and any(block.kind == "tool_result" for block in prompt.blocks):
        found[SCHEMA_IN_A_LOOP] = Rendered(doubt=_SCHEMA_IN_A_LOOP)
    if Head.of(prompt).hides_deferred:
        found["defer_loading"] = _deferred(prompt.model)
    if any(beta.startswith(EFFICIENT) for beta in counted_betas(prompt)):
        found["betas"] = Rendered(unknown="the beta for token-efficient tools")
    return {name: rendered for name, rendered in found.items() if rendered != Rendered()}


SCHEMA_IN_A_LOOP = "output_format in a tool loop"
"""Stands apart from the schema itself, so that it cancels where both of two prompts have it."""
_SCHEMA_IN_A_LOOP = 8
"""Tokens that a schema may count more where tool results are in the prompt: reported from elsewhere, not
measured here. All 16 recordings at hand show 1, as recordings without tool results do."""
_NOT_SHOWN = frozenset({"speed", "inference_geo", "tool_choice", "betas", "fallbacks"})


def _option(name: str, value: Any, prompt: Prompt) -> Rendered:
    if name in _NOT_SHOWN or value in ([], {}, {"edits": []}):
        return Rendered()
    if name == "thinking":
        return _thinking(str(as_mapping(value).get("type")), prompt)
    if name == "output_format":
        return _format(value, prompt.model)
    if name == "output_config":
        unread = [key for key in as_mapping(value) if key not in ("format", "task_budget", "effort")]
        if unread:
            return Rendered(
                (json.dumps(value, default=str),), unknown=f"the option output_config.{unread[0]}"
            )
        rendered = _format(as_mapping(value).get("format"), prompt.model)
        if as_mapping(value).get("task_budget"):
            rendered += Rendered(tokens=model_row(prompt.model).framing.task_budget, doubt=2)
        return rendered
    return Rendered((json.dumps(value, default=str),), unknown=f"the option {name}")


def _thinking(kind: str, prompt: Prompt) -> Rendered:
    row = model_row(prompt.model)
    if kind == "enabled":
        interleaved = any(beta.startswith(INTERLEAVED) for beta in counted_betas(prompt))
        between = row.interleaved if interleaved else 0
        unclear = row.interleaved if prompt.betas is None and prompt.level("tools") else 0
        return Rendered(tokens=row.thinking + between, doubt=2 + unclear)
    return Rendered(tokens=row.adaptive, doubt=2) if kind == "adaptive" else Rendered()


def _format(value: object, model: str) -> Rendered:
    schema = as_mapping(value).get("schema")
    if schema is None:
        return Rendered()
    return Rendered(
        (json.dumps(schema, indent=2, ensure_ascii=False),), model_row(model).framing.schema, doubt=1
    )


def _tool_choice(prompt: Prompt) -> Rendered:
    choice = as_mapping(prompt.options.get("tool_choice"))
    row = model_row(prompt.model)
    if not prompt.level("tools"):
        return Rendered()
    serial = serial_tool_use(prompt)
    if choice.get("type") == "any":
        return Rendered(tokens=row.any_tool - row.tools, doubt=3) + serial
    if choice.get("type") == "tool":
        return Rendered((str(choice.get("name", "")),), row.one_tool - row.tools, doubt=5) + serial
    return serial


def _deferred(model: str) -> Rendered:
    """Return what the prompt says of deferred tools that nothing has found: the same for any number.

    Where the model's tokenizer family was not measured, the middle of the measured ones stands in, in doubt
    by half their distance.
    """
    own = model_row(model).framing.deferred
    known = [framing.deferred for framing in FRAMINGS.values() if framing.deferred is not None]
    low, high = (min(known), max(known)) if own is None else (own, own)
    return Rendered(tokens=(low + high) // 2, doubt=(high - low + 1) // 2 + _DEFERRED_DOUBT)


_DEFERRED_DOUBT = 4
"""Models of one tokenizer family differ by so much in it: 0 on Haiku 4.5 and 4 on Sonnet 4.5."""


def serial_tool_use(prompt: Prompt) -> Rendered:
    """Return what `disable_parallel_tool_use` adds to a prompt that has tools.

    A forced tool was measured only where it is named (`tool`): `any` is taken to lie between that and a free
    choice. A model that was not measured is taken to lie between all that were.
    """
    choice = as_mapping(prompt.options.get("tool_choice"))
    if choice.get("disable_parallel_tool_use") is not True:
        return Rendered()
    row, kind = model_row(prompt.model), choice.get("type")
    figures = [row.serial] if kind != "tool" else []
    figures += [row.serial_forced] if kind in ("any", "tool") else []
    if None in figures:
        figures = [figure for other in MODELS for figure in (other.serial, other.serial_forced)]
    known = [figure for figure in figures if figure is not None]
    low, high = min(known), max(known)
    return Rendered(tokens=(low + high) // 2, doubt=(high - low + 1) // 2 + 3)


OUTSIDE_THE_CACHE = (
    *("prompt-caching-", "extended-cache-ttl-", "cache-diagnosis-", "message-batches-", "token-counting-"),
    *("oauth-", "oidc-federation-"),
)
"""Prefixes of the betas about caching, transport and signing in. Every other beta counts for the cache:
"Cache diagnostics" names the set of betas among what a prompt depends on."""
_OUTSIDE_THE_ANSWER = (
    *("context-1m-", "output-128k-", "output-300k-", "model-context-window-exceeded-"),  # limits
    *("files-api-", "structured-outputs-", "message-threads-"),  # they take what the body asks for
    *("thinking-token-count-", "user-profiles-", "fallback-credit-"),  # accounts
)
INTERLEAVED, EFFICIENT = "interleaved-thinking-", "token-efficient-tools-"


def counted_betas(prompt: Prompt) -> frozenset[str]:
    """Return the beta headers that may change the prompt or the answer; empty where no headers were kept.

    Interleaved thinking counts only with thinking and tools (the platform's documentation of 2025). Efficient
    tools count only with tools, on a model that knows that beta.
    """
    idle = [*OUTSIDE_THE_CACHE, *_OUTSIDE_THE_ANSWER]
    tools, thinking = prompt.level("tools"), prompt.options.get("thinking")
    if not tools or not isinstance(thinking, dict) or thinking.get("type") != "enabled":
        idle.append(INTERLEAVED)
    if not tools or not model_row(prompt.model).efficient_tools:
        idle.append(EFFICIENT)
    return frozenset(beta for beta in prompt.betas or () if not beta.startswith(tuple(idle)))


_HEADER = 64 * 1024  # bytes read first: a JPEG may carry metadata before its size


def image_size(data: str) -> tuple[int, int] | None:
    """Return the width and height in pixels of a base64 PNG, JPEG, GIF or WebP, or None if unreadable."""
    for length in (_HEADER, len(data)):
        try:
            header = base64.b64decode(data[: length // 4 * 4])
        except (binascii.Error, ValueError):
            return None
        for magic, read in _READERS.items():
            if header.startswith(magic):
                size = read(header)
                if size is not None and min(size) > 0:
                    return size
        if length >= len(data):
            break
    return None


def image_tokens(width: int, height: int, *, max_edge: int, max_patches: int) -> int:
    """Return the tokens of an image: its patches of 28 x 28 pixels, once scaled down to both limits.

    The rule is that of Anthropic's "vision" page (2026-09). `width`, `height` and `max_edge` are in pixels.
    """
    scale = min(1.0, max_edge / max(width, height))
    while (patches := _patches(width * scale, height * scale)) > max_patches:
        scale *= min(0.999, math.sqrt(max_patches / patches))
    return patches


def _patches(width: float, height: float) -> int:
    return math.ceil(max(1, round(width)) / 28) * math.ceil(max(1, round(height)) / 28)


def _png(header: bytes) -> tuple[int, int] | None:
    return _unpack(">II", header, 16)


def _gif(header: bytes) -> tuple[int, int] | None:
    return _unpack("<HH", header, 6)


def _jpeg(header: bytes) -> tuple[int, int] | None:
    """Read width and height from the first start-of-frame segment, where the height comes first."""
    at = 2
    while at + 9 <= len(header) and header[at] == 0xFF:
        marker = header[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", header, at + 5)
            return width, height
        at += 2 + struct.unpack_from(">H", header, at + 2)[0]
    return None


def _webp(header: bytes) -> tuple[int, int] | None:
    if header[8:12] != b"WEBP" or len(header) < 30:
        return None
    kind = header[12:16]
    if kind == b"VP8X":  # extended: 24-bit sizes, minus one
        return 1 + int.from_bytes(header[24:27], "little"), 1 + int.from_bytes(header[27:30], "little")
    if kind == b"VP8L":  # lossless: 14-bit sizes, minus one
        bits = int.from_bytes(header[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":  # lossy: 14-bit sizes after the start code
        width, height = struct.unpack_from("<HH", header, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _unpack(layout: str, header: bytes, at: int) -> tuple[int, int] | None:
    if len(header) < at + struct.calcsize(layout):
        return None
    first, second = struct.unpack_from(layout, header, at)
    return int(first), int(second)


_READERS: dict[bytes, Callable[[bytes], tuple[int, int] | None]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8": _jpeg,
    b"GIF8": _gif,
    b"RIFF": _webp,
}
