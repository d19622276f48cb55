"""Judged runs as the JSON document: builtins only, so that it crosses processes and feeds every report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from pytest_tokenbudget import __version__
from pytest_tokenbudget.budget.compare import CostOf, Judgement, Limit
from pytest_tokenbudget.diagnosis.findings import Finding
from pytest_tokenbudget.metering.meter import Run, Turn
from pytest_tokenbudget.model import Basis, Rate, Tokens, Usage, Verdict

Json = dict[str, Any]
VERSION = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Which test a scenario is, and where it stands."""

    id: str
    """Its node id."""
    file: str
    """Relative to the root, with forward slashes."""
    line: int
    """From 1."""

    @property
    def name(self) -> str:
        """The node id without its file: its name in the baseline file."""
        return self.id.removeprefix(f"{self.file}::")


def scenario(
    place: Place,
    judgement: Judgement,
    baseline: Usage | None,
    run: Run,
    findings: Sequence[Finding],
    cost: CostOf,
) -> Json:
    """The entry of one scenario; `measured` is null where any turn is unknown."""
    return {
        "id": place.id,
        "file": place.file,
        "line": place.line,
        "verdict": str(judgement.verdict),
        "basis": str(run.basis),
        "baseline": None if baseline is None else tokens(baseline, cost),
        "measured": None if run.basis == Basis.UNKNOWN else tokens(run.usage, cost),
        "limits": [_limit(limit) for limit in judgement.limits],
        "turns": [_turn(index, turn, cost) for index, turn in enumerate(run.turns)],
        "findings": [_finding(finding) for finding in findings],
    }


def document(
    scenarios: Iterable[Json], *, mode: str, prices: tuple[str, str], commit: str | None, cost: CostOf
) -> Json:
    """The whole document, scenarios by id, so that equal runs give equal documents.

    The totals compare like with like: only scenarios that have a baseline and a measurement and are not
    stale are added up.
    """
    entries = sorted(scenarios, key=lambda entry: str(entry["id"]))
    comparable = [e for e in entries if e["baseline"] and e["measured"] and e["verdict"] != Verdict.STALE]
    source, version = prices
    return {
        "version": VERSION,
        "tool": {"name": "pytest-tokenbudget", "version": __version__},
        "mode": mode,
        "prices": {"source": source, "version": version},
        "commit": commit,
        "totals": {
            "verdicts": {str(verdict): sum(e["verdict"] == verdict for e in entries) for verdict in Verdict},
            "baseline": tokens(sum((usage(e["baseline"]) for e in comparable), Usage()), cost),
            "measured": tokens(sum((usage(e["measured"]) for e in comparable), Usage()), cost),
        },
        "scenarios": entries,
    }


def tokens(used: Usage, cost: CostOf) -> Json:
    """TOKENS of the document: the counts of all models, then by model."""
    models = {
        str(rate): {
            **_counts(counts),
            "cache_creation": {
                "ephemeral_5m_input_tokens": counts.ephemeral_5m_input_tokens,
                "ephemeral_1h_input_tokens": counts.ephemeral_1h_input_tokens,
            },
            **({"web_search_requests": counts.web_search_requests} if counts.web_search_requests else {}),
            "cost_usd": dollars(cost(Usage.of(rate, counts))),
        }
        for rate, counts in sorted(used.by_rate.items())
    }
    return {
        "turns": used.turns,
        **_counts(used.tokens),
        "cost_usd": dollars(cost(used)),
        "models": models,
    }


def usage(table: Mapping[str, Any]) -> Usage:
    """The usage that `tokens` wrote."""
    by_rate = {
        Rate.parse(rate): Tokens(
            input_tokens=counts["input_tokens"],
            ephemeral_5m_input_tokens=counts["cache_creation"]["ephemeral_5m_input_tokens"],
            ephemeral_1h_input_tokens=counts["cache_creation"]["ephemeral_1h_input_tokens"],
            cache_read_input_tokens=counts["cache_read_input_tokens"],
            output_tokens=counts["output_tokens"],
            web_search_requests=counts.get("web_search_requests", 0),
        )
        for rate, counts in table["models"].items()
    }
    return Usage(table["turns"], MappingProxyType(by_rate))


def dollars(amount: Decimal | None) -> float | None:
    """Dollars as JSON has them, rounded to 1e-10; None where unknown."""
    return None if amount is None else round(float(amount), 10)


def _counts(counts: Tokens) -> Json:
    return {
        "input_tokens": counts.input_tokens,
        "cache_creation_input_tokens": counts.cache_creation_input_tokens,
        "cache_read_input_tokens": counts.cache_read_input_tokens,
        "output_tokens": counts.output_tokens,
        "prompt_tokens": counts.prompt_tokens,
    }


def _limit(limit: Limit) -> Json:
    return {
        "metric": limit.metric,
        "baseline": _number(limit.baseline),
        "measured": _number(limit.measured),
        "limit": _number(limit.limit),
        "change": _number(limit.change),
        "over": limit.over,
    }


def _number(value: int | Fraction | Decimal | None) -> int | float | None:
    return value if value is None or isinstance(value, int) else round(float(value), 10)


def _turn(index: int, turn: Turn, cost: CostOf) -> Json:
    unknown = turn.basis == Basis.UNKNOWN
    rates = sorted(turn.usage.by_rate)
    return {
        "index": index,
        "model": str(rates[0]) if rates else turn.pair.request.prompt.model,
        "basis": str(turn.basis),
        "paired": str(turn.pair.how),
        "tokens": None if unknown else tokens(turn.usage, cost),
        "recorded": None if turn.recorded is None else tokens(turn.recorded, cost),
    }


def _finding(finding: Finding) -> Json:
    source = finding.source
    return {
        "kind": finding.kind,
        "where": finding.where,
        "tokens": finding.tokens,
        "cost_usd": dollars(finding.cost_usd),
        "text": finding.text,
        "source": None if source is None else {"file": source.file, "line": source.line},
    }
