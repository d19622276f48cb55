"""The JSON document that every report is made of: its types, its totals, and how it is read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn, NotRequired, TypedDict, cast

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.model import Rate, Tokens, Usage, Verdict
from pytest_tokenbudget.reports.validation import problems

VERSION = 1

_AGAIN = "Write it again with --token-budget-report=json:FILE."

BasisName = Literal["recorded", "live", "counted", "estimated", "unknown"]
VerdictName = Literal["over", "stale", "new", "improved", "within"]
Recorder = Literal["pytest-recording", "vcrpy"]
Count = Literal[
    "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens", "prompt_tokens"
]


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


def add(entries: Iterable[TokensEntry]) -> TokensEntry:
    """Return the sum of TOKENS, rate by rate; a cost is None as soon as one of its parts has none."""
    total, costs = Usage(), list[float | None]()
    by_rate: dict[Rate, list[float | None]] = {}
    for entry in entries:
        total += usage_of(entry)
        costs.append(entry["cost_usd"])
        for rate, part in entry["models"].items():
            by_rate.setdefault(Rate.parse(rate), []).append(part["cost_usd"])
    return tokens_entry(total, _sum(costs), {rate: _sum(parts) for rate, parts in by_rate.items()})


def _sum(costs: Sequence[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return round(sum(known), 10) if len(known) == len(costs) else None


def tokens_entry(usage: Usage, cost: float | None, costs: Mapping[Rate, float | None]) -> TokensEntry:
    """Return TOKENS: the counts of all rates together, then by rate; `costs` are dollars by rate."""
    models = {str(rate): _rate_entry(usage.by_rate[rate], costs[rate]) for rate in sorted(usage.by_rate)}
    return {"turns": usage.turns, **_counts_entry(usage.tokens), "cost_usd": cost, "models": models}


def _rate_entry(tokens: Tokens, cost: float | None) -> RateEntry:
    entry = {
        **_counts_entry(tokens),
        "cost_usd": cost,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.ephemeral_5m_input_tokens,
            "ephemeral_1h_input_tokens": tokens.ephemeral_1h_input_tokens,
        },
    }
    searches = {"web_search_requests": tokens.web_search_requests} if tokens.web_search_requests else {}
    return cast("RateEntry", {**entry, **searches})


def _counts_entry(tokens: Tokens) -> CountsEntry:
    return {
        "input_tokens": tokens.input_tokens,
        "cache_creation_input_tokens": tokens.cache_creation_input_tokens,
        "cache_read_input_tokens": tokens.cache_read_input_tokens,
        "output_tokens": tokens.output_tokens,
        "prompt_tokens": tokens.prompt_tokens,
    }


def usage_of(entry: TokensEntry) -> Usage:
    """Return the usage that `tokens_entry` wrote."""
    parts = (Usage.of(Rate.parse(rate), _tokens_of(part), turns=0) for rate, part in entry["models"].items())
    return sum(parts, Usage(entry["turns"]))


def _tokens_of(entry: RateEntry) -> Tokens:
    return Tokens(
        input_tokens=entry["input_tokens"],
        ephemeral_5m_input_tokens=entry["cache_creation"]["ephemeral_5m_input_tokens"],
        ephemeral_1h_input_tokens=entry["cache_creation"]["ephemeral_1h_input_tokens"],
        cache_read_input_tokens=entry["cache_read_input_tokens"],
        output_tokens=entry["output_tokens"],
        web_search_requests=entry.get("web_search_requests", 0),
    )


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
