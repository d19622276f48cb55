"""A run out of its turns: every pair of a recorded and a new request, measured."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_tokenbudget.metering.estimate import Estimate
from pytest_tokenbudget.model import Basis, Usage
from pytest_tokenbudget.wire.exchange import Exchange, Pair, Request


@dataclass(frozen=True, slots=True)
class Turn:
    """One billed turn of a run."""

    pair: Pair
    usage: Usage
    """Now. Where the basis is unknown: as recorded, and never to be judged."""
    recorded: Usage | None
    """What the recorded answer billed, for the recorded request."""
    estimate: Estimate
    """How the prompt tokens of `usage` were found, and the parts of their difference."""
    cache_note: str | None = None
    """Why the split into uncached, written and read is not simulated (server tools, PDFs, URL images)."""

    @property
    def basis(self) -> Basis:
        """Of the prompt tokens; output tokens are always the recorded answer's."""
        return self.estimate.basis


@dataclass(frozen=True, slots=True)
class Run:
    """What one scenario did: its turns in the order it asked, and how it left the recording."""

    turns: tuple[Turn, ...] = ()
    misses: tuple[Request, ...] = ()
    """Requests that the recording cannot answer."""
    unplayed: tuple[Exchange, ...] = ()
    """Recorded turns that nobody asked for any more."""
    reshaped: tuple[Pair, ...] = ()
    """Pairs whose place in the conversation is another than the recorded one's."""

    @property
    def usage(self) -> Usage:
        """All turns together."""
        return sum((turn.usage for turn in self.turns), Usage())

    @property
    def basis(self) -> Basis:
        """The weakest of the turns'."""
        return Basis.weakest(turn.basis for turn in self.turns)

    @property
    def same_trajectory(self) -> bool:
        """Whether the recording still answers what the agent asks, turn for turn."""
        return not (self.misses or self.unplayed or self.reshaped)
