"""What unfolds below a scenario: why, what would be cheaper, its limits, its trend and its turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_tokenbudget.reports import view
from pytest_tokenbudget.reports.axes import compact
from pytest_tokenbudget.reports.dashboard import charts
from pytest_tokenbudget.reports.dashboard.charts import Bar
from pytest_tokenbudget.reports.dashboard.subjects import Finding, Subject
from pytest_tokenbudget.reports.document import ScenarioEntry, TokensEntry, TurnEntry
from pytest_tokenbudget.reports.rows import Row, row
from pytest_tokenbudget.reports.text import plain
from pytest_tokenbudget.reports.turns import TurnTable, turn_table
from pytest_tokenbudget.wording import UNKNOWN, count, plural

_TURNS, _FINDINGS = 40, 10
"""Listed at most; of more turns those that changed. The chart shows them all."""


@dataclass(frozen=True, slots=True)
class Details:
    """Of one scenario; without a run there is nothing but its id and how many turns it has."""

    id: str
    facts: Sequence[str]
    causes: Sequence[Finding] = ()
    levers: Sequence[Finding] = ()
    limits: Sequence[tuple[Row, bool]] = ()
    """Each with whether it is passed; none where nothing changed."""
    turns: TurnTable | None = None
    chart: str = ""


def details(one: Subject, *, brief: bool = False) -> Details:
    """What is known of one scenario; `brief`: its turns only as a picture."""
    entry = one.entry
    if entry is None:
        turns = plural(one.now["turns"], "turn") if one.now else f"turns {UNKNOWN}"
        return Details(plain(one.id), [turns])
    table = turn_table(entry, _TURNS if len(entry["turns"]) > _TURNS else None)
    if not view.is_news(entry):
        table = table.without("was").without("change")
    return Details(
        id=plain(one.id),
        facts=[
            f"line {entry['line']}",
            plural(len(entry["turns"]), "turn"),
            *(table.facts if table.rows else ()),
        ],
        causes=[Finding.of(found) for found in view.causes(entry)[:_FINDINGS]],
        levers=[Finding.of(found) for found in view.levers(entry)[:_FINDINGS]],
        limits=[(row(limit, entry), limit["over"]) for limit in entry["limits"]]
        if view.is_news(entry)
        else [],
        turns=table if table.rows and not brief else None,
        chart=_chart(entry) if entry["turns"] else "",
    )


def by_kind(tokens: TokensEntry) -> tuple[int, int, int, int]:
    """The four counts in the order of `charts.KINDS`."""
    return (
        tokens["cache_read_input_tokens"],
        tokens["cache_creation_input_tokens"],
        tokens["input_tokens"],
        tokens["output_tokens"],
    )


def _chart(entry: ScenarioEntry) -> str:
    bars = [_bar(turn) for turn in entry["turns"]]
    known = [sum(bar.parts) for bar in bars if bar.parts]
    label = f"Tokens of {plural(len(bars), 'turn')}"
    if known:
        label += f", from {count(min(known))} to {count(max(known))}"
    return charts.stacked_bars(bars, label, compact)


def _bar(turn: TurnEntry) -> Bar:
    tokens, recorded = turn["tokens"], turn["recorded"]
    return Bar(
        parts=None if tokens is None else by_kind(tokens),
        was=None if recorded is None else sum(by_kind(recorded)),
    )
