"""Tokens of a changed request: what was recorded, plus the counted difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pytest_tokenbudget.metering.calibration import Known, doubt
from pytest_tokenbudget.metering.comparison import Piece, compare
from pytest_tokenbudget.metering.counting import Counter
from pytest_tokenbudget.metering.models import STAND_IN, model_row
from pytest_tokenbudget.model import Basis
from pytest_tokenbudget.wire.prompt import Block, Prompt


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of the difference between a recorded prompt and the one sent now."""

    where: str
    """Its place in the new body, or in the recorded one where it was removed: `system[0]`, `tools[2]`,
    `messages[4].content[1]`; or an option (`tool_choice`, `thinking`, ...), `tools` for the tool-use prompt,
    `model`, or `framing`."""
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
    """What cannot be counted, and where; or why an exact counter only estimates."""


_NOTHING: Mapping[str, int] = MappingProxyType({})
_WELL_ENOUGH = 0.01  # of the prompt


def estimate(
    recorded: Known,
    new: Prompt,
    counter: Counter,
    *,
    near: Sequence[Known] = (),
    answers: Mapping[str, int] = _NOTHING,
) -> Estimate:
    """Prompt tokens of `new`: those of the request that it is paired with, plus the difference.

    `near` holds a few other recorded requests of the scenario (the turns before and after this one): where
    the paired one tells little, the one that differs least is counted from. `answers` holds what earlier
    answers of the scenario add to a prompt (`history.fed_back_tokens`), so that no verbatim assistant turn
    is counted.
    """
    best = _Measured.of(recorded, new, counter, answers)
    # What is counted well enough gains nothing from another base.
    for other in near if best.half_width > _WELL_ENOUGH * recorded.prompt_tokens else ():
        measured = _Measured.of(other, new, counter, answers)
        if measured.half_width < best.half_width:
            best = measured
    return best.estimate(recorded.prompt_tokens)


def assumed(*models: str) -> str | None:
    """Return a sentence that names those of `models` that have no row of their own, or None if all have."""
    names = list(dict.fromkeys(model for model in models if model_row(model) is STAND_IN))
    if not names:
        return None
    verb = "is not a known model" if len(names) == 1 else "are not known models"
    return f"{' and '.join(names)} {verb}: what changed is estimated as the newest models read it"


@dataclass(frozen=True, slots=True)
class _Measured:
    """The difference of a new prompt to one that is known."""

    base: Known
    pieces: tuple[Piece, ...]
    half_width: float
    """Of the interval: 0 where nothing changed, infinite where it cannot be counted."""
    basis: Basis
    reason: str | None = None

    @classmethod
    def of(cls, base: Known, new: Prompt, counter: Counter, answers: Mapping[str, int]) -> _Measured:
        pieces = compare(base, new, counter, answers)
        if not pieces:
            return cls(base, (), 0.0, Basis.RECORDED)
        reasons = [f"{piece.where}: {piece.unknown}" for piece in pieces if piece.unknown]
        if base.worked:
            reasons.insert(0, base.worked)
        if reasons:
            return cls(base, pieces, math.inf, Basis.UNKNOWN, "; ".join(reasons))
        constants = sum(piece.doubt for piece in pieces)
        reason = assumed(base.prompt.model, new.model)
        edited, guessed = sum(piece.edited for piece in pieces), sum(piece.guessed for piece in pieces)
        half_width = doubt(edited, guessed, constants, counter, known=reason is None)
        certain = counter.exact and reason is None and not constants
        basis = Basis.COUNTED if certain else Basis.ESTIMATED
        return cls(base, pieces, half_width, basis, reason)

    def estimate(self, recorded_prompt_tokens: int) -> Estimate:
        if self.basis is Basis.UNKNOWN:
            return Estimate(None, self.basis, reason=self.reason)
        parts = _parts(self.pieces, self.base.prompt_tokens - recorded_prompt_tokens)
        total = recorded_prompt_tokens + sum(part.tokens for part in parts)
        if total <= 0:
            told = f"the recorded answer reports {self.base.prompt_tokens} prompt tokens"
            reason = f"{told}, no more than were taken out of its prompt"
            return Estimate(None, Basis.UNKNOWN, reason=reason)
        half = math.ceil(self.half_width)
        return Estimate(total, self.basis, max(0, total - half), total + half, parts, self.reason)


def _parts(pieces: tuple[Piece, ...], apart: int) -> tuple[Part, ...]:
    """Rounded so that they add up; `apart` is what another request that was counted from differs by."""
    if apart:
        pieces = (*pieces, Piece("framing", apart))
    parts, exact, rounded = [], 0.0, 0
    for piece in pieces:
        exact += piece.tokens
        tokens = round(exact) - rounded
        rounded += tokens
        parts.append(Part(piece.where, _change(piece), tokens, piece.was, piece.now))
    return tuple(parts)


def _change(piece: Piece) -> Literal["added", "removed", "changed"]:
    if (piece.was is None) == (piece.now is None):
        return "changed"
    return "added" if piece.was is None else "removed"
