"""Message threads: the API keeps a conversation, and a request that continues it holds only what is new.

To be compared and counted, such a request is read as the conversation that the API makes of it ("Message
threads" of the platform's docs; the SDK's tool runner and Claude Code send them by themselves). Otherwise a
longer system prompt would show in the first request alone, and every later turn would keep its old number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_tokenbudget.wire.bodies import parse_body

_KEPT = ("system", "tools")
"""What a thread keeps from the request that began it."""


class MessageThreads:
    """The conversations that the API keeps, each under the id of the answer that a request may continue."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}

    def whole(self, body: bytes) -> bytes | None:
        """A request's body as it would be without a thread; None where it continues one that is not known."""
        if not may_be_of_a_thread(body):
            return body
        whole = self._whole(body)
        if whole is None:
            return None
        text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass")

    def keep(self, body: bytes, message: Mapping[str, Any] | None) -> None:
        """A request with this body was answered by this message: the next one may continue from there."""
        whole = self._whole(body) if message and may_be_of_a_thread(body) else None
        if whole is None or message is None or "id" not in message:
            return
        said = {"role": "assistant", "content": message.get("content", [])}
        kept = {name: whole[name] for name in _KEPT if name in whole}
        self._kept[str(message["id"])] = {**kept, "messages": [*_unmarked(whole["messages"]), said]}

    def _whole(self, body: bytes) -> dict[str, Any] | None:
        sent = parse_body(body)
        if sent is None or not isinstance(sent.get("messages"), list):
            return None
        thread = sent.pop("thread", None)
        if not isinstance(thread, Mapping) or thread.get("type") != "continue":
            return sent
        kept = self._kept.get(str(thread.get("previous_message_id")))
        if kept is None:
            return None
        own = {name: value for name, value in sent.items() if name not in _KEPT}
        return {**own, **kept, "messages": [*kept["messages"], *sent["messages"]]}


def may_be_of_a_thread(body: bytes) -> bool:
    """Whether a request may begin or continue a thread, at a glance."""
    return b'"thread"' in body


def _unmarked(messages: Iterable[Any]) -> list[Any]:
    """Messages without their cache breakpoints, which are those of the request that sent them."""
    return [_without_marks(message) if isinstance(message, Mapping) else message for message in messages]


def _without_marks(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_without_mark(block) for block in content]}


def _without_mark(block: Any) -> Any:
    if not isinstance(block, Mapping):
        return block
    return {key: value for key, value in block.items() if key != "cache_control"}
