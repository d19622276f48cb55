"""How the API renders a prompt before it is tokenised: each block as text, framing and what is unknown.

The forms were derived from recorded totals, which they reproduce to the token: see docs/accuracy.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pytest_tokenbudget.metering.builtin_counter import BuiltinCounter
from pytest_tokenbudget.metering.counting import Counter
from pytest_tokenbudget.metering.images import image_size, image_tokens
from pytest_tokenbudget.metering.models import model_row
from pytest_tokenbudget.metering.places import ALONE, Surroundings, envelope, places
from pytest_tokenbudget.wire.prompt import THINKING, Block, Prompt, as_mapping, is_deferred

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


@lru_cache(maxsize=256)  # the same blocks come back on every turn
def render(block: Block, around: Surroundings, model: str) -> Rendered:
    """`block` as it is shown among its neighbours, without the framing."""
    if around.dropped:
        return Rendered()
    if block.kind == "tool":
        return _tool(block, model)
    return _content(block.content, around, model)


# What is read of a tool or of content, or is known not to be shown. Anything else may be in the prompt.
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
"""What a field says that changes nothing: who may call a tool, and who did, is the model itself."""


def _unread(kind: str, content: Mapping[str, Any]) -> str | None:
    """What a block holds that is not read."""
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
    """A result alone is bare; among several each names its tool."""
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


# Tokens around what is no text in a tool result, and around text that follows it; from few recordings.
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


def block_weights(prompt: Prompt, counter: Counter | None = None) -> tuple[float, ...]:
    """Approximate tokens of each block of `prompt`, framing included, cheaply: no tokenizer is loaded.

    One weight a block, in order, for splitting a known total over the chain; never negative. What cannot be
    counted offline weighs a quarter of the characters of its JSON. Hand in one `Memo` for many prompts of one
    conversation.
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
            counted = len(json.dumps(block.content, default=str)) / 4
        weights.append(float(around + place.framing + rendered.tokens + counted))
        around = 0
    return tuple(weights)
