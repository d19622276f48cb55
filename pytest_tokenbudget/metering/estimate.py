"""Tokens of a changed request: what was recorded, plus the counted difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_tokenbudget.model import Basis
from pytest_tokenbudget.wire.prompt import Block


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of the difference between a recorded prompt and the one sent now."""

    where: str
    """Its place in the new body, or in the recorded one where it was removed: `system[0]`, `tools[2]`,
    `messages[4].content[1]`; or an option (`tool_choice`, `thinking`, ...) or `framing`."""
    change: Literal["added", "removed", "changed"]
    tokens: int
    """Signed: what the prompt grew by."""
    was: Block | None = None
    now: Block | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Prompt tokens of one request, with their basis and, where they are estimated, their interval."""

    prompt_tokens: int | None
    """None where they cannot be counted offline."""
    basis: Basis
    low: int | None = None
    high: int | None = None
    """The interval that holds the truth in at least nine of ten cases; `prompt_tokens` twice if recorded."""
    parts: tuple[Part, ...] = ()
    """They add up to `prompt_tokens` minus the recorded prompt tokens."""
    reason: str | None = None
    """Of an unknown: what cannot be counted, and where."""
