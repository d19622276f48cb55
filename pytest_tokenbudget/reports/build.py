"""Build the JSON document from judged runs: builtins only, so that it crosses processes.

Live runs of one scenario make one entry: the mean, how sure it is, and a verdict that is not noise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from pytest_tokenbudget import __version__
from pytest_tokenbudget.advice.context import PARTS, Portion, portions
from pytest_tokenbudget.advice.layout import LaidOut
from pytest_tokenbudget.budget.baselines import Baseline
from pytest_tokenbudget.budget.verdict import (
    ALPHA,
    CostOf,
    Judgement,
    Limit,
    LiveRuns,
    Number,
    runs_to_decide,
    student_quantile,
)
from pytest_tokenbudget.metering.cache_split import ForeignReads, as_warm, as_written, least_warm
from pytest_tokenbudget.metering.meter import Run, Turn
from pytest_tokenbudget.model import COUNTS, Basis, Finding, FindingKind, Tokens, Usage
from pytest_tokenbudget.replay.redaction import Secrets
from pytest_tokenbudget.reports.document import (
    VERSION,
    ContextEntry,
    ConversationEntry,
    Document,
    ErrorEntry,
    ExcludedEntry,
    FindingEntry,
    LimitEntry,
    NotJudgedEntry,
    PartEntry,
    Recorder,
    ScenarioEntry,
    StartsEntry,
    TokensEntry,
    ToolEntry,
    TurnEntry,
    UnmeasuredEntry,
    UnmeteredEntry,
    is_measured,
    tokens_entry,
    totals,
    usage_of,
)
from pytest_tokenbudget.wording import UNKNOWN, money, plural, signed_percent


@dataclass(frozen=True, slots=True)
class Place:
    """Which test a scenario is, and where it is defined."""

    id: str
    """Its node id."""
    file: str
    """Relative to the root, with forward slashes."""
    line: int
    """The line where it is defined, from 1."""
    recorder: Recorder | None = None
    """The recorder of its cassettes; None if they are this plugin's own."""

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
    foreign: ForeignReads | None = None,
    laid_out: LaidOut | None = None,
) -> ScenarioEntry:
    """Return the entry of one scenario; `measured` is None if any turn is unknown.

    `foreign` are the foreign reads of its start, if a month is to be told by it. `laid_out` is the run again,
    if its context is to be told.
    """
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
    if foreign is not None:
        cold = cost(as_written(run.usage, foreign))
        warm = cost(as_warm(turn.usage for turn in run.turns))
        entry["start"] = {
            "foreign_reads": sum(amount for ttls in foreign.values() for amount in ttls.values()),
            "cold_usd": None if cold is None else float(cold),
            "warm_usd": None if warm is None else float(warm),
        }
    if laid_out and laid_out.asked:
        entry["context"] = _context(laid_out, run)
    if not judgement.verdict.is_measured and run.bounds is not None:
        least, most = run.bounds
        entry["bounds"] = {
            "least": tokens(least, cost),
            "most": None if most is None else tokens(most, cost),
        }
    return entry


_HIDE = Secrets()
"""Hides what looks like a key in the names of tools, which anybody may choose."""
_MCP = "mcp__"


def _context(laid_out: LaidOut, run: Run) -> ContextEntry:
    """Return the parts of a run's bill."""
    found = list(portions(laid_out))
    parts = [(part, [one for one in found if one.part == part]) for part in PARTS]
    tools: dict[str, list[Portion]] = {}
    conversations: dict[int, list[Portion]] = {}
    for one in found:
        conversations.setdefault(one.conversation, []).append(one)
        if one.tool:
            tools.setdefault(one.tool, []).append(one)
    return {
        "parts": [_part_entry(part, own, len(run.turns)) for part, own in parts if own],
        "tools": [_tool_entry(name, own) for name, own in tools.items()],
        "conversations": [_conversation_entry(own, run) for own in conversations.values()],
    }


def _part_entry(part: str, own: Sequence[Portion], turns: int) -> PartEntry:
    by_turn: dict[int, list[Portion]] = {}
    for one in own:
        by_turn.setdefault(one.turn, []).append(one)
    tokens, cost = _spent(own)
    return {
        "part": part,
        "tokens": tokens,
        "cost_usd": cost,
        "turns": [_spent(by_turn.get(turn, ()))[1] for turn in range(turns)],
    }


def _tool_entry(name: str, own: Sequence[Portion]) -> ToolEntry:
    server, _, tool = name.removeprefix(_MCP).partition("__") if name.startswith(_MCP) else ("", "", name)
    tokens, cost = _spent(own)
    return {
        "server": _HIDE.redact(server),
        "name": _HIDE.redact(tool or name),
        "tokens": tokens,
        "cost_usd": cost,
    }


def _conversation_entry(own: Sequence[Portion], run: Run) -> ConversationEntry:
    turns = sorted({one.turn for one in own})
    tokens, cost = _spent(own)
    return {
        "model": str(run.turns[turns[0]].usage.main_rate),
        "turns": turns,
        "tokens": tokens,
        "cost_usd": cost,
    }


def _spent(own: Sequence[Portion]) -> tuple[int, float | None]:
    costs = [one.cost for one in own if one.cost is not None]
    cost = dollars(sum(costs, Decimal(0))) if len(costs) == len(own) else None
    return sum(one.tokens for one in own), cost


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
    """Return the whole document, scenarios by id, so that equal runs give equal documents."""
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


def starts(baselines: Collection[Baseline], cost: CostOf) -> StartsEntry:
    """Return what a run of each of `baselines` costs together, from the start of each and from others."""
    warm = [least_warm(one.usage, one.foreign_reads) for one in baselines]

    def together(usages: Iterable[Usage]) -> float | None:
        costs = [cost(usage) for usage in usages]
        known = [each for each in costs if each is not None]
        return dollars(sum(known, Decimal(0))) if len(known) == len(costs) else None

    return {
        "scenarios": len(baselines),
        "foreign_reads": sum(
            amount for one in baselines for ttls in one.foreign_reads.values() for amount in ttls.values()
        ),
        "usd": together(one.usage for one in baselines),
        "cold_usd": together(as_written(one.usage, one.foreign_reads) for one in baselines),
        "warm_usd": together(warm),
        "warm_is_least": any(
            one.usage.turns > 1 and least != one.usage for one, least in zip(baselines, warm, strict=True)
        ),
    }


def dollars(amount: Decimal | None) -> float | None:
    """Return dollars as JSON has them, rounded to 1e-10; None stays None."""
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
    """Return the entries of the turns of a run."""
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
    """Return the entry of a finding."""
    source = found.source
    entry: FindingEntry = {
        "kind": str(found.kind),
        "where": found.where,
        "tokens": found.tokens,
        "cost_usd": dollars(found.cost_usd),
        "text": found.text,
        "source": None if source is None else {"file": source.file, "line": source.line},
    }
    if found.short:
        entry["short"] = found.short
    return entry


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean of what runs cost, with the interval that holds the true one in nine of ten cases."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of `values`; of one value the interval is not known, and is that value."""
        mean = statistics.fmean(values)
        if len(values) < 2:
            return cls(mean, mean, mean)
        t = student_quantile(1 - ALPHA, len(values) - 1)
        half = t * statistics.stdev(values) / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half)


def merge_samples(
    samples: Sequence[ScenarioEntry], cost: CostOf, runs: LiveRuns | None = None, *, is_over: bool = False
) -> ScenarioEntry:
    """Return one entry for several runs of the same scenario; its turns are those of the run in the middle.

    Only its cost is judged: `is_over` is the judgement, `runs` are the live runs of its baseline. Without
    these the cost is only told. The other metrics explain. A cap that one run has passed is passed. If a run
    could not be measured, its entry is returned.
    """
    if samples[0]["basis"] != str(Basis.LIVE) and len(samples) == 1:
        return samples[0]
    amiss = next((one for one in samples if not is_measured(one)), None)
    if amiss is not None:
        return amiss
    measured = [one["measured"] for one in samples if one["measured"] is not None]
    ranked = sorted(samples, key=lambda one: _prompt(one["measured"]))
    middle = ranked[len(ranked) // 2]
    by_metric = [{limit["metric"]: limit for limit in one["limits"]} for one in samples]
    columns = [[its[metric] for its in by_metric if metric in its] for metric in by_metric[0]]
    limits = [_merged(column, is_over=is_over) for column in columns if len(column) == len(samples)]
    return {
        **middle,
        "verdict": "over" if any(limit["over"] for limit in limits) else "within",
        "measured": tokens(mean_usage([usage_of(one) for one in measured]), cost),
        "limits": limits,
        "findings": [*_told(measured, runs, is_over=is_over), *middle["findings"]],
    }


def _prompt(entry: TokensEntry | None) -> int:
    return entry["prompt_tokens"] if entry else 0


def _merged(column: Sequence[LimitEntry], *, is_over: bool) -> LimitEntry:
    """Return one limit with the mean measured against it; a cap with the worst run."""
    first = column[0]
    if first["metric"].startswith("max_"):
        return next((one for one in column if one["over"]), first)
    values = [one["measured"] for one in column if one["measured"] is not None]
    mean, baseline = (statistics.fmean(values) if len(values) == len(column) else None), first["baseline"]
    change = None
    if baseline is not None and mean is not None:
        apart = mean - baseline
        change = apart if first["metric"] == "cache_share" else apart / baseline if baseline else None
    over = is_over and first["metric"] == "cost_usd"
    return {**first, "measured": None if mean is None else round(mean, 10), "change": change, "over": over}


def _told(measured: Sequence[TokensEntry], runs: LiveRuns | None, *, is_over: bool) -> Iterator[FindingEntry]:
    """Yield what the runs cost, how that compares with the baseline, and what would decide it."""
    number = plural(len(measured), "live run")
    costs = [one["cost_usd"] for one in measured if one["cost_usd"] is not None]
    if len(costs) < len(measured):
        prompt = Spread.of([one["prompt_tokens"] for one in measured])
        yield _interval(f"{number}: {prompt.mean:,.0f} prompt tokens on average, cost {UNKNOWN}")
        return
    spread = Spread.of(costs)
    between = f", between {money(spread.low)} and {money(spread.high)} in 9 of 10 cases"
    said = f"{number}: {money(spread.mean)} a run on average{between if len(costs) > 1 else ''}"
    growth = runs.growth if runs else None
    if runs is None or growth is None:
        yield _interval(f"{said}; not judged, but by caps: it has no baseline of 2 or more live runs")
        return
    low, high = growth.interval()
    yield _interval(
        f"{said}; {signed_percent(growth.ratio - 1)} against {len(runs.baseline):,} runs of its baseline "
        f"({signed_percent(low - 1)} to {signed_percent(high - 1)})"
    )
    if not is_over and high > runs.allowed:
        text = _undecided(runs, max(growth.ratio, 2 * runs.allowed - 1), spread.mean)
        yield _finding(FindingKind.INCONCLUSIVE, "cost_usd", text)


def _undecided(runs: LiveRuns, ratio: float, a_run: float) -> str:
    """Say how many more runs would decide whether the cost has grown by `ratio`."""
    size = signed_percent(ratio - 1)
    more = runs_to_decide(runs.baseline, runs.now, ratio)
    if more:
        return f"undecided: {plural(more, 'more run')}, about {money(more * a_run)}, would decide {size}"
    if more is None:
        return f"undecided: its baseline has too few runs, or this run has, to decide {size}"
    return f"undecided: it is not proved that it costs more, and these runs would find {size}"


def _interval(text: str) -> FindingEntry:
    return _finding(FindingKind.INTERVAL, "live", text)


def _finding(kind: FindingKind, where: str, text: str) -> FindingEntry:
    return {"kind": str(kind), "where": where, "tokens": None, "cost_usd": None, "text": text, "source": None}


def mean_usage(usages: Sequence[Usage]) -> Usage:
    """Return the mean, rate by rate, its counts rounded to whole tokens so that they still add up."""
    total, runs = sum(usages, Usage()), len(usages)
    by_rate = {
        rate: Tokens(*(round(getattr(tokens, count) / runs) for count in COUNTS))
        for rate, tokens in total.by_rate.items()
    }
    return Usage(round(total.turns / runs), MappingProxyType(by_rate))
