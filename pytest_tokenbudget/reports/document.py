"""The JSON document that every report is made of: its types, its totals, and how it is read back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NoReturn, NotRequired, TypedDict, cast

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.model import Verdict
from pytest_tokenbudget.reports.validation import problems

VERSION = 1

BasisName = Literal["recorded", "live", "counted", "estimated", "unknown"]
VerdictName = Literal["over", "stale", "new", "improved", "within"]
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


class RateEntry(TypedDict):
    """The tokens that were billed at one rate."""

    turns: NotRequired[int]
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    prompt_tokens: int
    cost_usd: float | None
    cache_creation: CacheCreation
    web_search_requests: NotRequired[int]


class TokensEntry(TypedDict):
    """TOKENS: of a turn, a scenario or a suite."""

    turns: int
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    prompt_tokens: int
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
    tokens: TokensEntry
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
    file: str | None
    line: int | None
    verdict: VerdictName
    basis: BasisName
    baseline: TokensEntry | None
    measured: TokensEntry
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
    """What `scenarios` add up to; a cost is None as soon as one of them has none."""
    listed = list(scenarios)
    verdicts = {str(verdict): sum(one["verdict"] == verdict for one in listed) for verdict in Verdict}
    return {
        "verdicts": {verdict: number for verdict, number in verdicts.items() if number},
        "baseline": add(one["baseline"] for one in listed if one["baseline"] is not None),
        "measured": add(one["measured"] for one in listed),
    }


def add(entries: Iterable[TokensEntry]) -> TokensEntry:
    """The sum of TOKENS, rate by rate."""
    listed = list(entries)
    by_rate: dict[str, list[RateEntry]] = {}
    for entry in listed:
        for rate, part in entry["models"].items():
            by_rate.setdefault(rate, []).append(part)
    return {
        "turns": sum(entry["turns"] for entry in listed),
        **_counts(listed),
        "cost_usd": _dollars(listed),
        "models": {rate: _rate(parts) for rate, parts in sorted(by_rate.items())},
    }  # type: ignore[typeddict-item,unused-ignore]


def _rate(parts: list[RateEntry]) -> RateEntry:
    summed = {
        **_counts(parts),
        "cost_usd": _dollars(parts),
        "cache_creation": {
            life: sum(part["cache_creation"][life] for part in parts)  # type: ignore[literal-required]
            for life in ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
        },
    }
    for optional in ("turns", "web_search_requests"):
        if any(optional in part for part in parts):
            summed[optional] = sum(cast("int", part.get(optional, 0)) for part in parts)
    return cast("RateEntry", summed)


def _counts(entries: list[TokensEntry] | list[RateEntry]) -> dict[str, int]:
    return {name: sum(entry[name] for entry in entries) for name in _COUNTS}


def _dollars(entries: list[TokensEntry] | list[RateEntry]) -> float | None:
    costs = [entry["cost_usd"] for entry in entries]
    return None if None in costs else round(sum(cost for cost in costs if cost is not None), 12)


def load(path: Path) -> Document:
    """Read and validate the document at `path`; `ReportError` says what is wrong with it and where."""
    again = "Write it again with --token-budget-report=json:FILE."
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}. {again}") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path} is not UTF-8 text. {again}") from error
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {error}. {again}") from error
    return validate(document, str(path))


def validate(document: object, name: str = "the document") -> Document:
    """`document` itself when the schema allows it; else a `ReportError` with `name` and the first wrong key."""
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise ReportError(
            f"{name} has version {version}, written by a newer pytest-tokenbudget; this one reads version "
            f"{VERSION}. Upgrade with `pip install -U pytest-tokenbudget`."
        )
    found = next(problems(document), None)
    if found is not None:
        raise ReportError(
            f"{name}: {found}. Write it again with --token-budget-report=json:FILE; it is not made to be edited."
        )
    return cast("Document", document)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")
