"""How the API renders a prompt before it is tokenised, and what it adds beside the visible text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_tokenbudget.wire.prompt import Block, Prompt


@dataclass(frozen=True, slots=True)
class Rendered:
    """A block as the model is shown it: text for the tokenizer, and tokens that are no text."""

    text: str = ""
    tokens: float = 0.0
    """Framing and image patches."""


def block_weights(prompt: Prompt) -> tuple[float, ...]:
    """Approximate tokens of each block of `prompt`, framing included, cheaply: no tokenizer is loaded.

    One weight a block, in order, for splitting a known total over the chain; never negative. What cannot be
    counted offline gets the size of its JSON.
    """
    weights = []
    previous = None
    for block in prompt.blocks:
        weight = len(_text(block.content)) / 3.6
        if block.level == "tools":
            weight += 10 if previous else 300
        elif block.level == "messages" and (previous is None or block.message != previous.message):
            weight += 4
        weights.append(weight)
        previous = block
    return tuple(weights)


def _text(content: Mapping[str, Any]) -> str:
    if content.get("type") == "text":
        return str(content.get("text", ""))
    return json.dumps(content, ensure_ascii=False)
