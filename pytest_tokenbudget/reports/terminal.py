"""Write the section at the end of a run, the text of a failing test, and what a recording wrote and cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Protocol, TypedDict

from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.model import FindingKind, Usage
from pytest_tokenbudget.reports import change_view, run_view, scenario_view, text
from pytest_tokenbudget.reports.change_view import Change
from pytest_tokenbudget.reports.document import (
    Document,
    FindingEntry,
    ScenarioEntry,
    TokensEntry,
    usage_of,
)
from pytest_tokenbudget.reports.scenario_view import (
    Row,
    TurnTable,
    WayOut,
    cost_cell,
    rows,
    turn_table,
    unpriced,
    ways_out,
)
from pytest_tokenbudget.reports.text import (
    Line,
    Paper,
    ascii_strings,
    message,
    named_blocks,
    plain,
    shorten,
    width,
    wrap,
)
from pytest_tokenbudget.wording import NONE, UNKNOWN, listed, money, next_step, plural, signed, signed_count

_LEAST_COLUMNS = 40
"""The least width that lines are laid out for; the longest option of a command fits into it."""
_SCENARIOS, _DETAILS, _CAUSES, _MISSING, _NAMES = 20, 10, 3, 10, 3
"""How much of a long run is shown without -v."""
_ABOUT = (
    "~ is estimated, as nothing here counts it exactly: --token-budget-count=api does, "
    "for free (needs an API key)."
)
_HEADERS = ("scenario", "metric", "baseline", "now", "change", "limit", "cost a run")
_NUMBERS = (False, False, True, True, True, True, True)
_SPARE = ("cost a run", "baseline")
"""Columns that a narrow terminal leaves out: their sums are at the end, and the change is in the row."""
_MODEL_COLUMNS = 30
"""Width of the name of a model in a table of turns; an ARN is three times as wide."""
_COLORS: Mapping[str, str] = {
    "over": "red",
    "stale": "yellow",
    "unknown": "yellow",
    "unrecorded": "yellow",
    "new": "yellow",
    "improved": "green",
    "within": "",
}
"""The colours of verdicts; one that is not here is red."""
_REASONS: Mapping[str, str] = {
    "stale": "Stale: the recording does not answer what the agent asks",
    "unknown": "Unknown: nobody can tell offline whether it is within its budget",
    "unrecorded": "Unrecorded: it asks, and has no cassette",
    "new": "New: there is no token baseline to be held against",
}


class WriteLine(Protocol):
    """Writes a line as `TerminalReporter.write_line` does."""

    def __call__(self, line: str, /, **markup: bool) -> object:
        """Write one line in the colours of `markup`."""


def summary(
    document: Document,
    write_line: WriteLine,
    *,
    columns: int = 80,
    verbosity: int = 0,
    ascii_only: bool = False,
) -> None:
    """Write the section of `document`: what changed, worst first, then what fails for another reason.

    Nothing is written if all was measured, and nothing failed, got cheaper, has an unknown cost or was asked
    for with `-v`. With `-v` every scenario is told with its turns, with `-q` a change in a few lines. No line
    is wider than `columns` (40 at the least) but a command, which is to be pasted. `ascii_only` is for
    terminals that show no more.
    """
    for line in summary_lines(document, columns=columns, verbosity=verbosity, ascii_only=ascii_only):
        write_line(line.text, **({line.style: True} if line.style else {}))


def summary_lines(
    document: Document, *, columns: int = 80, verbosity: int = 0, ascii_only: bool = False
) -> list[Line]:
    """Return the lines that `summary` writes."""
    paper = Paper(max(columns, _LEAST_COLUMNS), ascii_only)
    if ascii_only:
        document = ascii_strings(document)
    told = scenario_view.worst_first(document["scenarios"])
    if verbosity <= 0:
        told = [one for one in told if one["verdict"] != "within" or unpriced(one)]
    missing, live = run_view.missing(document), run_view.live(document)
    notes = list(map(str, change_view.notes(document)))
    if not told and not missing and not notes and not live:
        return []
    failing = [one for one in told if scenario_view.fails(one)]
    cheaper = [one for one in told if one["verdict"] == "improved" and verbosity >= 0]
    lines = [Line(" token budgets ".center(paper.columns, "="), "bold")]
    lines += _causes(document, paper, verbosity) if failing or cheaper else ()
    if verbosity > 0:
        lines += _table([(one, 0) for one in told], paper) if told else ()
        said = _said_of_causes(document)
        lines += [line for one in failing for line in (Line(), *_turns(one, paper, said[one["id"]]))] + [
            Line()
        ]
    elif verbosity == 0 and told:
        lines += [*_few_of_each_cause(told, paper), Line()]
    for texts, style in ((live, ""), (notes, "yellow"), (missing, "red")):
        lines += chain.from_iterable(message(text, paper, style) for text in _some(texts, verbosity))
    lines += [line for way_out in ways_out(failing or cheaper) for line in _way_out(way_out, paper)]
    lines += [Line(text) for text in wrap(_estimated(told, verbosity), paper.columns)]
    return list(map(paper.fitted, lines)) if lines[1:] else []  # no heading of nothing


def _estimated(told: Sequence[ScenarioEntry], verbosity: int) -> str:
    """Return what `~` means, if it is in the report; else nothing.

    Numbers of what is stale are in its turns only, which are told with -v.
    """
    shown = told if verbosity > 0 else [one for one in told if not scenario_view.is_departed(one)]
    return _ABOUT if scenario_view.tilde(shown) else ""


def _causes(document: Document, paper: Paper, verbosity: int) -> Iterator[Line]:
    """Yield what differs, place by place, and what fails for another reason; with -q without empty lines."""
    told = change_view.changes(document)
    most = None if verbosity > 0 else _DETAILS
    failing = [[one["id"] for one in change.failing] for change in told]
    blocks = [
        _change(change, paper, verbosity, is_named=sorted(ids) in map(sorted, failing[:number]))
        for number, (change, ids) in enumerate(zip(told, failing, strict=True))
    ]
    blocks += [_reason(group, paper, verbosity) for group in change_view.unexplained(document, told)]
    for block in blocks[:most]:
        yield from block
        if verbosity >= 0:
            yield Line()
    if most and len(blocks) > most:
        yield Line(f"and {len(blocks) - most:,} more causes: -v shows them all")


def _said_of_causes(document: Document) -> dict[str, list[FindingEntry]]:
    """Return the findings that `_causes` writes with -v, by the id of their scenario."""
    told = change_view.changes(document)
    said: dict[str, list[FindingEntry]] = defaultdict(list)
    for change in told:
        said[change.scenarios[0]["id"]] += change.findings
    for scenario, *_ in change_view.unexplained(document, told):
        said[scenario["id"]] += change_view.beside_changes(scenario)
    return said


def _change(change: Change, paper: Paper, verbosity: int, *, is_named: bool) -> Iterator[Line]:
    """Yield one change: where, how much, in how many scenarios, and its causes in the one it costs most.

    `is_named`: whether a change above it names the same scenarios already.
    """
    (dearest, *others), findings = change.scenarios, change.findings
    yield from (Line(text, "red") for text in wrap(change.title, paper.columns, "", "  "))
    extent = ", ".join(filter(None, (change.amounts, change.extent)))
    yield from map(Line, wrap(extent, paper.columns, "  ", "  "))
    whose = f"{scenario_view.short_names([dearest])[0]}: " if others else ""
    for finding in findings[: None if verbosity > 0 else _CAUSES]:
        is_part = len(findings) > 1 or (verbosity > 0 and others)
        amounts = "; ".join(change_view.facts(finding)) if is_part else ""
        sentence = f"{whose}{change_view.sentence(finding)}" + (f"; {amounts}" if amounts else "")
        yield from map(Line, wrap(sentence, paper.columns, "  * ", "    "))
    if verbosity <= 0 and len(findings) > _CAUSES:
        yield Line(f"  * and {len(findings) - _CAUSES:,} more: -v shows them all")
    if verbosity < 0 and not (is_named and change.is_saving):
        text = _names(change.failing, is_named=is_named)
        yield from map(Line, wrap(text, paper.columns, "  ", "    "))


def _names(scenarios: Sequence[ScenarioEntry], *, is_named: bool) -> str:
    """Return how scenarios fail and the first of their names; how many they are if they are named already."""
    verdicts = [*dict.fromkeys(one["verdict"] for one in scenarios)]
    names = scenario_view.short_names(scenarios)
    if is_named and len(names) > 1:
        return f"{', '.join(verdicts)}: the same {plural(len(names), 'scenario')}"
    past = [{row.metric: None for row in rows(one)} for one in scenarios if one["verdict"] == "over"]
    if past and not is_named:
        over = _over_in(past)
        verdicts = [over if verdict == "over" else verdict for verdict in verdicts]
    more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
    return f"{', '.join(verdicts)}: {', '.join(names[:_NAMES])}{more}"


def _over_in(metrics: Sequence[Collection[str]]) -> str:
    """Return what scenarios are over in, of which `metrics` has a collection each: all of them, or some."""
    every = [metric for metric in metrics[0] if all(metric in one for one in metrics)]
    some = [metric for metric in dict.fromkeys(chain.from_iterable(metrics)) if metric not in every]
    if not every:
        return f"over in {' or '.join(some)}"
    return f"over in {listed(every)}" + (f", some in {listed(some)}" if some else "")


def _reason(group: Sequence[ScenarioEntry], paper: Paper, verbosity: int) -> Iterator[Line]:
    """Yield why scenarios fail that no change is told for: their verdict, and the causes of the first."""
    scenario, *alike = group
    style = _COLORS.get(scenario["verdict"], "red")
    more = f" and {len(alike):,} more like it" if alike else ""
    name = f"{plain(scenario['id'])}{more}"
    reason = _REASONS.get(scenario["verdict"], scenario["verdict"])
    if scenario["verdict"] == "over":
        reason = f"Over budget: {'; '.join(map(str, rows(scenario)))}"
    yield from (Line(text, style) for text in wrap(f"{name}: {reason}", paper.columns, "", "  "))
    causes = change_view.beside_changes(scenario)
    for finding in causes if verbosity > 0 else causes[:_CAUSES]:
        yield from map(Line, _cause(finding, paper.columns))
    if verbosity <= 0 and len(causes) > _CAUSES:
        yield Line(f"  * and {len(causes) - _CAUSES:,} more: -v shows them all")


def _few_of_each_cause(told: Sequence[ScenarioEntry], paper: Paper) -> Iterator[Line]:
    shown = change_view.some_of_each_cause(told)
    yield from _table(shown[:_SCENARIOS], paper)
    if left := len(told) - sum(1 + alike for _, alike in shown[:_SCENARIOS]):
        yield Line(f"and {left:,} more: -v shows them all")


def _some(texts: Sequence[str], verbosity: int) -> list[str]:
    """Return all sentences with -v; without it, the first of them and how many more."""
    if verbosity > 0 or len(texts) <= _MISSING:
        return list(texts)
    return [*texts[:_MISSING], f"and {len(texts) - _MISSING:,} more: -v shows them all"]


def _table(shown: Sequence[tuple[ScenarioEntry, int]], paper: Paper) -> Iterator[Line]:
    scenarios = [one for one, _ in shown]
    groups = [[_cells(one, row, cost=index == 0) for index, row in enumerate(rows(one))] for one in scenarios]
    header, blocks = named_blocks(
        scenario_view.short_names(scenarios), _HEADERS, groups, paper, _NUMBERS, _SPARE
    )
    yield Line(header, "bold")
    for (one, alike), block in zip(shown, blocks, strict=True):
        style = "red" if unpriced(one) else _COLORS.get(one["verdict"], "red")
        yield from (Line(text, style) for text in block)
        if alike:
            yield Line(f"  {alike:,} more like it: -v shows them all", style)


def _cells(scenario: ScenarioEntry, row: Row, cost: bool) -> tuple[str, ...]:
    dollars = cost_cell(scenario) if cost else ""
    return row.metric.removesuffix(" tokens"), row.baseline, row.now, row.change, row.limit, dollars


def _turns(scenario: ScenarioEntry, paper: Paper, said: Sequence[FindingEntry]) -> Iterator[Line]:
    """Yield the turns of a scenario that fails, and its causes but those `said` above."""
    verdict = f": {scenario['verdict']}"
    name = shorten(plain(scenario["id"]), paper.columns - len(verdict), paper.mark)
    yield Line(name + verdict, _COLORS.get(scenario["verdict"], "red"))
    table, turns = turn_table(scenario), len(scenario["turns"])
    if table.rows:
        facts = [plural(turns, "turn"), *table.facts]
        yield from map(Line, wrap(", ".join(facts), paper.columns, "  ", "  "))
        yield from map(Line, _turn_lines(table, paper))
    for finding in change_view.causes(scenario):
        if finding not in said:
            yield from map(Line, _cause(finding, paper.columns))


def _turn_lines(table: TurnTable, paper: Paper) -> list[str]:
    """Return the table in as many of its columns as fit."""
    rows = [[shorten(cell, _MODEL_COLUMNS, paper.mark) for cell in row] for row in table.rows]
    table = replace(table, rows=tuple(map(tuple, rows)))
    for header in ("", "answered by", "tokens are", "written", "was", "read was"):
        table = table.without(header)
        lines = text.terminal(table.headers, table.rows, table.numbers)
        if max(map(width, lines)) <= paper.columns - 2:
            break
    return ["  " + line for line in lines]


def _cause(finding: FindingEntry, columns: int) -> Iterator[str]:
    yield from wrap(change_view.sentence(finding), columns, "  * ", "    ")
    yield from wrap(", ".join(change_view.facts(finding)), columns, "    ", "    ")


def _way_out(way_out: WayOut, paper: Paper) -> Iterator[Line]:
    """Yield what to do, and each command as a line of its own that can be pasted."""
    what = f"{way_out.what}:" if way_out.commands else way_out.what
    yield from map(Line, wrap(what, paper.columns, "", "  "))
    yield from (Line(f"  {command}", is_command=True) for command in way_out.commands)


def failure_text(scenario: ScenarioEntry) -> str:
    """Return why a test fails: what it is, where to look, and the way out.

    Stands under the test's name, so it does not repeat it; pytest's short summary shows the first line.
    """
    lines = [failure_reason(scenario)]
    lines += [
        _where_to_look(finding)
        for finding in (change_view.reasons(scenario) or change_view.causes(scenario))[:1]
    ]
    lines += [str(way_out) for way_out in ways_out([scenario])]
    return "\n".join(lines)


def failure_reason(scenario: ScenarioEntry, *, amounts: bool = True) -> str:
    """Return what a failing test is: `Over budget: prompt tokens +9.1%, cost +6.9%`, or without `amounts`."""
    if scenario["verdict"] != "over":
        return _REASONS.get(scenario["verdict"], scenario["verdict"])
    past = [
        f"{row.metric} {row.now if row.change == NONE else row.change}"
        if amounts or row.now == UNKNOWN
        else row.metric
        for row in rows(scenario)
    ]
    return f"Over budget: {', '.join(past)}"


def _where_to_look(finding: FindingEntry) -> str:
    """Return the place of a finding, and what it says in a few words, of this test alone."""
    if finding["kind"] in change_view.OF_COST:
        where = ": ".join(filter(None, (change_view.place(finding), change_view.phrase(finding))))
        is_growth = finding["kind"] == FindingKind.GROWTH and finding["where"] and finding["tokens"]
        return f"  {where}" + (" in this test" if is_growth else "")
    return f"  {change_view.sentence(finding)}"


_MOST = 20
"""How many cassettes are named without -v."""


_CAUSES_OF_COST = (
    FindingKind.GROWTH,
    FindingKind.CACHE_BREAK,
    FindingKind.CACHE_CHANGE,
    FindingKind.MODEL_CHANGED,
    FindingKind.RATE_CHANGED,
    FindingKind.TURNS_CHANGED,
)


def acceptances(
    document: Document,
    before: Mapping[str, Usage],
    anew: Collection[str],
    counters: Mapping[str, str],
    cost: CostOf,
) -> list[str]:
    """Return a sentence for each baseline that an update changed; `before` holds what they were, by id.

    `anew` are the ids of those that were measured on another recording; `counters` has what had counted
    those that another counter counts now.
    """
    return [
        _acceptance(
            entry, entry["measured"], before[name], cost, anew=name in anew, counter=counters.get(name)
        )
        for entry in document["scenarios"]
        if (name := entry["id"]) in before and entry["measured"]
    ]


def _acceptance(
    entry: ScenarioEntry, now: TokensEntry, before: Usage, cost: CostOf, *, anew: bool, counter: str | None
) -> str:
    was = before.tokens.prompt_tokens
    turns = f"{before.turns} -> {now['turns']} turns, " if before.turns != now["turns"] else ""
    change = signed_count(now["prompt_tokens"] - was) + (f", before by {counter}" if counter else "")
    tokens = f"{was:,} -> {now['prompt_tokens']:,} prompt tokens ({change})"
    priced, dollars_now = cost(before), now["cost_usd"]
    amount = "an unknown cost"
    if priced is not None and dollars_now is not None:
        apart = dollars_now - float(priced)
        amount = f"{signed(apart, money(apart))} a run"
    if usage_of(now) == before:
        tokens, amount = f"{was:,} prompt tokens", "all as before"
    name, causes = entry["id"], entry["findings"]
    if "formerly" in entry:  # causes are told since the recording: what was accepted then is among them
        name, causes = f"{name} (was {entry['formerly']['baselines'][0]})", []
    cause = _accepted_causes([one for one in causes if one["kind"] in _CAUSES_OF_COST])
    cause = cause or ("it was recorded anew" if anew else "")
    return plain(f"accepted {name}: {turns}{tokens}, {amount}" + (f": {cause}" if cause else ""))


def _accepted_causes(causes: Sequence[FindingEntry]) -> str:
    """Return one cause in the words of a red run; of several, what grew in short. Empty without any."""
    if len(causes) == 1:
        where, text = causes[0]["where"], causes[0]["text"]
        is_led = where and text.startswith(f"{where}: ")
        return f"{change_view.in_words(where)}{text.removeprefix(where)}" if is_led else text
    told = [_growth(one) if one["kind"] == FindingKind.GROWTH else one["text"] for one in causes[:_CAUSES]]
    return "; ".join([*told, *([f"and {len(causes) - _CAUSES:,} more"] if len(causes) > _CAUSES else [])])


def _growth(finding: FindingEntry) -> str:
    """Return the place and the tokens of growth: `agent.md:14: the system prompt (system[0]) +120 tokens`."""
    return ": ".join(filter(None, (change_view.place(finding), change_view.phrase(finding))))


def kept(baselines: Collection[str], *, migrating: bool) -> list[str]:
    """Return the sentence about baselines that an update left as they are though their numbers changed."""
    if not baselines:
        return []
    one = len(baselines) == 1
    number, its, it = plural(len(baselines), "baseline"), "its" if one else "their", "it" if one else "them"
    if migrating:
        stay = "stays as it is" if one else "stay as they are"
        what = f"{number} {stay}: {its} numbers are no longer those of {its} recording"
    else:
        what = f"{number} changed within {its} tolerance, and {'stays' if one else 'stay'}"
    return [next_step(f"{what}. To take {it} as measured now", "tokenbudget update --all")]


class RecordedEntry(TypedDict):
    """One cassette that was written; builtins only, so that it crosses processes."""

    cassette: str
    """Its path, absolute."""
    turns: int
    """Turns that it holds."""
    called: int
    """Turns that were really called for it."""
    cost_usd: float | None
    """Dollars of the called turns; None if unknown."""
    turns_before: int | None
    """Turns that the cassette held before; None if there was none."""
    is_rewritten: bool
    """Whether its file changed."""


class Recordings:
    """All cassettes that a run has written, and what they cost."""

    def __init__(self) -> None:
        self._entries: dict[str, RecordedEntry] = {}

    def add(self, entry: RecordedEntry) -> None:
        """Take in one cassette; if its test runs again, all its calls were paid for."""
        before = self._entries.get(entry["cassette"])
        if before is not None:
            one, other = before["cost_usd"], entry["cost_usd"]
            cost = None if one is None or other is None else one + other
            entry = {
                **entry,
                "called": before["called"] + entry["called"],
                "cost_usd": cost,
                "turns_before": before["turns_before"],
                "is_rewritten": before["is_rewritten"] or entry["is_rewritten"],
            }
        self._entries[entry["cassette"]] = entry

    def folders(self) -> set[Path]:
        """Return the folders whose `cassettes` hold them."""
        cassettes = (Path(path).parents[1] for path in self._entries)
        return {folder.parent for folder in cassettes if folder.name == "cassettes"}

    def lines(self, shown: Callable[[Path], object], verbosity: int = 0) -> Iterator[str]:
        """Yield a line for each cassette, its path as `shown`, and one for all; under -q only the last."""
        entries = list(self._entries.values())
        named = entries if verbosity > 0 else entries[:_MOST] if verbosity == 0 else []
        for one in named:
            did, end = ("wrote", "") if one["is_rewritten"] else ("kept", ", the answers are the same")
            yield f"{did} {shown(Path(one['cassette']))}: {_facts([one])}{end}"
        if 0 < len(named) < len(entries):
            yield f"and {len(entries) - len(named):,} cassettes more: -v shows them all"
        if len(entries) > 1 or (entries and not named):
            yield f"recorded {plural(len(entries), 'cassette')}: {_facts(entries)}"


def _facts(entries: Sequence[RecordedEntry]) -> str:
    """Return what was recorded, in words: `5 turns instead of 4, 2 called, $0.0123`."""
    turns, called = sum(one["turns"] for one in entries), sum(one["called"] for one in entries)
    before = sum(one["turns"] if one["turns_before"] is None else one["turns_before"] for one in entries)
    facts = [plural(turns, "turn") + ("" if before == turns else f" instead of {before:,}")]
    facts += [] if called == turns else [f"{called:,} called"]
    known = [one["cost_usd"] for one in entries if one["cost_usd"] is not None]
    cost = money(sum(known))
    if len(known) < len(entries):
        cost = f"at least {cost}" if sum(known) else "cost unknown"
    return ", ".join([*facts, cost])
