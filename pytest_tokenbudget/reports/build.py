"""Judged runs as the JSON document: builtins only, so that it crosses processes and feeds every report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from pytest_tokenbudget import __version__
from pytest_tokenbudget.budget.verdict import CostOf, Judgement, Limit, Number
from pytest_tokenbudget.diagnosis.findings import Finding
from pytest_tokenbudget.metering.run import Run, Turn
from pytest_tokenbudget.model import Basis, Usage
from pytest_tokenbudget.reports.document import (
    VERSION,
    BasisName,
    Document,
    FindingEntry,
    LimitEntry,
    Recorder,
    ScenarioEntry,
    TokensEntry,
    TurnEntry,
    VerdictName,
    tokens_entry,
    totals,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Which test a scenario is, and where it stands."""

    id: str
    """Its node id."""
    file: str
    """Relative to the root, with forward slashes."""
    line: int
    """From 1."""
    recorder: Recorder | None = None
    """Whose cassettes it plays, where they are not this plugin's own."""

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
) -> ScenarioEntry:
    """The entry of one scenario; `measured` is null where any turn is unknown."""
    return {
        "id": place.id,
        "file": place.file,
        "line": place.line,
        "verdict": cast("VerdictName", str(judgement.verdict)),
        "basis": cast("BasisName", str(run.basis)),
        "baseline": None if baseline is None else tokens(baseline, cost),
        "measured": None if run.basis == Basis.UNKNOWN else tokens(run.usage, cost),
        "limits": [_limit(limit) for limit in judgement.limits],
        "turns": [_turn(index, turn, cost) for index, turn in enumerate(run.turns)],
        "findings": [finding(one) for one in findings],
    }


def document(
    scenarios: Iterable[ScenarioEntry], *, mode: str, prices: tuple[str, str], commit: str | None
) -> Document:
    """The whole document, scenarios by id, so that equal runs give equal documents."""
    entries = sorted(scenarios, key=lambda entry: entry["id"])
    source, version = prices
    return {
        "version": VERSION,
        "tool": {"name": "pytest-tokenbudget", "version": __version__},
        "mode": mode,
        "prices": {"source": source, "version": version},
        "commit": commit,
        "totals": totals(entries),
        "scenarios": entries,
    }


def tokens(used: Usage, cost: CostOf) -> TokensEntry:
    """Return TOKENS of the document, with dollars."""
    costs = {rate: dollars(cost(Usage.of(rate, counts))) for rate, counts in used.by_rate.items()}
    return tokens_entry(used, dollars(cost(used)), costs)


def dollars(amount: Decimal | None) -> float | None:
    """Dollars as JSON has them, rounded to 1e-10; None where unknown."""
    return None if amount is None else round(float(amount), 10)


def _limit(limit: Limit) -> LimitEntry:
    return {
        "metric": limit.metric,
        "baseline": _number(limit.baseline),
        "measured": _number(limit.measured),
        "limit": _known(limit.limit),
        "change": _number(limit.change),
        "over": limit.over,
    }


def _number(value: Number | None) -> float | None:
    return None if value is None else _known(value)


def _known(value: Number) -> float:
    return value if isinstance(value, int) else round(float(value), 10)


def _turn(index: int, turn: Turn, cost: CostOf) -> TurnEntry:
    unknown = turn.basis == Basis.UNKNOWN
    return {
        "index": index,
        "model": str(turn.usage.main_rate) if turn.usage.by_rate else turn.pair.request.prompt.model,
        "basis": cast("BasisName", str(turn.basis)),
        "paired": str(turn.pair.how),
        "tokens": None if unknown else tokens(turn.usage, cost),
        "recorded": None if turn.recorded is None else tokens(turn.recorded, cost),
    }


def finding(found: Finding) -> FindingEntry:
    """A finding of the document."""
    source = found.source
    return {
        "kind": found.kind,
        "where": found.where,
        "tokens": found.tokens,
        "cost_usd": dollars(found.cost_usd),
        "text": found.text,
        "source": None if source is None else {"file": source.file, "line": source.line},
    }
