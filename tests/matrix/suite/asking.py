"""What the rows of the matrix ask, and of whom: the same on every client, so that only the way differs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

URL = os.environ["MATRIX_URL"]
"""Of the server, which is down while its answers are replayed."""
COMPRESSING_URL = os.environ["MATRIX_COMPRESSING_URL"]
"""Of one that compresses its answers."""
CHANGED = "MATRIX_CHANGED" in os.environ
"""Whether the agents have another prompt now."""
CALLING = "MATRIX_CALLING" in os.environ
"""Whether the server is up."""
KEY = "sk-ant-api03-test-key"
MODEL = "claude-haiku-4-5"
MORE = " Keep your sentences short. Promise nothing that we cannot keep, and say a refusal kindly." * 2


def host(name: str) -> str:
    """The server by another name, as gateways and clouds have it."""
    return f"http://{name}:{urlsplit(URL).port}"


@dataclass(frozen=True)
class Row:
    """One row while it runs; its name is in its prompts, so that the server's charges can be told apart."""

    name: str

    @property
    def system(self) -> str:
        return f"You answer letters. Scenario: {self.name}.{MORE if CHANGED else ''}"

    def request(self, words: str = "Hello", **more: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": words}]
        return {"model": MODEL, "max_tokens": 300, "system": self.system, "messages": messages, **more}


def echo(words: str = "Hello") -> str:
    """What the server answers."""
    return f"You said: {words}"


def text(message: Any) -> str:
    """Of an answer as the SDK has it, or as JSON."""
    content = message["content"] if isinstance(message, dict) else message.content
    return "".join(block["text"] if isinstance(block, dict) else block.text for block in content)


def deltas(lines: list[str]) -> str:
    """The text of a stream of server-sent events."""
    import json

    events = [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]
    assert events[-1]["type"] == "message_stop"
    return "".join(event["delta"].get("text", "") for event in events if event["type"].endswith("delta"))
