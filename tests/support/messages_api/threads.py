"""Message threads: a request that continues one holds only what is new; the server has kept the rest."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from .prompt import Body


class UnknownThreadError(Exception):
    """There is no such answer to continue from."""


class Threads:
    """The conversations of one workspace, by the id of the last answer."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def whole(self, body: Body) -> Body:
        """What the model is shown; raises UnknownThreadError."""
        thread = body.get("thread")
        if not thread or thread["type"] == "create":
            return body
        with self._lock:
            kept = self._kept.get(thread["previous_message_id"])
        if kept is None:
            raise UnknownThreadError
        return {**body, **kept, "messages": [*kept["messages"], *body["messages"]]}

    def keep(self, body: Body, message: Mapping[str, Any]) -> None:
        """Keep a conversation, its system prompt and its tools; `body` is the whole one."""
        if not body.get("thread"):
            return
        said = {"role": "assistant", "content": message["content"]}
        kept = {name: body[name] for name in ("system", "tools") if name in body}
        messages = [{**sent, "content": _plain(sent["content"])} for sent in body["messages"]]
        with self._lock:
            self._kept[message["id"]] = {**kept, "messages": [*messages, said]}


def _plain(content: str | Sequence[Mapping[str, Any]]) -> Any:
    """Without the breakpoints, which were those of the request that is over."""
    if isinstance(content, str):
        return content
    return [{key: value for key, value in block.items() if key != "cache_control"} for block in content]
