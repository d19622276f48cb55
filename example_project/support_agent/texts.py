"""The agent's prompts, tool definitions and sources: files that are read, not strings in code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def prompt(name: str) -> str:
    """A prompt of `prompts/`."""
    return (_HERE / "prompts" / f"{name}.md").read_text(encoding="utf-8")


def tool(name: str) -> Any:
    """A tool definition of `tools/`, its keys in the order of the file: the prompt cache is byte-exact."""
    return json.loads((_HERE / "tools" / f"{name}.json").read_text(encoding="utf-8"))


def passages(source: str) -> list[str]:
    """The passages of a file of `sources/`, each with its heading."""
    text = (_HERE / "sources" / f"{source}.md").read_text(encoding="utf-8")
    return [f"## {passage.strip()}" for passage in text.split("## ")[1:]]
