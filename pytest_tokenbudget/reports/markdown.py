"""Write the report for people on GitHub: a comment of a pull request, or the summary of a job."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from posixpath import normpath
from typing import cast
from urllib.parse import quote

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.model import FindingKind
from pytest_tokenbudget.reports import change_view, run_view, scenario_view, text
from pytest_tokenbudget.reports.baseline_report import Accepting, diff_markdown
from pytest_tokenbudget.reports.document import Document, FindingEntry, LimitEntry, ScenarioEntry, SourceEntry
from pytest_tokenbudget.reports.scenario_view import (
    cost_cell,
    is_comparable,
    row,
    rows,
    runs_of,
    turn_table,
    ways_out,
)
from pytest_tokenbudget.reports.text import code, crop, html, html_code, message_lines, plain, prose, shorten
from pytest_tokenbudget.wording import count, listed, plural, signed

_COMMENT_CHARACTERS = 60_000
"""GitHub refuses a comment of more than 65,536."""
_SUMMARY_BYTES = 1_000_000
"""GitHub drops a step summary of more than 1 MiB, without failing the job."""
_COMMENT = ((50, 10), (50, 3), (25, 1), (10, 0), (3, 0), (0, 0))
_SUMMARY = ((10_000, 500), (2_000, 100), (500, 50), (100, 20), (50, 3), (10, 0), (0, 0))
"""Pairs of (rows of a table, details to unfold), from the most to the least; the first that fits is taken."""
_NAME_COLUMNS, _WHY_COLUMNS, _TURNS, _FINDINGS = 44, 100, 30, 10
_CHANGES, _PLACE_COLUMNS, _SENTENCE_COLUMNS, _NOTE_COLUMNS = 10, 100, 400, 600
_MISSING, _MISSING_COLUMNS = 20, 300
_ACCEPTED, _PLACES, _HEADLINE_COLUMNS = 3, 3, 300
_SUFFIX = re.compile(r"[\w./ ()]*(-[\w./ ()]+)*")


@dataclass(frozen=True, slots=True)
class Links:
    """The addresses of a run on GitHub, from GitHub's own event: no text of a document is part of them."""

    source: str
    """The files of the head commit: `https://github.com/owner/name/blob/COMMIT`."""
    head: str
    """The head commit."""
    run: str | None = None
    base: str | None = None
    """The commit that the pull request merges into."""

    def line(self, source: SourceEntry, folder: str) -> str | None:
        """Return the address of a line of a file in a folder of the repository; empty is its top.

        None if that is no plain path in the repository.
        """
        path = normpath(f"{folder}/{source['file']}") if folder else source["file"]
        if ".." in path or path.startswith("/"):
            return None
        return f"{self.source}/{quote(path)}#L{source['line']:d}"


@dataclass(frozen=True, slots=True)
class Cut:
    """How much of a document is written."""

    rows: int
    details: int
    every: bool
    """Every scenario is a row; else the first few of each cause."""


def markdown(
    document: Document,
    *,
    full: bool = False,
    suffix: str = "",
    runs_per_month: float | None = None,
    links: Links | None = None,
    accepting: Accepting | None = None,
) -> str:
    """Return the report; its first line is a hidden marker by which a comment is found again and updated.

    Short by default (under 60,000 characters), as `full` at most a megabyte; either is cut by whole rows and
    says how many. Without a change it is one quiet sentence. `suffix` tells the comments of several jobs
    apart; `runs_per_month` is of the scenarios that do not say it themselves; `links` are made where GitHub
    says where the run stands; `accepting` is what the pull request accepts. Raises ReportError for a suffix
    that an HTML comment cannot hold.
    """
    scenarios = [{**one, "runs_per_month": runs_of(one, runs_per_month)} for one in document["scenarios"]]
    document = cast("Document", {**document, "scenarios": scenarios})
    accepting = accepting or Accepting()
    if not (run_view.has_news(document) or accepting.has_news):
        return f"{marker(suffix)}\n\n{prose(run_view.headline(document))}.\n"
    text = ""
    for most, details in _SUMMARY if full else _COMMENT:
        cut = Cut(most, details, every=full)
        text = "\n\n".join([marker(suffix), *_blocks(document, cut, links, accepting)]) + "\n"
        if len(text.encode()) <= _SUMMARY_BYTES if full else len(text) <= _COMMENT_CHARACTERS:
            break
    return text


def marker(suffix: str = "") -> str:
    """Return the hidden first line: `<!-- pytest-tokenbudget -->`. Raises ReportError for a bad suffix."""
    if not _SUFFIX.fullmatch(suffix):
        raise ReportError(
            f"The suffix of a report's marker cannot be {suffix!r}. Use letters, digits, spaces and single "
            "characters of ._/()-."
        )
    return f"<!-- pytest-tokenbudget{f' {suffix}' if suffix else ''} -->"


def _accepted(accepting: Accepting, runs: Mapping[str, float | None], links: Links | None) -> str:
    """Return what is decided with a pull request as the words of a heading; empty if that is nothing."""
    raises = prose(crop(accepting.raises(runs), _HEADLINE_COLUMNS))
    raises += _at(accepting.sources, links) if raises else ""
    text = "; ".join(filter(None, (raises, prose(crop(accepting.decided(), _HEADLINE_COLUMNS)))))
    return text[:1].upper() + text[1:]


def _at(sources: Sequence[SourceEntry], links: Links | None) -> str:
    """Return where something changed: ` (file:line, file:line and 2 more)`; empty if it is not known."""
    named = [_place(source, links) for source in sources[:_PLACES]]
    if len(sources) > _PLACES:
        named.append(f"{len(sources) - _PLACES:,} more")
    return f" ({listed(named)})" if named else ""


def _place(source: SourceEntry, links: Links | None, folder: str = "") -> str:
    """Return `file:line` as code, with its address if that is known; the file is named from `folder`."""
    shown = code(crop(change_view.line(source), _PLACE_COLUMNS))
    address = links and links.line(source, folder)
    return f"[{shown}]({address})" if address else shown


def _headings(document: Document, accepting: Accepting, links: Links | None) -> Iterator[str]:
    """Yield what reviewers decide on: what fails, what is accepted with the pull request, what to look at.

    What is accepted leads where nothing fails: "all within budget" alone would hide it.
    """
    runs = {one["id"]: one["runs_per_month"] for one in document["scenarios"]}
    accepted = _accepted(accepting, runs, links)
    fails = any(map(scenario_view.fails, document["scenarios"]))
    if fails:
        yield f"### {prose(run_view.money_first(document))}"
        yield from [f"**{accepted}**"] if accepted else []
    else:
        yield f"### {accepted or prose(run_view.headline(document))}"
    items = [
        f"- **accepted**: {_name(name)}: {prose(text)}{_at(sources, links)}"
        for name, text, sources in accepting.items(runs)
    ]
    more = [f"- and {len(items) - _ACCEPTED:,} more"] if len(items) > _ACCEPTED else []
    looks = [f"- **look at**: {prose(crop(plain(text), _NOTE_COLUMNS))}" for text in accepting.notices]
    if found := [*items[:_ACCEPTED], *more, *looks[:_CHANGES]]:
        yield "\n".join(found)
    if fails and (accepted or found):  # two lists would be one
        yield "What fails:"
    elif accepted:
        yield f"{prose(run_view.headline(document, accepts=True))}."


def _blocks(document: Document, cut: Cut, links: Links | None, accepting: Accepting) -> Iterator[str]:
    listed = scenario_view.worst_first(document["scenarios"])
    told = [one for one in listed if one["verdict"] != "within"]
    within = [one for one in listed if one["verdict"] == "within"]
    failing = [one for one in told if scenario_view.fails(one)]
    shown = [(one, 0) for one in told] if cut.every else change_view.some_of_each_cause(told)
    yield from _headings(document, accepting, links)
    if items := list(_items(document, links, cut.rows)):
        yield "\n".join(items)  # one list: with empty lines between, GitHub would set all of it apart
    yield from _ways_out(failing or told)
    if shown[: cut.rows]:
        yield f"<details><summary>{_numbers_of(told)}</summary>"
        yield _table(shown[: cut.rows])
        yield "</details>"
    if left := len(told) - sum(1 + alike for _, alike in shown[: cut.rows]):
        yield f"_And {left:,} more, too many for this page: `tokenbudget report FILE` tells all of the JSON._"
    for group in change_view.by_cause(failing)[: cut.details]:
        yield from _details(*group)
    if within:
        yield from _within(within, cut.rows)
    if accepting.diff and (below := diff_markdown(accepting.diff)):
        yield below.rstrip("\n")
    yield f"<sub>{_footer(document, links)}</sub>"


def _items(document: Document, links: Links | None, rows: int) -> Iterator[str]:
    """Yield what reviewers read first, as items of one list that is narrow enough for a phone.

    That is what was not measured, what differs place by place, why the others fail, what should be known even
    if all is within budget, and live runs. Each begins with words of ours, so that no text of others begins a
    line.
    """
    changes, folder = change_view.changes(document), document["project"] or ""
    missing = [f"- **not measured**: {_missing(*told)}" for told in run_view.missing_by_text(document)]
    reasons = list(map(_reason, change_view.unexplained(document, changes)))
    notes = [
        f"- **to know**: {prose(crop(str(note), _NOTE_COLUMNS))}" for note in change_view.notes(document)
    ]
    live = [f"- {prose(line)}" for line in run_view.live(document)]
    yield from _most(missing, _MISSING)
    yield from _most([_change(change, links, folder) for change in changes], _CHANGES)
    yield from _most(reasons, _CHANGES)
    yield from _most(notes, _CHANGES)
    yield from _most(live, rows)


def _missing(names: Sequence[str], text: str) -> str:
    """Return tests and why they are not measured, in one line of Markdown."""
    shown = f"{code(crop(names[0], _MISSING_COLUMNS))}{run_view.and_more(names)}: " if names else ""
    return shown + _message(text)


def _message(text: str) -> str:
    """Return a message in one line of Markdown, its commands as code."""
    return " ".join(
        code(line.strip()) if line.startswith("  ") else prose(crop(line, _MISSING_COLUMNS))
        for line in message_lines(text)
    )


def _most(items: Sequence[str], most: int) -> Iterator[str]:
    """Yield the first items, and how many more there are."""
    yield from items[:most]
    if len(items) > most:
        yield f"- and {len(items) - most:,} more"


def _reason(group: Sequence[ScenarioEntry]) -> str:
    """Return a list item: scenarios that fail for another reason than a change, and why the first does."""
    first, *alike = group
    more = f" and {len(alike):,} more like it" if alike else ""
    limits = map(str, rows(first)) if first["verdict"] == "over" else ()
    causes = map(change_view.sentence, change_view.beside_changes(first)[:1])
    why = "; ".join([*limits, *causes])
    why = f": {prose(crop(why, _SENTENCE_COLUMNS))}" if why else ""
    return f"- **{prose(first['verdict'])}**: {_name(first['id'])}{more}{why}"


def _numbers_of(scenarios: Sequence[ScenarioEntry]) -> str:
    """Return how many scenarios a table is of, in words: `2 scenarios fail, 1 is cheaper`."""
    numbers = Counter(map(_word, scenarios))
    (first, number), *others = [
        (word[number > 1], number) for word in (_FAILS, _CHEAPER, _BELOW) if (number := numbers[word])
    ]
    return ", ".join([f"{plural(number, 'scenario')} {first}", *(f"{n:,} {word}" for word, n in others)])


_FAILS, _CHEAPER = ("fails", "fail"), ("is cheaper", "are cheaper")
_BELOW = ("is improved, not cheaper", "are improved, not cheaper")


def _word(scenario: ScenarioEntry) -> tuple[str, str]:
    """Return what a scenario that is not within budget does, in words: one, several."""
    if scenario_view.fails(scenario):
        return _FAILS
    return _CHEAPER if scenario_view.is_cheaper(scenario) else _BELOW


def _change(change: change_view.Change, links: Links | None, folder: str) -> str:
    """Return a list item: the line, what it does, and its causes in the scenario that it costs most.

    Each line begins with words of ours, so that no text can begin a block, or underline a heading.
    """
    first, *others = change.findings
    where, title = prose(crop(change.where, _PLACE_COLUMNS)), "**changed**"
    if source := change.source:
        title = f"**{_place(source, links, folder)}**"
    extent = prose(", ".join(filter(None, (change.amounts, change.extent))))
    name = _name(scenario_view.short_names(change.scenarios[:1])[0])
    texts = [prose(crop(change_view.sentence(one), _SENTENCE_COLUMNS)) for one in (first, *others[:2])]
    return "\n".join([f"- {title}: {where}: {extent}", *(f"  - in {name}: {text}" for text in texts)])


def _table(shown: Sequence[tuple[ScenarioEntry, int]]) -> str:
    """Return a table of one row a scenario, narrow enough for a comment: what belongs together is stacked."""
    by_month = any(one["runs_per_month"] is not None for one, _ in shown)
    cost = "Cost a run,<br>a month" if by_month else "Cost a run"
    listed = []
    for name, (one, alike) in zip(scenario_view.short_names([one for one, _ in shown]), shown, strict=True):
        its = rows(one)
        columns = zip(*((each.baseline, each.now, each.change, each.limit) for each in its), strict=True)
        numbers = ["<br>".join(map(_number, column)) for column in columns]
        month = one["runs_per_month"]
        costs = [cost_cell(one)] if month is None else [cost_cell(one), cost_cell(one, month)]
        listed.append([_about(name, one, alike), *numbers, "<br>".join(map(_number, costs))])
    headers = ("Scenario and cause", "Baseline", "Now", "Change", "Limit", cost)
    return text.markdown(headers, listed, (False, *[True] * 5))


def _about(name: str, scenario: ScenarioEntry, alike: int) -> str:
    verdict = prose(scenario["verdict"])
    if scenario_view.fails(scenario):
        verdict = f"**{verdict}**"
    if scenario["verdict"] in ("over", "improved"):
        verdict += f": {', '.join(each.metric for each in rows(scenario))}"
    more = f"_and {alike:,} more like it_" if alike else ""
    return "<br>".join(filter(None, (_name(name), verdict, _why(scenario), more)))


def _name(name: str) -> str:
    """Return a scenario, a part of the prompt or a place for a cell, so short that the cell is narrow."""
    return code(shorten(name, _NAME_COLUMNS), cell=True)


def _number(cell: str) -> str:
    return prose(cell).replace(" ", "&nbsp;")


def _why(scenario: ScenarioEntry) -> str:
    """Return the first cause in one phrase, with its place; empty if there is none."""
    for finding in change_view.causes(scenario):
        where, tokens = finding["where"], finding["tokens"]
        if finding["kind"] == FindingKind.GROWTH and where and tokens:
            phrase = f"{_name(where)} {signed(tokens, count(tokens))} tokens"
        elif finding["kind"] == FindingKind.CACHE_BREAK and where:
            phrase = f"cache broken at {_name(where)}"
        else:
            phrase = prose(crop(change_view.sentence(finding), _WHY_COLUMNS))
        place = change_view.place(finding)
        return f"{phrase}, {_name(place)}" if place else phrase
    return ""


def _ways_out(scenarios: Sequence[ScenarioEntry]) -> Iterator[str]:
    found = ways_out(scenarios)
    commands = ["\n".join((f"# {one.what}", *one.commands)) for one in found if one.commands]
    if commands:
        yield "\n".join(["```sh", *commands, "```"])
    yield from (f"{prose(one.what)}." for one in found if not one.commands)


def _details(scenario: ScenarioEntry, *alike: ScenarioEntry) -> Iterator[str]:
    """Yield what a reviewer unfolds: every limit, the turns, all causes and what would be cheaper."""
    turns = turn_table(scenario, _TURNS)
    facts = [scenario["verdict"], plural(len(scenario["turns"]), "turn"), *turns.facts]
    more = f" (and {len(alike):,} more like it)" if alike else ""
    yield f"<details><summary>{html_code(scenario['id'])}: {html(', '.join(facts))}{more}</summary>"
    findings = [*change_view.causes(scenario), *change_view.levers(scenario)]
    if findings:
        yield "\n".join(_finding(one) for one in findings[:_FINDINGS])
    if scenario["limits"]:
        headers = ("Limit of", "Baseline", "Now", "Change", "Limit")
        yield text.markdown(
            headers, [_limit(one, scenario) for one in scenario["limits"]], (False, *[True] * 4)
        )
    if turns.rows:
        yield text.markdown(turns.headers, [list(map(prose, cells)) for cells in turns.rows], turns.numbers)
    if turns.hidden:
        yield f"_{plural(turns.hidden, 'turn')} not shown._"
    yield "</details>"


def _limit(limit: LimitEntry, scenario: ScenarioEntry) -> list[str]:
    shown = row(limit, scenario)
    name = f"**{shown.metric}**" if limit["over"] else shown.metric
    return [name, *map(prose, (shown.baseline, shown.now, shown.change, shown.limit))]


def _finding(finding: FindingEntry) -> str:
    """Return a list item; it begins with a word of ours, so that no text can begin a block inside it."""
    label = "could be cheaper" if change_view.is_lever(finding) else prose(finding["kind"].replace("_", " "))
    facts = list(map(prose, change_view.facts(finding)))
    more = f" ({', '.join(facts)})" if facts else ""
    return f"- **{label}**: {prose(change_view.sentence(finding))}{more}"


def _within(scenarios: Sequence[ScenarioEntry], most: int) -> Iterator[str]:
    yield f"<details><summary>Within budget, in numbers: {plural(len(scenarios), 'scenario')}</summary>"
    shown = scenarios[:most]
    if shown:
        listed = []
        for name, one in zip(scenario_view.short_names(shown), shown, strict=True):
            its = rows(one)[0]
            listed.append([_name(name), *map(prose, (its.now, its.change, its.limit, cost_cell(one)))])
        headers = ("Scenario", "Prompt tokens", "Change", "Limit", "Cost a run")
        yield text.markdown(headers, listed, (False, *[True] * 4))
    if len(scenarios) > most:
        yield f"_And {len(scenarios) - most:,} more._"
    yield "</details>"


def _footer(document: Document, links: Links | None) -> str:
    prices = document["prices"]
    parts = [run_view.mode(document), f"prices of {prose(prices['source'])} {prose(prices['version'])}"]
    if document["commit"]:
        parts.insert(0, f"commit {code(document['commit'][:12])}")
    if any(one["basis"] == "estimated" for one in document["scenarios"]):
        parts.append("\\~ is estimated: `--token-budget-count=api` counts exactly, for free")
    if of_month := run_view.month([one for one in document["scenarios"] if is_comparable(one)]):
        parts.append(prose(of_month))
    if links:
        parts += [f"[base]({links.base})"] if links.base else []
        parts.append(f"[head]({links.head})")
    if links and links.run:
        parts.append(f"[run and full report]({links.run})")
    return " · ".join(parts)
