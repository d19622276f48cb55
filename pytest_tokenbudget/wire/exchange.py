"""A request, its answer, and the pair of a recorded request with the one that the agent sends now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pytest_tokenbudget.model import Basis, Paired, Usage
from pytest_tokenbudget.wire.endpoints import Endpoint
from pytest_tokenbudget.wire.prompt import Prompt

PLACEHOLDER = "(no answer is recorded for this request)"
"""What stands in for the text of an answer that no recording has, so that a run goes on."""


@dataclass(frozen=True, slots=True)
class Request:
    """A model request as it was sent: where to, what, and a digest of its exact bytes."""

    endpoint: Endpoint
    prompt: Prompt
    digest: str
    """Of method, path and the body without what differs on every run (`cache_control` stays in)."""
    session: str | None = None
    """Which agent of a process sent it, where headers tell (subagents of Claude Code)."""
    custom_id: str | None = None
    """Of an entry of a message batch."""
    body: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """As JSON, in the order of keys that it was read in; None where there is none."""
    host: str = field(default="", compare=False)
    """That it was sent to, in lower case."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was accepted in place of a recorded turn."""

    request: Request | None
    """None where the turn is not asked for any more."""
    usage: Usage
    """What it was measured at then; empty where the turn is not asked for any more."""
    basis: Basis
    """Of its prompt tokens."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whatever the framing was: JSON, SSE, event stream, or a line of batch results."""

    status: int
    """HTTP status; 200 for a succeeded batch entry."""
    message: Mapping[str, Any] | None = None
    """The message as the non-streaming API would have returned it; None where there is none."""
    usage: Usage | None = None
    """What the answer bills; None when it does not say (an aborted stream, a failed attempt)."""
    error: str | None = None
    """Why there is no message or no usage; or by what the API ended a stream, whose usage is what it told."""
    date: datetime | None = None
    """When the answer began: by its `Date` header, or finer where the recording tells."""
    sent: datetime | None = None
    """When its request was sent, on the clock of `date`, where the recording tells."""
    recording_session: int = 0
    """In which session it was recorded, where some turns of a recording were called anew later: from 0."""

    @property
    def billed(self) -> bool:
        """Whether this answer is a turn: failed attempts cost nothing."""
        return 200 <= self.status < 300

    @property
    def is_whole(self) -> bool:
        """Whether the answer came to its end, and tells what it billed."""
        return self.usage is not None and self.error is None

    @property
    def is_unknown(self) -> bool:
        """Whether this is a turn, and nobody can tell what it billed."""
        return self.billed and self.usage is None

    @property
    def refused(self) -> bool:
        """Whether the model refused before any output, which bills nothing."""
        return self.message is not None and is_refusal(self.message)


def is_refusal(message: Mapping[str, Any]) -> bool:
    """Whether a message is a refusal before any output ("Refusals and fallback" of the platform's docs)."""
    return message.get("stop_reason") == "refusal" and not message.get("content")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One recorded turn, or one failed attempt at it."""

    request: Request
    answer: Answer


@dataclass(frozen=True, slots=True)
class Pair:
    """What the agent asks now, beside the recorded exchange that answered it."""

    index: int
    """Of the recorded exchange among the recording's exchanges, from 0."""
    request: Request
    """As sent now."""
    recorded: Request
    """As recorded."""
    answer: Answer
    """As recorded (live: as received, and `recorded` is `request`)."""
    how: Paired
    by_acceptance: bool = False
    """Whether it is exact because it equals what was accepted, not what was recorded."""

    @property
    def is_recorded(self) -> bool:
        """Whether the recorded answer tells the tokens of `request` as well."""
        return self.how is Paired.EXACT and not self.by_acceptance
