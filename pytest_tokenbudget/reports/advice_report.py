"""Tell what a suite could save: the levers of all scenarios, the dearest scenarios, and the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TypedDict

from pytest_tokenbudget.advice import Spend, far_above
from pytest_tokenbudget.advice import outliers as shares_of
from pytest_tokenbudget.reports import change_view, scenario_view, text
from pytest_tokenbudget.reports.document import Document, FindingEntry, ScenarioEntry, TokensEntry, add
from pytest_tokenbudget.reports.history import ENDED_EARLY, LogEntry, log_paid
from pytest_tokenbudget.reports.scenario_view import runs_of
from pytest_tokenbudget.reports.text import Line, Paper, code, named_table, plain, prose, wrap
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, money, percent, plural, signed

_OVERLAP = (
    "Each saving is that of one change alone. Those of one scenario overlap: what is cached costs less to "
    "drag along, and what is dropped need not be cached. Together they save less than their sum."
)


class LeverEntry(TypedDict):
    """One way to spend less, in all scenarios that it is found in."""

    kind: str
    where: str
    text: str
    source: str
    """`file:line`, or nothing."""
    tokens: int | None
    """Sum over a run of each scenario, negative if saved; null if unknown of any."""
    cost_usd: float | None
    cost_usd_a_month: float | None
    """Sum over a month of all runs; null if a cost, or how often a scenario runs, is unknown of any."""
    scenarios: list[str]
    """Ids; the text is about the first."""


class OutlierEntry(TypedDict):
    """A scenario that costs far more than the others."""

    id: str
    cost_usd: float
    share: float
    """Its part of what one run of the whole suite costs, 0 to 1."""


class Advice(TypedDict):
    """The JSON that `tokenbudget advise --format json` writes."""

    version: int
    prices: dict[str, str]
    runs_per_month: float | None
    """How often a month scenarios run that do not say it themselves."""
    scenarios: int
    totals: TokensEntry
    """Sum over a run of every scenario that could be measured."""
    cost_usd_a_month: float | None
    levers: list[LeverEntry]
    """The largest saving first."""
    spend: list[str]
    """Sentences on which scenarios and turns hold which share of the spend."""
    outliers: list[OutlierEntry]


def advice(document: Document, runs_per_month: float | None, logged: Sequence[LogEntry] = ()) -> Advice:
    """Return the advice that `document` holds, and what the real runs that were `logged` cost."""
    scenarios = document["scenarios"]
    measured = [(one["id"], one["measured"]) for one in scenarios if one["measured"] is not None]
    runs = {one["id"]: runs_of(one, runs_per_month) for one in scenarios}
    return {
        "version": 1,
        "prices": document["prices"],
        "runs_per_month": runs_per_month,
        "scenarios": len(scenarios),
        "totals": add([tokens for _, tokens in measured]),
        "cost_usd_a_month": _a_month([(runs[name], tokens["cost_usd"]) for name, tokens in measured]),
        "levers": _levers(scenarios, runs),
        "spend": [*_spend(scenarios), *_paid(logged)],
        "outliers": outliers({name: tokens["cost_usd"] for name, tokens in measured}),
    }


def _a_month(costs: Sequence[tuple[float | None, float | None]]) -> float | None:
    """Return the dollars a month of (runs a month, dollars a run); None if one is unknown of any."""
    known = [often * cost for often, cost in costs if often is not None and cost is not None]
    return round(sum(known), 10) if known and len(known) == len(costs) else None


def _levers(scenarios: Sequence[ScenarioEntry], runs: Mapping[str, float | None]) -> list[LeverEntry]:
    groups: dict[tuple[str, str, str], list[tuple[str, FindingEntry]]] = {}
    for one in scenarios:
        for found in change_view.levers(one):
            key = found["kind"], found["where"], change_view.place(found)
            groups.setdefault(key, []).append((one["id"], found))
    levers = [_lever(group, runs) for group in groups.values()]

    def saving(lever: LeverEntry) -> tuple[float, str, str]:
        cost = lever["cost_usd"]
        return float("inf") if cost is None else cost, lever["kind"], lever["where"]

    return sorted(levers, key=saving)


def _lever(group: Sequence[tuple[str, FindingEntry]], runs: Mapping[str, float | None]) -> LeverEntry:
    group = sorted(group, key=lambda one: one[1]["cost_usd"] or 0.0)
    dearest = group[0][1]
    tokens, costs = [f["tokens"] for _, f in group], [f["cost_usd"] for _, f in group]
    counts, dollars = [n for n in tokens if n is not None], [n for n in costs if n is not None]
    return {
        "kind": dearest["kind"],
        "where": dearest["where"],
        "text": dearest["text"],
        "source": change_view.place(dearest),
        "tokens": sum(counts) if len(counts) == len(tokens) else None,
        "cost_usd": round(sum(dollars), 10) if len(dollars) == len(costs) else None,
        "cost_usd_a_month": _a_month([(runs[name], found["cost_usd"]) for name, found in group]),
        "scenarios": list(dict.fromkeys(name for name, _ in group)),
    }


def outliers(costs: Mapping[str, float | None]) -> list[OutlierEntry]:
    """Return the scenarios that cost far more than the others, the dearest first."""
    known = {name: cost for name, cost in costs.items() if cost}
    total = sum(known.values())
    far = sorted(((known[name], name) for name, _ in far_above(known)), reverse=True)
    return [{"id": name, "cost_usd": cost, "share": cost / total} for cost, name in far]


def _spend(scenarios: Sequence[ScenarioEntry]) -> list[str]:
    """Return sentences that say where the spend of the suite is; outliers have a table of their own."""
    suite = {
        one["id"]: [_spend_of(turn["tokens"]) for turn in one["turns"] if turn["tokens"] is not None]
        for one in scenarios
        if one["measured"] is not None
    }
    return [one.text for one in shares_of(suite)]


def _paid(logged: Sequence[LogEntry]) -> Iterator[str]:
    """Yield sentences on what the log says was paid, what of it for nothing, and for which scenario most."""
    paid = [entry for entry in logged if entry["paid_usd"] or entry["paid_unknown"]]
    if not paid:
        return
    yield f"By the log, {plural(len(paid), 'run')} of a scenario made real calls, for {log_paid(paid)}"
    early = [entry for entry in paid if entry["outcome"] in ENDED_EARLY]
    if early:
        yield f"{log_paid(early)} of it went to {plural(len(early), 'run')} that ended early"
    by_name: dict[str, list[LogEntry]] = defaultdict(list)
    for entry in paid:
        by_name[entry["id"]].append(entry)
    dearest = max(by_name, key=lambda name: sum(entry["paid_usd"] for entry in by_name[name]))
    if len(by_name) > 1:
        runs = by_name[dearest]
        yield f"{dearest} was paid most for: {log_paid(runs)} in {plural(len(runs), 'run')}"


def _spend_of(tokens: TokensEntry) -> Spend:
    cost = tokens["cost_usd"]
    counted = tokens["prompt_tokens"] + tokens["output_tokens"]
    return Spend(counted, None if cost is None else Decimal(str(cost)))


def advice_lines(found: Advice, *, columns: int, ascii_only: bool = False) -> list[Line]:
    """Return the advice in lines: the whole, what to do about it, and where the spend goes."""
    paper = Paper(columns, ascii_only)
    lines = [Line(text, "bold") for text in wrap(_headline(found), columns)]
    for number, lever in enumerate(found["levers"], 1):
        lines.append(Line())
        title = f"{number}. {_saving(lever)}"
        lines += [Line(text, "green") for text in wrap(title, columns, "", "   ")]
        lines += [Line(text) for text in wrap(_sentence(lever), columns, "   ", "   ")]
        lines += [Line(text) for text in wrap(_where(lever), columns, "   ", "   ")]
    if note := overlap(found):
        lines += [Line(), *(Line(text) for text in wrap(note, columns))]
    lines += [Line(), *(Line(text) for one in found["spend"] for text in wrap(plain(one), columns))]
    if found["outliers"]:
        names = scenario_view.short_ids([one["id"] for one in found["outliers"]])
        cells = [[money(one["cost_usd"]), percent(one["share"])] for one in found["outliers"]]
        lines += [
            Line(),
            *named_table(names, ("far above the others", "a run", "of the suite"), cells, paper),
        ]
    return list(map(paper.fitted, lines))


def advice_markdown(found: Advice) -> str:
    """Return the advice in Markdown."""
    blocks = [f"### {prose(_headline(found))}"]
    items = [
        f"1. **{prose(_saving(lever))}**: {prose(_sentence(lever))} ({prose(_where(lever))})"
        for lever in found["levers"]
    ]
    if items:
        blocks.append("\n".join(items))
    if note := overlap(found):
        blocks.append(note)
    blocks += [prose(one) for one in found["spend"]]
    if found["outliers"]:
        rows = [
            [code(o["id"], cell=True), money(o["cost_usd"]), percent(o["share"])] for o in found["outliers"]
        ]
        headers = ("Far above the others", "A run", "Of the suite")
        blocks.append(text.markdown(headers, rows, (False, True, True)))
    return "\n\n".join(blocks) + "\n"


def overlap(found: Advice) -> str:
    """Return what to know if one scenario has several savings; else nothing."""
    names = [name for lever in found["levers"] for name in lever["scenarios"]]
    return _OVERLAP if len(set(names)) < len(names) else ""


def _headline(found: Advice) -> str:
    return ", ".join(_parts(found))


def _parts(found: Advice) -> Iterator[str]:
    totals, month = found["totals"], found["cost_usd_a_month"]
    cost, prompt = totals["cost_usd"], totals["prompt_tokens"]
    yield f"{plural(found['scenarios'], 'scenario')}: {count(prompt)} prompt tokens a run"
    if prompt:
        yield f"{percent(totals['cache_read_input_tokens'] / prompt)} of them read from the cache"
    yield f"{count(totals['output_tokens'])} output tokens"
    yield f"cost {UNKNOWN}" if cost is None else f"{money(cost)} a run"
    if month is not None:
        yield f"{money(month)} a month"
    if not found["levers"]:
        yield "nothing found that would be cheaper"


def _saving(lever: LeverEntry) -> str:
    cost, often = lever["cost_usd"], lever["cost_usd_a_month"]
    if cost is None:
        return f"{plain(lever['kind'].removeprefix('lever_').replace('_', ' '))}: saving {UNKNOWN}"
    month = f", {signed(often, money(often))} a month" if often is not None else ""
    return f"{signed(cost, money(cost))} a run{month}"


def _sentence(lever: LeverEntry) -> str:
    return plain(lever["text"])


def _where(lever: LeverEntry) -> str:
    first, *others = map(plain, lever["scenarios"] or [NONE])
    return f"in {first}, whose numbers these are, and {len(others):,} more" if others else f"in {first}"
