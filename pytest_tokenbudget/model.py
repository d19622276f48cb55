"""Define the values that everything else uses: tokens, rates, usage, verdicts, findings, scenario ids.

Usage adds up. A finding is one cause, its place, and what it costs. A scenario is known by its test's node
id, `FILE::fixture NAME of OWNER`, or `FILE::teardown of TEST`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Literal, Self


class Basis(StrEnum):
    """Where a number comes from. The order is that of trust: the basis of a sum is its weakest part."""

    RECORDED = "recorded"
    """The recorded answer to this very request says so."""
    LIVE = "live"
    """The answer to a real call of this run says so."""
    COUNTED = "counted"
    """Recorded, plus the exact count of what changed."""
    ESTIMATED = "estimated"
    """Recorded, plus a calibrated estimate of what changed, with its interval."""
    UNKNOWN = "unknown"
    """Nothing says it. It is never added up as 0."""

    @classmethod
    def weakest(cls, bases: Iterable[Basis]) -> Basis:
        """Return the least trusted of `bases`, or `RECORDED` if there are none."""
        order = list(cls)
        return max(bases, key=order.index, default=cls.RECORDED)


class Paired(StrEnum):
    """How the recorded turn that answers a request was found, surest first."""

    EXACT = "exact"
    LINEAGE = "lineage"
    SIMILAR = "similar"
    ORDER = "order"


class Verdict(StrEnum):
    """How a scenario is judged, in the order in which reports tell it."""

    OVER = "over"
    """Past a limit or a cap."""
    STALE = "stale"
    """It asks for something else than was recorded."""
    UNKNOWN = "unknown"
    """What changed cannot be counted, and a limit lies between its best and its worst case."""
    UNRECORDED = "unrecorded"
    """It calls a model, and has no cassette."""
    NEW = "new"
    """It has no baseline."""
    IMPROVED = "improved"
    WITHIN = "within"

    @property
    def fails(self) -> bool:
        """Whether this verdict fails the test."""
        return self not in (Verdict.IMPROVED, Verdict.WITHIN)

    @property
    def is_measured(self) -> bool:
        """Whether the numbers of a scenario so judged answer the question that its baseline answers."""
        return self not in (Verdict.STALE, Verdict.UNKNOWN, Verdict.UNRECORDED)


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
        """Prompt and output tokens together."""
        return self.prompt_tokens + self.output_tokens

    @property
    def cache_share(self) -> Fraction | None:
        """Read tokens over prompt tokens, 0 to 1; None without a prompt."""
        return Fraction(self.cache_read_input_tokens, self.prompt_tokens) if self.prompt_tokens else None

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(*map(operator.add, _counts(self), _counts(other)))

    def __radd__(self, other: Literal[0]) -> Self:
        return self  # so that sum() needs no start value

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(*map(operator.sub, _counts(self), _counts(other)))


COUNTS: tuple[str, ...] = tuple(count.name for count in fields(Tokens))
"""Names of all counts of `Tokens`, in their order."""

_counts: Callable[[Tokens], tuple[int, ...]] = operator.attrgetter(*COUNTS)

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
    @lru_cache  # a suite names few rates, its documents and history name them in every entry
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
    """Tokens by rate. In one answer's usage the request's own rate is the first (see `main_rate`)."""

    @classmethod
    def of(cls, rate: Rate, tokens: Tokens, turns: int = 1) -> Usage:
        """Return the usage of `turns` turns at one rate."""
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
            rates[rate] = rates[rate] + tokens if rate in rates else tokens
        return Usage(self.turns + other.turns, MappingProxyType(rates))

    def __sub__(self, other: Usage) -> Usage:
        """Return the difference, rates without one left out; its counts may be negative."""
        rates = {
            rate: self.by_rate.get(rate, Tokens()) - other.by_rate.get(rate, Tokens())
            for rate in {**self.by_rate, **other.by_rate}
        }
        changed = {rate: tokens for rate, tokens in rates.items() if tokens != Tokens()}
        return Usage(self.turns - other.turns, MappingProxyType(changed))

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

    def overlaps(self, other: Source) -> bool:
        """Return whether both are in one file and share a line."""
        last, end = self.end_line or self.line, other.end_line or other.line
        return self.file == other.file and self.line <= end and other.line <= last


class FindingKind(StrEnum):
    """What a finding says of a scenario; docs/findings.md explains each. Levers begin with `lever_`."""

    GROWTH = "growth"
    CACHE_BREAK = "cache_break"
    CACHE_CHANGE = "cache_change"
    VOLATILE = "volatile"
    TURNS_CHANGED = "turns_changed"
    MODEL_CHANGED = "model_changed"
    RATE_CHANGED = "rate_changed"
    RECORDING_CHANGED = "recording_changed"
    OTHER_START = "other_start"
    """The recording began with another state of the prompt cache than the baseline's."""
    ANSWER_OPTIONS = "answer_options"
    ASSUMED_MODEL = "assumed_model"
    UNKNOWN = "unknown"
    PROBLEM = "problem"
    UNPRICED_MODEL = "unpriced_model"
    INCONCLUSIVE = "inconclusive"
    """The interval of live runs lies on both sides of a limit."""
    INTERVAL = "interval"
    """How sure the mean of live runs is."""
    LEVER_CACHING = "lever_caching"
    LEVER_CONTEXT = "lever_context"
    LEVER_ROUTING = "lever_routing"
    LEVER_BATCHING = "lever_batching"
    LEVER_PARALLELISM = "lever_parallelism"
    LEVER_OUTLIERS = "lever_outliers"


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause of a change in tokens, or one way to spend less."""

    kind: FindingKind
    where: str
    """`system[0]`, `tools[search].description`, `messages[4] tool_result`, `turn 3`, ..."""
    text: str
    """One plain sentence that says its place and its line by itself; of a lever, what it saves too.

    It may quote untrusted prompt text, so every report escapes it.
    """
    tokens: int | None = None
    """Tokens a run, more or (negative) fewer; None where unknown."""
    cost_usd: Decimal | None = None
    """Dollars a run, more or (negative) fewer; None where no price is known."""
    source: Source | None = None
    short: str = ""
    """What becomes of its place, in a few words, where its kind does not say that."""


BY_HAND = "by hand"
"""`Finding.where` of a problem that only an edit resolves, no recording; its sentence names the edit."""

_CONFTEST, _FIXTURE, _TEARDOWN = "conftest.py", "fixture ", "teardown of "


@dataclass(frozen=True, slots=True)
class ScenarioId:
    """The name of a scenario in one text: a test's node id, a fixture of an owner, or a test's teardown."""

    text: str

    def __str__(self) -> str:
        return self.text

    @classmethod
    def of_fixture(cls, file: str, name: str, owner: str | None = None) -> ScenarioId:
        """Return the id of a fixture that `file` defines.

        `owner` is what the fixture is set up for, None if that is all of the file. The id names the owner's
        file only if that is not `file`.
        """
        return cls(f"{file}::{_FIXTURE}{name}" + (f" of {owner.removeprefix(f'{file}::')}" if owner else ""))

    @classmethod
    def of_teardown(cls, file: str, test: str) -> ScenarioId:
        """Return the id of what the teardown of `test` in `file` calls; `test` is named without its file."""
        return cls(f"{file}::{_TEARDOWN}{test}")

    def below(self, folder: str) -> ScenarioId:
        """Return the id as seen from above `folder`, which ends in a slash or is empty."""
        head, of, owner = self.text.partition(" of ")
        if self.kind == "fixture" and owner.partition("::")[0].endswith(".py"):
            return ScenarioId(f"{folder}{head}{of}{folder}{owner}")
        return ScenarioId(folder + self.text)

    @property
    def file(self) -> str:
        """Return the file that it stands in, relative to the root."""
        return self.text.partition("::")[0]

    @property
    def name(self) -> str:
        """Return the id without its file: its name in the baseline file."""
        return self.text.partition("::")[2]

    @property
    def kind(self) -> Literal["test", "fixture", "teardown"]:
        """Return what it is. No test fails for a fixture or a teardown, so the run does."""
        if self.name.startswith(_FIXTURE):
            return "fixture"
        return "teardown" if self.name.startswith(_TEARDOWN) else "test"

    @property
    def argument(self) -> str:
        """Return what pytest is given to run it: fixtures and teardowns run with the tests they are of."""
        if self.kind == "test":
            return self.text
        _, of, owner = self.name.partition(" of ")
        path = PurePosixPath(self.file)
        if not of:
            return str(path.parent) if path.name == _CONFTEST else self.file
        is_elsewhere = path.name == _CONFTEST or owner.partition("::")[0].endswith(".py")
        return owner if is_elsewhere else f"{self.file}::{owner}"
