"""Parts of request bodies, as the Messages API takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

EPHEMERAL = {"type": "ephemeral"}
"""A `cache_control` of five minutes."""


def text(words: str = "Hello", mark: Mapping[str, Any] | None = None, **more: Any) -> Json:
    """Return a text block; `mark` holds its `cache_control`."""
    return {"type": "text", "text": words, **(mark or {}), **more}


def tool(name: str, mark: Mapping[str, Any] | None = None, **more: Any) -> Json:
    """Return the definition of a tool that takes an object."""
    return {"name": name, "input_schema": {"type": "object"}, **(mark or {}), **more}


def call(name: str, id_: str = "toolu_1", **arguments: Any) -> Json:
    """Return the block of a tool call."""
    return {"type": "tool_use", "id": id_, "name": name, "input": arguments}


def user(*content: Any) -> Json:
    """Return a message of the user: of one string, or of blocks."""
    return _message("user", content)


def assistant(*content: Any) -> Json:
    """Return a message of the model: of one string, or of blocks."""
    return _message("assistant", content)


def body(*content: Any, **more: Any) -> Json:
    """Return a request with one message of the user: of one string, or of blocks."""
    messages = [user(*content or ("Hello",))]
    return {"model": "claude-haiku-4-5", "max_tokens": 100, "messages": messages, **more}


def compact(value: object) -> bytes:
    """Return JSON as the SDKs send it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _message(role: str, content: tuple[Any, ...]) -> Json:
    only_words = len(content) == 1 and isinstance(content[0], str)
    return {"role": role, "content": content[0] if only_words else list(content)}
