"""What a scenario did: its turns, measured, and how it left the recording."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pytest_tokenbudget.metering.estimate import Estimate
from pytest_tokenbudget.metering.prompt_cache import Outcome
from pytest_tokenbudget.model import Basis, Usage
from pytest_tokenbudget.wire.exchange import Exchange, Pair, Request


@dataclass(frozen=True, slots=True)
class Turn:
    """One billed turn of a run."""

    pair: Pair
    usage: Usage
    """Now. Where the basis is unknown: as recorded, and never to be judged."""
    recorded: Usage | None
    """What the recorded answer billed, for the recorded request; None for a real call of this run."""
    estimate: Estimate
    """How the prompt tokens of `usage` were found, and the parts of their difference."""
    cache_note: str | None = None
    """Why the split into uncached, written and read is not simulated (server tools, PDFs, URL images)."""
    cache_before: Outcome | None = None
    """The simulated cache at the recorded request; None where nothing in the run changed."""
    cache_now: Outcome | None = None
    """The simulated cache at this request; None where nothing in the run changed."""

    @property
    def basis(self) -> Basis:
        """Of the prompt tokens; output tokens are always the recorded answer's."""
        return self.estimate.basis


@dataclass(frozen=True, slots=True)
class Run:
    """What one scenario did: its turns in recorded order, and how it left the recording. `a + b` joins."""

    turns: tuple[Turn, ...] = ()
    misses: tuple[Request, ...] = ()
    """Requests that the recording cannot answer."""
    unplayed: tuple[Exchange, ...] = ()
    """Recorded turns that nobody asked for any more."""
    reshaped: tuple[Pair, ...] = ()
    """Pairs whose place in the conversation is another than the recorded one's."""
    problems: tuple[str, ...] = ()
    """What else keeps this run from being judged, in plain sentences."""
    leftovers: tuple[Exchange, ...] = ()
    """As `unplayed`, of a cassette that may also hold what others ask for: by themselves they say nothing."""

    def against(self, baseline: Usage | None) -> Run:
        """With its leftovers as unplayed turns, where the baseline has more turns than the run."""
        if baseline is None or self.usage.turns >= baseline.turns:
            return self
        return replace(self, unplayed=self.unplayed + self.leftovers, leftovers=())

    @property
    def usage(self) -> Usage:
        """All turns together."""
        return sum((turn.usage for turn in self.turns), Usage())

    @property
    def basis(self) -> Basis:
        """The weakest of the turns'."""
        return Basis.weakest(turn.basis for turn in self.turns)

    @property
    def stale(self) -> bool:
        """Whether the recording no longer answers what the agent asks, turn for turn, in numbers."""
        left = self.misses or self.unplayed or self.reshaped or self.problems
        return bool(left) or self.basis == Basis.UNKNOWN

    def __add__(self, other: Run) -> Run:
        return Run(
            self.turns + other.turns,
            self.misses + other.misses,
            self.unplayed + other.unplayed,
            self.reshaped + other.reshaped,
            self.problems + other.problems,
            self.leftovers + other.leftovers,
        )
