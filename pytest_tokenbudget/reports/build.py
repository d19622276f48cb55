"""Build the JSON document from judged runs: builtins only, so that it crosses processes.

Live runs of one scenario make one entry: the mean, how sure it is, and a verdict that is not noise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from pytest_tokenbudget import __version__
from pytest_tokenbudget.budget.verdict import CostOf, Judgement, Limit, Number
from pytest_tokenbudget.metering.meter import Run, Turn
from pytest_tokenbudget.model import COUNTS, Basis, Finding, FindingKind, Tokens, Usage
from pytest_tokenbudget.reports.document import (
    VERSION,
    Document,
    ErrorEntry,
    ExcludedEntry,
    FindingEntry,
    LimitEntry,
    NotJudgedEntry,
    Recorder,
    ScenarioEntry,
    TokensEntry,
    TurnEntry,
    UnmeasuredEntry,
    UnmeteredEntry,
    tokens_entry,
    totals,
    usage_of,
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
    *,
    runs_per_month: int | None = None,
) -> ScenarioEntry:
    """The entry of one scenario; `measured` is null where any turn is unknown."""
    entry: ScenarioEntry = {
        "id": place.id,
        "file": place.file,
        "line": place.line,
        "verdict": str(judgement.verdict),
        "basis": str(run.basis),
        "baseline": None if baseline is None else tokens(baseline, cost),
        "measured": None if run.basis == Basis.UNKNOWN else tokens(run.usage, cost),
        "limits": [_limit(limit) for limit in judgement.limits],
        "turns": turns(run, cost),
        "findings": [finding(one) for one in findings],
        "recorder": place.recorder,
        "runs_per_month": runs_per_month,
    }
    if run.bounds is not None:
        least, most = run.bounds
        entry["bounds"] = {
            "least": tokens(least, cost),
            "most": None if most is None else tokens(most, cost),
        }
    return entry


def document(
    scenarios: Iterable[ScenarioEntry],
    *,
    mode: str,
    prices: tuple[str, str],
    commit: str | None,
    errors: Sequence[ErrorEntry] = (),
    not_judged: Sequence[NotJudgedEntry] = (),
    excluded: Sequence[ExcludedEntry] = (),
    unmeasured: Sequence[UnmeasuredEntry] = (),
    committed: Iterable[str] = (),
    unmetered: Sequence[UnmeteredEntry] = (),
    project: str | None = None,
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
        "errors": list(errors),
        "not_judged": sorted(not_judged, key=lambda entry: entry["id"]),
        "excluded": sorted(excluded, key=lambda entry: entry["id"]),
        "unmetered": sorted(unmetered, key=lambda entry: entry["id"]),
        "unmeasured": sorted(unmeasured, key=lambda entry: entry["id"]),
        "committed": sorted(committed),
        "project": project,
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


def turns(run: Run, cost: CostOf) -> list[TurnEntry]:
    """The turns of a run."""
    return [_turn(index, turn, cost) for index, turn in enumerate(run.turns)]


def _turn(index: int, turn: Turn, cost: CostOf) -> TurnEntry:
    unknown = turn.basis == Basis.UNKNOWN
    return {
        "index": index,
        "model": str(turn.usage.main_rate) if turn.usage.by_rate else turn.pair.request.prompt.model,
        "basis": str(turn.basis),
        "paired": str(turn.pair.how),
        "tokens": None if unknown else tokens(turn.usage, cost),
        "recorded": None if turn.recorded is None else tokens(turn.recorded, cost),
    }


def finding(found: Finding) -> FindingEntry:
    """A finding of the document."""
    source = found.source
    return {
        "kind": str(found.kind),
        "where": found.where,
        "tokens": found.tokens,
        "cost_usd": dollars(found.cost_usd),
        "text": found.text,
        "source": None if source is None else {"file": source.file, "line": source.line},
    }


# Student's t, 95 % one-sided, by degrees of freedom (any table; NIST/SEMATECH e-Handbook, 1.3.6.7.2): with it
# the true mean is below `low` in one of twenty cases, and above `high` in one of twenty.
_T = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753)
_NORMAL = 1.645
"""What it comes down to; on the way there, its expansion by one over the degrees of freedom is as good."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean of a metric over samples, with the interval that holds the true one in nine of ten cases."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value the interval is not known: it is taken as it is."""
        mean = statistics.fmean(values)
        if len(values) < 2:
            return cls(mean, mean, mean)
        freedom = len(values) - 1
        t = _T[freedom - 1] if freedom <= len(_T) else _NORMAL + (_NORMAL**3 + _NORMAL) / (4 * freedom)
        half = t * statistics.stdev(values) / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half)


def merge_samples(samples: Sequence[ScenarioEntry], cost: CostOf) -> ScenarioEntry:
    """One entry of several runs of the same scenario; the turns are those of the run in the middle.

    A metric is over when the whole interval of its mean is past the limit. Where only a part of it is, more
    samples are needed, which a finding says; that does not fail.
    """
    if len(samples) == 1:
        return samples[0]
    unknown = next((one for one in samples if one["measured"] is None), None)
    if unknown is not None:
        return unknown
    measured = [one["measured"] for one in samples if one["measured"] is not None]
    ranked = sorted(samples, key=lambda one: _prompt(one["measured"]))
    middle = ranked[len(ranked) // 2]
    limits, doubts = [], []
    by_metric = [{limit["metric"]: limit for limit in one["limits"]} for one in samples]
    for metric in by_metric[0]:
        column = [its[metric] for its in by_metric if metric in its]
        if len(column) < len(samples):
            continue  # a run without a prompt has no cache share
        limit, doubt = _merged(column)
        limits.append(limit)
        doubts += [doubt] if doubt else []
    return {
        **middle,
        "verdict": _verdict(samples, limits),
        "measured": tokens(_mean([usage_of(one) for one in measured]), cost),
        "limits": limits,
        "findings": [*doubts, _told(samples), *middle["findings"]],
    }


def _prompt(entry: TokensEntry | None) -> int:
    return entry["prompt_tokens"] if entry else 0


def _merged(column: Sequence[LimitEntry]) -> tuple[LimitEntry, FindingEntry | None]:
    """One limit held against the mean, and a finding where its interval lies on both sides."""
    first = column[0]
    values = [one["measured"] for one in column if one["measured"] is not None]
    if len(values) < len(column):
        return next(one for one in column if one["measured"] is None), None
    spread, limit, baseline = Spread.of(values), first["limit"], first["baseline"]
    falls = first["metric"] == "cache_share"
    past = spread.high < limit if falls else spread.low > limit
    over = past and any(one["over"] for one in column)  # a share that falls with a shorter prompt is not over
    doubtful = spread.low < limit <= spread.high if falls else spread.low <= limit < spread.high
    change = None
    if baseline is not None:
        change = spread.mean - baseline if falls else spread.mean / baseline - 1 if baseline else None
    mean = round(spread.mean, 10)
    merged: LimitEntry = {**first, "measured": mean, "change": change, "over": over}
    return merged, _doubt(first["metric"], spread, limit, len(column)) if doubtful else None


def _doubt(metric: str, spread: Spread, limit: float, samples: int) -> FindingEntry:
    text = (
        f"{metric}: the mean of {samples} live runs lies between {spread.low:,.4g} and {spread.high:,.4g}, "
        f"on both sides of the limit {limit:,.4g}: run more samples to tell"
    )
    return _finding(FindingKind.INCONCLUSIVE, metric, text)


def _told(samples: Sequence[ScenarioEntry]) -> FindingEntry:
    spread = Spread.of([_prompt(one["measured"]) for one in samples])
    text = (
        f"{len(samples)} live runs: {spread.mean:,.0f} prompt tokens on average, the mean between "
        f"{spread.low:,.0f} and {spread.high:,.0f} with 90 % confidence"
    )
    return _finding(FindingKind.INTERVAL, "live", text)


def _finding(kind: FindingKind, where: str, text: str) -> FindingEntry:
    return {"kind": str(kind), "where": where, "tokens": None, "cost_usd": None, "text": text, "source": None}


def _verdict(samples: Sequence[ScenarioEntry], limits: Sequence[LimitEntry]) -> str:
    verdicts = {one["verdict"] for one in samples}
    for first in ("unrecorded", "stale"):
        if first in verdicts:
            return first
    if any(limit["over"] for limit in limits):
        return "over"
    for first in ("unknown", "new"):
        if first in verdicts:
            return first
    return "improved" if verdicts == {"improved"} else "within"


def _mean(usages: Sequence[Usage]) -> Usage:
    """Counts rounded to whole tokens, rate by rate, so that they still add up."""
    total, runs = sum(usages, Usage()), len(usages)
    by_rate = {
        rate: Tokens(*(round(getattr(tokens, count) / runs) for count in COUNTS))
        for rate, tokens in total.by_rate.items()
    }
    return Usage(round(total.turns / runs), MappingProxyType(by_rate))
