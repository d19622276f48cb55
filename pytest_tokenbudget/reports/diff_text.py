"""What became of the committed baselines, told: in a sentence, in the terminal, and below a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_tokenbudget.reports import tables, view
from pytest_tokenbudget.reports.baseline_report import AlreadyEntry, ChangeEntry, Diff
from pytest_tokenbudget.reports.document import TokensEntry, add
from pytest_tokenbudget.reports.escaping import code, html, prose
from pytest_tokenbudget.reports.layout import Line, Paper, named_table
from pytest_tokenbudget.reports.rows import METRICS
from pytest_tokenbudget.reports.text import plain, shorten, wrap
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, money, percent, plural, signed

_MOVED = ("raised", "lowered", "shifted")
_ORDER = (*_MOVED, "added", "removed", "renamed")
CHANGE_HEADERS = ("", "prompt was", "now", "change", "output", "turns", "cost a run")
SPARE_HEADERS = ("turns", "output", "prompt was", "now")
"""What a narrow terminal does without, in this order."""
_MATCHED = {"file": "its file was moved", "tokens": "the only one with these tokens"}
_NAME_COLUMNS = 44
_COMMENT_ROWS, _COMMENT_CHARACTERS = 15, 5_000
"""Beside a report of up to 60,000 characters, of 65,536 that a comment may have."""


def headline(diff: Diff) -> str:
    """`Baselines since origin/main (1a2b3c4): 3 raised, +4,120 prompt tokens (+34.0%), ...; 1 added`."""
    base = f"{plain(diff['base']['name'])} ({plain(diff['base']['commit'][:7])})"
    if not diff["scenarios"]:
        return f"The {plural(diff['unchanged'], 'baseline')} are as at {base}"
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
    before = add([one["before"] for one in found if one["before"]])
    now = add([one["now"] for one in found if one["now"]])
    moved = [
        view.growth(now[name], before[name], count, METRICS[name])
        for name in ("prompt_tokens", "output_tokens")
        if now[name] != before[name]
    ]
    dollars = _dollars(before, now)
    if dollars is None:
        moved.append("cost unknown")
    elif dollars and before["cost_usd"] is not None and now["cost_usd"] is not None:
        moved.append(view.growth(now["cost_usd"], before["cost_usd"], money, "a run"))
    return ", ".join([start, *moved])


def diff_lines(diff: Diff, *, columns: int, ascii_only: bool = False) -> list[Line]:
    """The headline, a table of what changed, what was found under another id, and what failed already."""
    paper = Paper(columns, ascii_only)
    lines = [Line(text, "bold") for text in wrap(headline(diff), columns)]
    told = [one for one in _sorted(diff) if one["change"] != "renamed"]
    if told:
        names = view.short_ids([one["id"] for one in told])
        lines += [
            Line(),
            *named_table(names, ("scenario", *CHANGE_HEADERS), list(map(_cells, told)), paper, SPARE_HEADERS),
        ]
    notes = [_renamed(one) for one in _sorted(diff) if one["was"] != one["id"]]
    notes += [_already(one) for one in diff["already"] or ()]
    if notes:
        lines.append(Line())
    lines += [Line(text) for note in notes for text in wrap(note, columns, "", "  ")]
    return list(map(paper.fitted, lines))


def diff_markdown(diff: Diff) -> str:
    """The same as a section of a comment, cut by whole rows; nothing where there is nothing to say."""
    if not diff["scenarios"] and not diff["already"]:
        return ""
    blocks = []
    if diff["scenarios"]:
        told = [one for one in _sorted(diff) if one["change"] != "renamed"]
        blocks.append(f"<details><summary>{html(headline(diff))}</summary>")
        if told:
            blocks.append(_table(told[:_COMMENT_ROWS]))
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
    names = view.short_ids([one["id"] for one in told])
    rows = [
        [code(shorten(name, _NAME_COLUMNS), cell=True), *map(prose, _cells(one))]
        for name, one in zip(names, told, strict=True)
    ]
    headers = ("Scenario", "Baseline", "Prompt tokens were", "Now", "Change", "Output", "Turns", "Cost a run")
    return tables.markdown(headers, rows, (False, False, *[True] * 6))


def _sorted(diff: Diff) -> list[ChangeEntry]:
    """By what happened, the dearest first, by id."""

    def key(one: ChangeEntry) -> tuple[int, float, str]:
        dollars = _dollars(one["before"], one["now"])
        return _ORDER.index(one["change"]), float("-inf") if dollars is None else -abs(dollars), one["id"]

    return sorted(diff["scenarios"], key=key)


def _dollars(before: TokensEntry | None, now: TokensEntry | None) -> float | None:
    """What it costs more; None where a price is unknown."""
    costs = [0.0 if side is None else side["cost_usd"] for side in (before, now)]
    was, is_now = costs
    return None if was is None or is_now is None else round(is_now - was, 10)


def _cells(one: ChangeEntry) -> list[str]:
    return change_cells(one["change"], one["before"], one["now"])


def change_cells(word: str, before: TokensEntry | None, now: TokensEntry | None) -> list[str]:
    """What happened, as a word and in numbers, below `CHANGE_HEADERS`."""
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
    """`already over at BASE (1a2b3c4)`, and what the change adds to that."""
    at = f" ({plain(one['commit'][:7])})" if one["commit"] else ""
    text = f"already {one['verdict']} at BASE{at}"
    worse = [METRICS[metric] for metric in one["worse"]]
    return f"{text}, and further now: {', '.join(worse)}" if worse else text
