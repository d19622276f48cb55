"""The JSON document that every report is made of: its types, its totals, and how it is read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NoReturn, NotRequired, TypedDict, cast

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.model import Verdict
from pytest_tokenbudget.reports.validation import problems

VERSION = 1

_AGAIN = "Write it again with --token-budget-report=json:FILE."

BasisName = Literal["recorded", "live", "counted", "estimated", "unknown"]
VerdictName = Literal["over", "stale", "new", "improved", "within"]
Recorder = Literal["pytest-recording", "vcrpy"]
Lifetime = Literal["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"]
Count = Literal[
    "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens", "prompt_tokens"
]

_COUNTS: tuple[Count, ...] = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "prompt_tokens",
)


class CacheCreation(TypedDict):
    """Written prompt tokens by lifetime."""

    ephemeral_5m_input_tokens: int
    ephemeral_1h_input_tokens: int


class CountsEntry(TypedDict):
    """The four counts, and the prompt's sum."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    prompt_tokens: int


class RateEntry(CountsEntry):
    """The tokens that were billed at one rate."""

    cost_usd: float | None
    cache_creation: CacheCreation
    web_search_requests: NotRequired[int]


class TokensEntry(CountsEntry):
    """TOKENS: of a turn, a scenario or a suite."""

    turns: int
    cost_usd: float | None
    models: dict[str, RateEntry]


class LimitEntry(TypedDict):
    """One metric held against its limit or cap."""

    metric: str
    baseline: float | None
    measured: float | None
    limit: float
    change: float | None
    over: bool


class TurnEntry(TypedDict):
    """One billed turn."""

    index: int
    model: str | None
    basis: BasisName
    paired: str | None
    tokens: TokensEntry | None
    recorded: TokensEntry | None


class SourceEntry(TypedDict):
    """A line of a file of the repository."""

    file: str
    line: int


class FindingEntry(TypedDict):
    """One cause, or one way to spend fewer."""

    kind: str
    where: str
    tokens: int | None
    cost_usd: float | None
    text: str
    source: SourceEntry | None


class ScenarioEntry(TypedDict):
    """One scenario: its verdict and all that led to it."""

    id: str
    file: str
    line: int
    verdict: VerdictName
    basis: BasisName
    baseline: TokensEntry | None
    measured: TokensEntry | None
    limits: list[LimitEntry]
    turns: list[TurnEntry]
    findings: list[FindingEntry]


class TotalsEntry(TypedDict):
    """What the scenarios add up to."""

    verdicts: dict[str, int]
    baseline: TokensEntry
    measured: TokensEntry


class Document(TypedDict):
    """One run."""

    version: int
    tool: dict[str, str]
    mode: str
    prices: dict[str, str]
    commit: str | None
    totals: TotalsEntry
    scenarios: list[ScenarioEntry]


def totals(scenarios: Iterable[ScenarioEntry]) -> TotalsEntry:
    """What `scenarios` add up to; a cost is None as soon as one of them has none.

    Like is compared with like: only what has a baseline and a measurement and is not stale is added up.
    """
    listed = list(scenarios)
    both = [
        (one["baseline"], one["measured"])
        for one in listed
        if one["baseline"] is not None and one["measured"] is not None and one["verdict"] != "stale"
    ]
    return {
        "verdicts": {
            str(verdict): sum(one["verdict"] == str(verdict) for one in listed) for verdict in Verdict
        },
        "baseline": add([baseline for baseline, _ in both]),
        "measured": add([measured for _, measured in both]),
    }


def add(entries: Sequence[TokensEntry]) -> TokensEntry:
    """The sum of TOKENS, rate by rate."""
    by_rate: dict[str, list[RateEntry]] = {}
    for entry in entries:
        for rate, part in entry["models"].items():
            by_rate.setdefault(rate, []).append(part)
    models = {rate: _add_rates(parts) for rate, parts in sorted(by_rate.items())}
    turns = sum(entry["turns"] for entry in entries)
    return cast("TokensEntry", {"turns": turns, **_sums(entries), "models": models})


def _add_rates(parts: Sequence[RateEntry]) -> RateEntry:
    lives: tuple[Lifetime, ...] = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
    written = {life: sum(part["cache_creation"][life] for part in parts) for life in lives}
    searches = sum(part.get("web_search_requests", 0) for part in parts)
    billed = {"web_search_requests": searches} if searches else {}
    return cast("RateEntry", {**_sums(parts), "cache_creation": written, **billed})


def _sums(entries: Sequence[TokensEntry] | Sequence[RateEntry]) -> dict[str, float | None]:
    counts: dict[str, float | None] = {name: sum(entry[name] for entry in entries) for name in _COUNTS}
    costs = [entry["cost_usd"] for entry in entries]
    known = [cost for cost in costs if cost is not None]
    return {**counts, "cost_usd": round(sum(known), 10) if len(known) == len(costs) else None}


def load(path: Path) -> Document:
    """Read and validate the document at `path`; `ReportError` says what is wrong with it and where."""
    try:
        document = json.loads(path.read_text("utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}. {_AGAIN}") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} is not UTF-8 text. {_AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {error}. {_AGAIN}") from error
    return validate(document, str(path))


def validate(document: object, name: str = "the document") -> Document:
    """`document` itself when the schema allows it; else a `ReportError` with `name` and the wrong key."""
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise ReportError(
            f"{name} has version {version}, written by a newer pytest-tokenbudget; this one reads version "
            f"{VERSION}. Upgrade with `pip install -U pytest-tokenbudget`."
        )
    wrong = next(problems(document), None)
    if wrong is not None:
        raise ReportError(f"{name}: {wrong}. {_AGAIN}")
    return cast("Document", document)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")
