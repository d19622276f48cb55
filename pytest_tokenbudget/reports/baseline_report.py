"""Tell how the committed baselines changed: as JSON, in a sentence, in a table, below a pull request.

    DIFF = {"version": 1, "prices": {"source": ..., "version": ...}, "runs_per_month": 30000 | null,
      "base": {"name": "origin/main", "commit": HASH}, "unchanged": 11,
      "scenarios": [{"id": ..., "was": ..., "matched": "file" | "recording" | "tokens" | null,
        "change": "raised" | "lowered" | "shifted" | "added" | "removed" | "renamed",
        "before": TOKENS | null, "now": TOKENS | null, "accepts": ["system", "tools"], "tools": ["refund"],
        "sources": [{"file": "prompts/support.md", "line": 14}]}],
      "already": null | [{"id": ..., "verdict": "over", "commit": HASH | null, "worse": [METRIC, ...]}],
      "start": {"scenarios": 14, "foreign_reads": 0, "usd": ..., "cold_usd": ..., "warm_usd": ...,
        "warm_is_least": true}}

`already` says what failed at the base; it is null if no document of the base was given.
`start` is what a run of all baselines of now costs, by what the prompt cache holds when it begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NotRequired, TypedDict, cast

from pytest_tokenbudget.budget.accepted import NewlyAccepted
from pytest_tokenbudget.budget.changes import Change
from pytest_tokenbudget.budget.verdict import CostOf
from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.reports import build, run_view, scenario_view, text
from pytest_tokenbudget.reports.document import (
    Document,
    LimitEntry,
    ScenarioEntry,
    SourceEntry,
    StartsEntry,
    TokensEntry,
    add,
    problems,
)
from pytest_tokenbudget.reports.scenario_view import (
    METRICS,
    baselines_month,
    months,
    other_start,
    short_ids,
    usual_month,
)
from pytest_tokenbudget.reports.text import (
    Line,
    Paper,
    code,
    html,
    message,
    named_table,
    plain,
    prose,
    shorten,
    wrap,
)
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, listed, money, next_step, percent, plural, signed

VERSION = 1
_AGAIN = "Write it again with `tokenbudget diff --format json`."


class BaseEntry(TypedDict):
    """The commit that the baselines are compared with."""

    name: str
    """The name under which it was asked for."""
    commit: str


class ChangeEntry(TypedDict):
    """One baseline that changed."""

    id: str
    was: str
    matched: str | None
    change: str
    before: TokensEntry | None
    now: TokensEntry | None
    accepts: NotRequired[list[str]]
    """Fields of its requests that are accepted otherwise than before."""
    tools: NotRequired[list[str]]
    """Names of the tools that are accepted otherwise, if they are known."""
    sources: NotRequired[list[SourceEntry]]
    """The lines that the new texts come from, if they are known; files from the top of the repository."""


class AlreadyEntry(TypedDict):
    """A scenario that fails, and failed with the same verdict at the base."""

    id: str
    verdict: str
    commit: str | None
    """The commit where it was measured failing."""
    worse: list[str]
    """Metrics further past their limit now, or only now past it: the change is to blame for these."""


class Diff(TypedDict):
    """The changes of all baselines since a base: DIFF."""

    version: int
    base: BaseEntry
    prices: dict[str, str]
    runs_per_month: NotRequired[int | None]
    """Runs of each scenario a month, as the settings say; None if they do not."""
    unchanged: int
    scenarios: list[ChangeEntry]
    already: list[AlreadyEntry] | None
    other_start: NotRequired[list[str]]
    """Ids of scenarios that were recorded from different caches: foreign reads count as writes."""
    start: NotRequired[StartsEntry]
    """What the baselines of now cost, from the start of each recording and from others."""


def diff(
    changes: Sequence[Change],
    unchanged: int,
    base: BaseEntry,
    prices: Mapping[str, str],
    cost: CostOf,
    runs_per_month: int | None = None,
    accepts: Mapping[str, NewlyAccepted] = MappingProxyType({}),
    start: StartsEntry | None = None,
) -> Diff:
    """Return the DIFF of `changes`, both sides at the same prices.

    `accepts` is by scenario id; `start` is of all baselines of now.
    """
    scenarios: list[ChangeEntry] = [
        {
            "id": one.id,
            "was": one.was,
            "matched": None if one.matched is None else str(one.matched),
            "change": str(one.direction),
            "before": None if one.before is None else build.tokens(one.before, cost),
            "now": None if one.now is None else build.tokens(one.now, cost),
            "accepts": [*accepts.get(one.id, NewlyAccepted()).fields],
            "tools": [*accepts.get(one.id, NewlyAccepted()).tools],
            "sources": [
                {"file": source.file, "line": source.line}
                for source in accepts.get(one.id, NewlyAccepted()).sources
            ],
        }
        for one in changes
    ]
    found: Diff = {
        "version": VERSION,
        "base": base,
        "prices": dict(prices),
        "runs_per_month": runs_per_month,
        "unchanged": unchanged,
        "scenarios": scenarios,
        "already": None,
    }
    return found if start is None else {**found, "start": start}


def already_failing(report: Document, base: Document, was: Mapping[str, str]) -> list[AlreadyEntry]:
    """Return what fails in `report` and failed with the same verdict in `base`, a document of the base.

    `was` holds the old id of each scenario that has a new one.
    """
    then = {one["id"]: one for one in base["scenarios"]}
    found: list[AlreadyEntry] = []
    for one in filter(scenario_view.fails, report["scenarios"]):
        before = then.get(was.get(one["id"], one["id"]))
        if before is not None and before["verdict"] == one["verdict"]:
            worse = _worse(one, before)
            found.append(
                {"id": one["id"], "verdict": one["verdict"], "commit": base["commit"], "worse": worse}
            )
    return found


def _worse(now: ScenarioEntry, before: ScenarioEntry) -> list[str]:
    then = {limit["metric"]: limit for limit in before["limits"] if limit["over"]}
    exceeded = [limit for limit in now["limits"] if limit["over"]]
    return [
        one["metric"] for one in exceeded if one["metric"] not in then or _is_worse(one, then[one["metric"]])
    ]


def _is_worse(now: LimitEntry, before: LimitEntry) -> bool:
    measured, measured_before = now["measured"], before["measured"]
    if measured is None or measured_before is None:
        return measured is None and measured_before is not None
    return measured < measured_before if now["metric"] == "cache_share" else measured > measured_before


def load_diff(path: Path) -> Diff:
    """Read and validate the DIFF at `path`. Raises ReportError with what is wrong with it."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ReportError(f"{path} cannot be read: {error.strerror}. {_AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {error}. {_AGAIN}") from error
    wrong = next(problems(found, _SCHEMA), None)
    if wrong is not None:
        raise ReportError(f"{path}: {wrong}. {_AGAIN}")
    return cast("Diff", found)


def _object(optional: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
        "properties": properties,
    }


_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_TOKENS_OR_NULL = {"anyOf": [{"$ref": "#/$defs/tokens"}, {"type": "null"}]}
_DOLLARS_OR_NULL = {"type": ["number", "null"], "minimum": 0}
_CHANGES = {"enum": ["raised", "lowered", "shifted", "added", "removed", "renamed"]}
_CHANGE = _object(
    ("accepts", "tools", "sources"),
    id=_TEXT,
    was=_TEXT,
    matched={"enum": ["file", "recording", "tokens", None]},
    change=_CHANGES,
    before=_TOKENS_OR_NULL,
    now=_TOKENS_OR_NULL,
    accepts={"type": "array", "items": _TEXT},
    tools={"type": "array", "items": _TEXT},
    sources={"type": "array", "items": _object(file=_TEXT, line={"$ref": "#/$defs/count"})},
)
_ALREADY = _object(
    id=_TEXT,
    verdict={"$ref": "#/$defs/word"},
    commit=_TEXT_OR_NULL,
    worse={"type": "array", "items": {"enum": list(METRICS)}},
)
_SCHEMA = _object(
    ("runs_per_month",),
    version={"const": VERSION},
    base=_object(name=_TEXT, commit=_TEXT),
    prices=_object(source=_TEXT, version=_TEXT),
    runs_per_month={"anyOf": [{"$ref": "#/$defs/count"}, {"type": "null"}]},
    unchanged={"$ref": "#/$defs/count"},
    scenarios={"type": "array", "items": _CHANGE},
    already={"anyOf": [{"type": "array", "items": _ALREADY}, {"type": "null"}]},
)
_SCHEMA["properties"] |= {
    "other_start": {"type": "array", "items": _TEXT},
    "start": _object(
        scenarios={"$ref": "#/$defs/count"},
        foreign_reads={"$ref": "#/$defs/count"},
        usd=_DOLLARS_OR_NULL,
        cold_usd=_DOLLARS_OR_NULL,
        warm_usd=_DOLLARS_OR_NULL,
        warm_is_least={"type": "boolean"},
    ),
}


_UNACCEPTED = next_step("What the agent costs now, against these", "pytest --token-budget")
_BOTH_SIDES = "on both sides"
_MOVED = ("raised", "lowered", "shifted")
_ORDER = (*_MOVED, "added", "removed", "renamed")
CHANGE_HEADERS = ("", "prompt was", "now", "change", "output", "turns", "cost a run")
SPARE_HEADERS = ("turns", "output", "prompt was", "now")
"""Columns that a narrow terminal leaves out, in this order."""
_MATCHED = {
    "file": "its file was moved",
    "recording": "the only one of this recording",
    "tokens": "the only one with these tokens",
}
_NAME_COLUMNS = 44
_COMMENT_ROWS, _COMMENT_CHARACTERS = 15, 5_000
"""Most rows and characters. A comment may have 65,536, and the report beside it takes up to 60,000."""


@dataclass(frozen=True, slots=True)
class Accepting:
    """What a pull request accepts: a decision that its reviewers see. Its words may be anybody's."""

    diff: Diff | None = None
    decisions: Sequence[str] = ()
    """Each decision in a few words: `excludes tests in 1 place`."""
    notices: Sequence[str] = ()
    """Each decision in a sentence."""

    @property
    def has_news(self) -> bool:
        """Return whether there is anything to say."""
        return bool(self.notices or (self.diff and (self.diff["scenarios"] or self.diff["already"])))

    @property
    def raised(self) -> list[ChangeEntry]:
        """Return the baselines that were raised, the one that costs most more first."""
        return [one for one in _sorted(self.diff) if one["change"] == "raised"] if self.diff else []

    @property
    def sources(self) -> list[SourceEntry]:
        """Return the lines that raised baselines are raised for, each once."""
        return _places(self.raised)

    def raises(self, runs: Mapping[str, float | None]) -> str:
        """Return in words what is raised: `accepts +6,680 prompt tokens (+14.3%), ..., in 5 scenarios`.

        `runs`, by scenario id, are its runs a month, for the dollars a month. Empty if nothing is raised.
        """
        if not (raised := self.raised):
            return ""
        amounts = _moved(raised)
        months = [_month(one, runs.get(one["id"])) for one in raised]
        amounts += _monthly(None if None in months else sum(each or 0.0 for each in months))
        fields = dict.fromkeys(field for one in raised for field in one.get("accepts", ()))
        words = {**_FIELDS, "tools": _tools(raised)}
        changes = listed(list(dict.fromkeys(words.get(field, plain(field)) for field in fields)))
        for_changes = f", for changes of {changes}" if changes else ""
        return f"accepts {', '.join(amounts)}, in {plural(len(raised), 'scenario')}{for_changes}"

    def decided(self) -> str:
        """Return in words what else is decided: `changes 1 cassette`. Empty if that is nothing."""
        return "; ".join(map(plain, self.decisions))

    def items(self, runs: Mapping[str, float | None]) -> list[tuple[str, str, list[SourceEntry]]]:
        """Return the name of each raised baseline, by how much it was raised, and the lines that raise it.

        There are no lines where all are raised for the same: the headline says them.
        """
        raised = self.raised
        names, every = short_ids([one["id"] for one in raised]), len(_places(raised))
        alike = all(len(_places([one])) == every for one in raised)
        return [
            (
                name,
                ", ".join([*_moved([one]), *_monthly(_month(one, runs.get(one["id"])))]),
                [] if alike else _places([one]),
            )
            for name, one in zip(names, raised, strict=True)
        ]


def _places(raised: Sequence[ChangeEntry]) -> list[SourceEntry]:
    """Return the lines of what was accepted, each once."""
    found = {(place["file"], place["line"]): place for one in raised for place in one.get("sources", ())}
    return [*found.values()]


def _tools(raised: Sequence[ChangeEntry]) -> str:
    """Return which tools were accepted otherwise, in words: `the tool refund`, `5 tools (a, b, c, ...)`."""
    names = [plain(name) for name in dict.fromkeys(name for one in raised for name in one.get("tools", ()))]
    if len(names) > _NAMED:
        return f"{len(names):,} tools ({', '.join(names[:_NAMED])}, ...)"
    return f"the {'tool' if len(names) == 1 else 'tools'} {listed(names)}" if names else _FIELDS["tools"]


_NAMED = 3
"""How many tools a headline names."""
_FIELDS = {
    "system": "the system prompt",
    "tools": "the tools",
    "messages": "the conversation",
    "model": "the model",
    "(url)": "the model",
    "(keys)": "the order of keys",
    "(anthropic-beta)": "the betas",
}


def _month(one: ChangeEntry, runs: float | None) -> float | None:
    dollars = _dollars(one["before"], one["now"])
    return None if runs is None or dollars is None else dollars * runs


def _monthly(month: float | None) -> list[str]:
    return [f"{signed(month, money(month))} a month"] if month else []


def headline(diff: Diff) -> str:
    """Return a sentence: `Baselines since origin/main (1a2b3c4): 3 raised, +4,120 prompt tokens; 1 added`."""
    base = f"{plain(diff['base']['name'])} ({plain(diff['base']['commit'][:7])})"
    if not diff["scenarios"]:
        number = diff["unchanged"]
        if not number:
            return f"There is no baseline, neither here nor at {base}"
        return f"Nothing was accepted since {base}: {plural(number, 'baseline')}, unchanged"
    parts = [part for word in _ORDER if (part := _part(diff, word))]
    if diff["unchanged"]:
        parts.append(f"{diff['unchanged']:,} unchanged")
    return f"Baselines since {base}: {'; '.join(parts)}"


def _part(diff: Diff, word: str) -> str:
    found = [one for one in diff["scenarios"] if one["change"] == word]
    if not found:
        return ""
    start = f"{len(found):,} {word}"
    if word not in _MOVED:
        return start
    months = [_month(one, diff.get("runs_per_month")) for one in found]
    month = None if None in months else sum(each or 0.0 for each in months)
    return ", ".join([start, *_moved(found), *_monthly(month)])


def _moved(found: Sequence[ChangeEntry]) -> list[str]:
    """Return what baselines add up to more than before: prompt tokens, output tokens, dollars a run."""
    before = add([one["before"] for one in found if one["before"]])
    now = add([one["now"] for one in found if one["now"]])
    moved = [
        run_view.growth(now[name], before[name], count, METRICS[name])
        for name in ("prompt_tokens", "output_tokens")
        if now[name] != before[name]
    ]
    dollars = _dollars(before, now)
    if dollars is None:
        moved.append("cost unknown")
    elif dollars and before["cost_usd"] is not None and now["cost_usd"] is not None:
        moved.append(run_view.growth(now["cost_usd"], before["cost_usd"], money, "a run"))
    return moved


def diff_lines(diff: Diff, *, columns: int, ascii_only: bool = False) -> list[Line]:
    """Return a DIFF in lines: headline, table of what changed, what was renamed, what failed already."""
    paper = Paper(columns, ascii_only)
    lines = [Line(text, "bold") for text in wrap(headline(diff), columns)]
    told = [one for one in _sorted(diff) if one["change"] != "renamed"]
    if told:
        names = scenario_view.short_ids([one["id"] for one in told])
        lines += [
            Line(),
            *named_table(names, ("scenario", *CHANGE_HEADERS), list(map(_cells, told)), paper, SPARE_HEADERS),
        ]
    notes = [_renamed(one) for one in _sorted(diff) if one["was"] != one["id"]]
    notes += other_start(diff.get("other_start", ()), _BOTH_SIDES)
    notes += [_already(one) for one in diff["already"] or ()]
    notes += months(diff.get("runs_per_month"), diff.get("start"))
    if not diff["scenarios"]:
        lines += message(_UNACCEPTED, paper)
    if notes:
        lines.append(Line())
    lines += [Line(text) for note in notes for text in wrap(note, columns, "", "  ")]
    return list(map(paper.fitted, lines))


def diff_markdown(diff: Diff) -> str:
    """Return a DIFF as a section of a comment, cut by whole rows; empty if there is nothing to say."""
    if not diff["scenarios"] and not diff["already"]:
        return ""
    blocks = []
    if diff["scenarios"]:
        told = [one for one in _sorted(diff) if one["change"] != "renamed"]
        blocks.append(f"<details><summary>{html(headline(diff))}</summary>")
        if told:
            blocks.append(_table(told[:_COMMENT_ROWS]))
        blocks += [html(note) for note in other_start(diff.get("other_start", ()), _BOTH_SIDES)]
        blocks += [html(note) for note in months(diff.get("runs_per_month"), diff.get("start"))]
        blocks += _cut([_renamed_markdown(one) for one in _sorted(diff) if one["was"] != one["id"]])
        if len(told) > _COMMENT_ROWS:
            blocks.append(f"_And {len(told) - _COMMENT_ROWS:,} more: `tokenbudget diff` lists them all._")
        blocks.append("</details>")
    blocks += _cut([_already_markdown(one) for one in diff["already"] or ()])
    text = "\n\n".join(blocks) + "\n"
    return text if len(text) <= _COMMENT_CHARACTERS else f"{prose(headline(diff))[:_COMMENT_CHARACTERS]}.\n"


def _cut(items: Sequence[str]) -> Iterator[str]:
    shown = [f"- {item}" for item in items[:_COMMENT_ROWS]]
    if len(items) > _COMMENT_ROWS:
        shown.append(f"- and {len(items) - _COMMENT_ROWS:,} more")
    if shown:
        yield "\n".join(shown)


def _table(told: Sequence[ChangeEntry]) -> str:
    names = scenario_view.short_ids([one["id"] for one in told])
    rows = [
        [code(shorten(name, _NAME_COLUMNS), cell=True), *map(prose, _cells(one))]
        for name, one in zip(names, told, strict=True)
    ]
    headers = ("Scenario", "Baseline", "Prompt tokens were", "Now", "Change", "Output", "Turns", "Cost a run")
    return text.markdown(headers, rows, (False, False, *[True] * 6))


def _sorted(diff: Diff) -> list[ChangeEntry]:
    """Return the changes by what happened, then the dearest first, then by id."""

    def key(one: ChangeEntry) -> tuple[int, float, str]:
        dollars = _dollars(one["before"], one["now"])
        return _ORDER.index(one["change"]), float("-inf") if dollars is None else -abs(dollars), one["id"]

    return sorted(diff["scenarios"], key=key)


def _dollars(before: TokensEntry | None, now: TokensEntry | None) -> float | None:
    """Return how many dollars `now` costs more than `before`, or None if a price is unknown."""
    costs = [0.0 if side is None else side["cost_usd"] for side in (before, now)]
    was, is_now = costs
    return None if was is None or is_now is None else round(is_now - was, 10)


def _cells(one: ChangeEntry) -> list[str]:
    return change_cells(one["change"], one["before"], one["now"])


def change_cells(word: str, before: TokensEntry | None, now: TokensEntry | None) -> list[str]:
    """Return the cells of a change below `CHANGE_HEADERS`: a word and numbers."""
    dollars = _dollars(before, now)
    cost = UNKNOWN if dollars is None else signed(dollars, money(dollars))
    if before is None or now is None:
        counts = [NONE if side is None else count(side["prompt_tokens"]) for side in (before, now)]
        return [word, *counts, NONE, NONE, NONE, cost]
    was, is_now = before["prompt_tokens"], now["prompt_tokens"]
    change = signed(is_now - was, percent((is_now - was) / was)) if was and is_now != was else NONE
    output = now["output_tokens"] - before["output_tokens"]
    turns = now["turns"] - before["turns"]
    deltas = [signed(delta, count(delta)) if delta else NONE for delta in (output, turns)]
    return [word, count(was), count(is_now), change, *deltas, NONE if dollars == 0 else cost]


def _renamed(one: ChangeEntry) -> str:
    return f"{plain(one['id'])} was {plain(one['was'])}: {_MATCHED.get(one['matched'] or '', 'renamed')}"


def _renamed_markdown(one: ChangeEntry) -> str:
    new, old = (code(shorten(plain(name), _NAME_COLUMNS)) for name in (one["id"], one["was"]))
    return f"{new} was {old}: {_MATCHED.get(one['matched'] or '', 'renamed')}"


def _already(one: AlreadyEntry) -> str:
    return f"{plain(one['id'])}: {_blame(one)}"


def _already_markdown(one: AlreadyEntry) -> str:
    return f"{code(shorten(plain(one['id']), 2 * _NAME_COLUMNS))}: **{prose(_blame(one))}**"


def _blame(one: AlreadyEntry) -> str:
    """Return words that say it failed before, `already over at BASE (1a2b3c4)`, and what the change adds."""
    at = f" ({plain(one['commit'][:7])})" if one["commit"] else ""
    text = f"already {one['verdict']} at BASE{at}"
    worse = [METRICS[metric] for metric in one["worse"]]
    return f"{text}, and further now: {', '.join(worse)}" if worse else text


_HEADERS = ("scenario", "turns", "prompt", "written", "read", "output", "cache share", "a run")
_SPARE = ("turns", "written", "read", "cache share", "output")
_TOTAL = "total"


def suite_json(
    baselines: Mapping[str, TokensEntry],
    prices: Mapping[str, str],
    runs_per_month: int | None,
    start: StartsEntry,
) -> dict[str, Any]:
    """Return the baselines as `{"version", "prices", "runs_per_month", "totals", "start", "scenarios"}`.

    `totals` is TOKENS, and `scenarios` `{ID: TOKENS}`.
    """
    return {
        "version": 1,
        "prices": dict(prices),
        "runs_per_month": runs_per_month,
        "totals": add(list(baselines.values())),
        "start": start,
        "scenarios": dict(baselines),
    }


def suite_lines(
    baselines: Mapping[str, TokensEntry],
    prices: Mapping[str, str],
    runs_per_month: int | None,
    start: StartsEntry,
    *,
    columns: int,
    ascii_only: bool = False,
) -> list[Line]:
    """Return a table of the baselines, one row a scenario, with their sum and, from each `start`, a month."""
    if not baselines:
        return [Line("There are no baselines here. Write them with `tokenbudget update`.")]
    names = [*short_ids(list(baselines)), _TOTAL]
    headers = _HEADERS if runs_per_month is None else (*_HEADERS, "a month")
    cells = [
        _baseline_cells(one, runs_per_month) for one in (*baselines.values(), add(list(baselines.values())))
    ]
    lines = list(named_table(names, headers, cells, Paper(columns, ascii_only), _SPARE))
    about = [plural(len(baselines), "scenario"), f"prices of {' '.join(prices.values())}"]
    if runs_per_month is not None:
        about.append(usual_month(runs_per_month))
    notes = [", ".join(about)]
    if runs_per_month is not None:
        notes.append(baselines_month(start, runs_per_month))
    return [*lines, Line(), *(Line(text) for note in notes for text in wrap(note, columns))]


def _baseline_cells(one: TokensEntry, runs_per_month: int | None) -> list[str]:
    prompt, cost = one["prompt_tokens"], one["cost_usd"]
    cells = [
        count(one["turns"]),
        count(prompt),
        count(one["cache_creation_input_tokens"]),
        count(one["cache_read_input_tokens"]),
        count(one["output_tokens"]),
        percent(one["cache_read_input_tokens"] / prompt) if prompt else NONE,
        UNKNOWN if cost is None else money(cost),
    ]
    if runs_per_month is not None:
        cells.append(UNKNOWN if cost is None else money(cost * runs_per_month))
    return cells
