"""What differs from model to model: tokenizer, cache minimum, and the hidden prompt that tools bring."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .counting import Family


@dataclass(frozen=True)
class Model:
    """The published and measured constants of one model."""

    name: str
    family: Family
    cache_minimum: int
    tool_prompt: int
    """Tokens of the hidden system prompt when there is a tool and tool_choice is auto or none."""
    forced_tool: tuple[int, int]
    """What tool_choice `any` and `tool` add to it."""
    ascii_tools: bool = False
    """Whether tool definitions are rendered with \\u escapes (up to the 4.5 models)."""
    extra: int = 0
    """Tokens of every request beyond its family's framing."""


_MODELS = (
    Model("claude-haiku-4-5", "3.0", 4096, 497, (92, 99), ascii_tools=True),
    Model("claude-sonnet-4-5", "3.0", 1024, 497, (92, 99), ascii_tools=True),
    Model("claude-opus-4-5", "3.0", 4096, 497, (92, 99), ascii_tools=True),
    Model("claude-sonnet-4-6", "3.0", 1024, 498, (92, 98), extra=1),
    Model("claude-opus-4-6", "3.0", 4096, 498, (92, 98)),
    Model("claude-opus-4-7", "4.7", 2048, 677, (129, 129)),
    Model("claude-opus-4-8", "4.8", 1024, 290, (120, 120)),
    Model("claude-sonnet-5", "4.8", 1024, 356, (119, 132)),
)
_PREFIX = re.compile(r"^(?:[a-z]+\.)?(?:anthropic\.)?")
_SUFFIX = re.compile(r"(?:[-@]\d{8})?(?:-v\d+(?::\d+)?)?$")


def find_model(name: str) -> Model | None:
    """The model of a name: an alias, a dated snapshot, or its Bedrock or Vertex form; None if unknown."""
    plain = _SUFFIX.sub("", _PREFIX.sub("", name))
    return next((model for model in _MODELS if model.name == plain), None)
