"""What a ledger does with a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_tokenbudget.replay.sent import Sent
from pytest_tokenbudget.wire.exchange import Request

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104  # compared, never bound


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one cassette in one run."""

    calls: bool = False
    """What the recording does not answer is really sent."""
    exact: bool = False
    """The recording answers only what is the same to the letter."""
    repeats: bool = False
    """What was answered is answered again, as one more turn."""
    free_hosts: frozenset[str] = frozenset()
    """Hosts whose traffic, beside model calls, passes by unrecorded; on loopback all but an SDK's does."""
    before_call: Callable[[Request], None] | None = None
    """Asked before a real model call; what it raises stops the call, past the agent."""
    after_call: Callable[[Request, Mapping[str, Any]], None] | None = None
    """Told the answer to a real model call."""
    untouched: bool = False
    """Answers are served as vcr serves them, waits and compression included."""
    redact: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    """Hides in a request what was hidden in the recording, before the two are compared."""
    asker: Callable[[], str] | None = None
    """Names the test or fixture that asks, where it may be another than the one that opened the cassette."""

    def passes_by(self, sent: Sent) -> bool:
        """Whether a request is neither recorded nor refused: it goes to a server of the test itself."""
        own = sent.host in self.free_hosts or (sent.host in _LOOPBACK and not sent.is_of_an_sdk)
        return sent.request is None and own


@dataclass(frozen=True, slots=True)
class Playable:
    """What a cassette of the user's may answer one request with, by the options that it was opened with."""

    numbers: frozenset[int] = frozenset()
    """Of its interactions."""
    refusal: str = ""
    """Why there never were any; empty where they may be played out."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a recording answers a request with."""

    number: int
    """Of the recorded interaction, from 0."""
    answer: dict[str, Any]
    """In vcr's shape; the caller's own."""
