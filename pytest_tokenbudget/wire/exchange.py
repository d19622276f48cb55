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
"""Text in place of an answer that no recording has, so that a run goes on."""
UNIQUE_TEXT = 40
"""Characters from which a text is taken to be unique. `OK` and labels are shorter."""


@dataclass(frozen=True, slots=True)
class StandIn:
    """What answered a request in place of an answer that no recording has; later prompts may hold it."""

    text: str = PLACEHOLDER
    """A placeholder, or the answer of another recorded turn."""
    tokens: int = 24
    """That the text is at most, in any tokenizer."""


@dataclass(frozen=True, slots=True)
class Request:
    """A model request as it was sent: to which endpoint, its prompt, and a digest of its bytes."""

    endpoint: Endpoint
    prompt: Prompt
    digest: str
    """Digest of method, endpoint and body without what differs on every run (`cache_control` stays in)."""
    session: str | None = None
    """The agent of a process that sent it, if headers show it (subagents of Claude Code)."""
    custom_id: str | None = None
    """The name of an entry of a message batch; None for other requests."""
    body: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """The body as JSON, with its keys in the order in which they were read; None without a body."""
    host: str = field(default="", compare=False)
    """The host that it was sent to, in lower case."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request that was accepted in place of a recorded turn, and what it was measured at."""

    request: Request | None
    """The accepted request; None if the turn is not asked for any more."""
    usage: Usage
    """Its usage when it was accepted; empty if the turn is not asked for any more."""
    basis: Basis
    """How its prompt tokens are known."""
    volatile: bool = False
    """Whether its cached prefix was accepted as another one in every process, or with every second."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, in any framing: JSON, SSE, event stream, or a line of batch results."""

    status: int
    """HTTP status; 200 for a succeeded batch entry, 0 for another batch entry."""
    message: Mapping[str, Any] | None = None
    """The message as the non-streaming API would have returned it; None without one."""
    usage: Usage | None = None
    """What the answer bills; None if it does not say (an aborted stream, a failed attempt)."""
    error: str | None = None
    """Why there is no message or no usage; or the error that ended a stream which has its usage."""
    date: datetime | None = None
    """When the answer began: by its `Date` header, or more exactly if the recording has times."""
    sent: datetime | None = None
    """When its request was sent, on the same clock as `date`; None if the recording has no times."""
    recording_session: int = 0
    """Number of the session in which it was recorded, from 0; later ones recorded some turns again."""

    @property
    def billed(self) -> bool:
        """Whether this answer is a turn: failed attempts cost nothing."""
        return 200 <= self.status < 300

    @property
    def is_whole(self) -> bool:
        """Whether the answer came to its end and says what it billed."""
        return self.usage is not None and self.error is None

    @property
    def is_unknown(self) -> bool:
        """Whether this is a turn whose billing is not known."""
        return self.billed and self.usage is None

    @property
    def refused(self) -> bool:
        """Whether the model refused before any output, which bills nothing."""
        return self.message is not None and is_refusal(self.message)


def is_refusal(message: Mapping[str, Any]) -> bool:
    """Return whether a message is a refusal before any output.

    ("Refusals and fallback" of the platform's docs.)
    """
    return message.get("stop_reason") == "refusal" and not message.get("content")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One recorded turn, or one failed attempt at it."""

    request: Request
    answer: Answer


@dataclass(frozen=True, slots=True)
class Pair:
    """A request of this run, beside the recorded exchange that answered it."""

    index: int
    """Index of the exchange in the recording, from 0."""
    request: Request
    """The request as it is sent now."""
    recorded: Request
    """The request as it was recorded. In a live run, the same as `request`."""
    answer: Answer
    """The answer as it was recorded. In a live run, as it was received."""
    how: Paired
    by_acceptance: bool = False
    """Whether the pair is exact because the request equals an accepted one, not the recorded one."""

    @property
    def is_recorded(self) -> bool:
        """Whether the recorded answer's token counts hold for `request` as well."""
        return self.how is Paired.EXACT and not self.by_acceptance
