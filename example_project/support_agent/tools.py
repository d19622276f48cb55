"""Tool calls of the model, carried out in the shop."""

from __future__ import annotations

import json
from typing import Any

from support_agent.shop import Shop, UnknownNumberError


def run_tool(call: Any, shop: Shop) -> dict[str, Any]:
    """The `tool_result` of a `tool_use` block; an unknown number is an error that the model reads."""
    try:
        content, failed = getattr(shop, call.name)(**call.input), False
    except UnknownNumberError as error:
        content, failed = str(error), True
    result = {"type": "tool_result", "tool_use_id": call.id, "content": _text(content)}
    return {**result, "is_error": True} if failed else result


def _text(content: object) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
