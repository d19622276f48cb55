"""A finding: one cause, its place, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Source:
    """A line range of a file of the repository; `file` is relative to the root, with forward slashes."""

    file: str
    line: int
    end_line: int | None = None

    def __str__(self) -> str:
        span = "" if self.end_line in (None, self.line) else f"-{self.end_line}"
        return f"{self.file}:{self.line}{span}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause of a change in tokens, or one way to spend fewer."""

    kind: str
    """`growth`, `cache_break`, `turns_changed`, `model_changed`, `unknown`, `lever_caching`, ..."""
    where: str
    """`system[0]`, `tools[search].description`, `messages[4] tool_result`, `turn 3`, ..."""
    text: str
    """One plain sentence; may quote untrusted prompt text, so every report escapes it."""
    tokens: int | None = None
    """A run, signed; None where it cannot be told."""
    cost_usd: Decimal | None = None
    """A run, signed; None where no price is known."""
    source: Source | None = None
