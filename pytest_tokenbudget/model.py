"""Define the values that everything else speaks in: tokens, rates, usage, verdicts, findings, scenario ids.

Usage adds up. A finding is one cause, its place, and what it costs. A scenario is known by its test's node
id, `FILE::fixture NAME of OWNER`, or `FILE::teardown of TEST`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Literal, Self


class Basis(StrEnum):
    """Where a number comes from. The order is that of trust: the basis of a sum is its weakest part."""

    RECORDED = "recorded"
    """The answer to this very request said so."""
    LIVE = "live"
    """A real call of this run said so."""
    COUNTED = "counted"
    """Recorded, plus the exact count of what changed."""
    ESTIMATED = "estimated"
    """Recorded, plus a calibrated estimate of what changed, with its interval."""
    UNKNOWN = "unknown"
    """It cannot be told. Never added up as 0."""

    @classmethod
    def weakest(cls, bases: Iterable[Basis]) -> Basis:
        """The least trusted of `bases`; `RECORDED` when there are none."""
        order = list(cls)
        return max(bases, key=order.index, default=cls.RECORDED)


class Paired(StrEnum):
    """How the recorded turn that answers a request was found, surest first."""

    EXACT = "exact"
    LINEAGE = "lineage"
    SIMILAR = "similar"
    ORDER = "order"


class Verdict(StrEnum):
    """What a scenario is judged to be."""

    OVER = "over"
    STALE = "stale"
    NEW = "new"
    IMPROVED = "improved"
    WITHIN = "within"

    @property
    def fails(self) -> bool:
        """Whether this verdict fails the test."""
        return self in (Verdict.OVER, Verdict.STALE, Verdict.NEW)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Disjoint token counts, named as the API names them; `a + b` and `sum(...)` add field by field."""

    input_tokens: int = 0
    """Uncached prompt tokens: what follows the last cache breakpoint."""
    ephemeral_5m_input_tokens: int = 0
    """Prompt tokens written to the cache for five minutes."""
    ephemeral_1h_input_tokens: int = 0
    """Prompt tokens written to the cache for an hour."""
    cache_read_input_tokens: int = 0
    """Prompt tokens read from the cache."""
    output_tokens: int = 0
    """Tokens of the answer, thinking included."""
    web_search_requests: int = 0
    """Not tokens, but billed with them: server-side searches."""

    @property
    def cache_creation_input_tokens(self) -> int:
        """Prompt tokens written to the cache, for either lifetime."""
        return self.ephemeral_5m_input_tokens + self.ephemeral_1h_input_tokens

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt: uncached, written and read."""
        return self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens

    @property
    def total(self) -> int:
        """All four counts."""
        return self.prompt_tokens + self.output_tokens

    @property
    def cache_share(self) -> Fraction | None:
        """Read tokens over prompt tokens, 0 to 1; None without a prompt."""
        return Fraction(self.cache_read_input_tokens, self.prompt_tokens) if self.prompt_tokens else None

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(*(getattr(self, count) + getattr(other, count) for count in COUNTS))

    def __radd__(self, other: Literal[0]) -> Self:
        return self  # so that sum() needs no start value


COUNTS: tuple[str, ...] = tuple(count.name for count in fields(Tokens))
"""Names of all counts of `Tokens`, in their order."""

_RATE = re.compile(r"(?P<model>.*?)(?: \((?P<modifiers>[^()]*)\))?")


@dataclass(frozen=True, slots=True, order=True)
class Rate:
    """What decides the price of a token: the model, and what else the request was billed by.

    Modifiers are sorted words: `batch`, `fast`, `us` (inference geography), `priority`, `long` (above the
    model's long-context threshold), and the platform where it is not Anthropic's own: `aws`, `google`,
    `azure`, with `regional` where the endpoint is. Written `claude-haiku-4-5 (batch, us)`.
    """

    model: str
    modifiers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "modifiers", tuple(sorted(set(self.modifiers))))

    def __str__(self) -> str:
        return f"{self.model} ({', '.join(self.modifiers)})" if self.modifiers else self.model

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read what `str()` wrote."""
        match = _RATE.fullmatch(text)
        if match is None or not match["modifiers"]:
            return cls(text)
        return cls(match["model"], tuple(word.strip() for word in match["modifiers"].split(",")))


def _empty() -> Mapping[Rate, Tokens]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Usage:
    """Turns and their tokens by rate: of one answer, a scenario or a suite; `a + b` and `sum(...)` add.

    One answer can bill at several rates (an advisor's or a fallback's model inside one request).
    """

    turns: int = 0
    by_rate: Mapping[Rate, Tokens] = field(default_factory=_empty)
    """Of one answer, the first rate is that of the request itself (see `main_rate`); of a sum, any order."""

    @classmethod
    def of(cls, rate: Rate, tokens: Tokens, turns: int = 1) -> Usage:
        """Usage at one rate."""
        return cls(turns, MappingProxyType({rate: tokens}))

    @property
    def tokens(self) -> Tokens:
        """The tokens of all rates together."""
        return sum(self.by_rate.values(), Tokens())

    @property
    def main_rate(self) -> Rate:
        """Return the rate that the request itself billed, of the usage of one answer: its first.

        What else an answer bills (an advisor, a compaction, an attempt before a fallback) follows it, however
        long its prompt is. The model of a usage without rates is `unknown`.
        """
        return next(iter(self.by_rate), Rate("unknown"))

    @property
    def main_tokens(self) -> Tokens:
        """Return the tokens that were billed at `main_rate`; all 0 of a usage without rates."""
        return self.by_rate.get(self.main_rate, Tokens())

    def with_main(self, rate: Rate, tokens: Tokens) -> Usage:
        """Return this usage with `tokens` at `rate` in place of what the request itself billed.

        What else the answer bills is kept; where that is at the same rate, both add up.
        """
        others = {other: counts for other, counts in self.by_rate.items() if other != self.main_rate}
        return Usage.of(rate, tokens, turns=0) + Usage(self.turns, MappingProxyType(others))

    def __add__(self, other: Usage) -> Usage:
        rates = dict(self.by_rate)
        for rate, tokens in other.by_rate.items():
            rates[rate] = rates.get(rate, Tokens()) + tokens
        return Usage(self.turns + other.turns, MappingProxyType(rates))

    def __radd__(self, other: Literal[0]) -> Self:
        return self


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


_CONFTEST = "conftest.py"


def is_beside_a_test(scenario: str) -> bool:
    """Whether it is a fixture or a teardown, so that no test fails for it."""
    return scenario.partition("::")[2].startswith(("fixture ", "teardown of "))


def argument(scenario: str) -> str:
    """What pytest is given to run it: fixtures and teardowns run with the tests that they are of.

    An owner is told with its file only where that is another than the one that the fixture is in.
    """
    if not is_beside_a_test(scenario):
        return scenario
    file, _, name = scenario.partition("::")
    _, of, owner = name.partition(" of ")
    path = PurePosixPath(file)
    if not of:
        return str(path.parent) if path.name == _CONFTEST else file
    is_elsewhere = path.name == _CONFTEST or owner.partition("::")[0].endswith(".py")
    return owner if is_elsewhere else f"{file}::{owner}"
