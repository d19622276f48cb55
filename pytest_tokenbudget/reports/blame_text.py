"""Which commit moved which scenario, told in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_tokenbudget.reports import view
from pytest_tokenbudget.reports.blame_report import Blame, BlamedCommit, MoveEntry
from pytest_tokenbudget.reports.diff_text import CHANGE_HEADERS, SPARE_HEADERS, change_cells
from pytest_tokenbudget.reports.layout import Line, Paper, named_table
from pytest_tokenbudget.reports.text import plain, wrap
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, plural

_FIRST = "The first that could be measured: the next are held against it."
_UNTOLD = {"stale": "stale", "failed": "its test failed", "skipped": "its test was skipped"}


def blame_lines(blame: Blame, *, columns: int, ascii_only: bool = False) -> list[Line]:
    """Commit by commit, what it moved."""
    paper = Paper(columns, ascii_only)
    first, *others = blame["commits"]
    lines = [Line(f"{blame['range']}: {plural(len(others), 'commit')}, held against", "bold")]
    lines += [Line(text) for text in wrap(_title(first), columns)]
    lines += [Line(text) for text in wrap(plain(first["note"]), columns, "  ", "  ")]
    measured = first["state"] == "measured"
    for one, before in zip(others, blame["commits"], strict=False):
        lines += [Line(), *(Line(text, "bold") for text in wrap(_title(one), columns))]
        lines += _commit(one, before["commit"] if measured else None, paper)
        measured = measured or one["state"] == "measured"
    return list(map(paper.fitted, lines))


def _title(one: BlamedCommit) -> str:
    return f"{one['commit'][:7]} {one['date'][:10]} {plain(one['subject'])}"


def _commit(one: BlamedCommit, before: str | None, paper: Paper) -> Iterator[Line]:
    """What it moved; without any measurement `before` it, that nobody knows."""
    if one["merge"]:
        short = one["commit"][:7]
        inside = f"A merge, taken as one; its own commits: tokenbudget blame {short}^1..{short}^2"
        yield from map(Line, wrap(inside, paper.columns, "  ", "  "))
    if one["note"]:
        style = "yellow" if one["state"] == "failed" else ""
        yield from (Line(text, style) for text in wrap(plain(one["note"]), paper.columns, "  ", "  "))
    moves = one["moves"]
    if moves:
        names = view.short_ids([move["id"] for move in moves])
        yield from named_table(
            names, ("scenario", *CHANGE_HEADERS), list(map(_cells, moves)), paper, SPARE_HEADERS
        )
    elif one["state"] == "measured":
        yield from map(Line, wrap("moved nothing" if before else _FIRST, paper.columns, "  ", "  "))
    for move in moves:
        yield from (
            Line(text) for note in _notes(move, before) for text in wrap(note, paper.columns, "  ", "    ")
        )


def _cells(move: MoveEntry) -> list[str]:
    before, now = move["before"], move["now"]
    word = move["what"]
    if word in _UNTOLD:
        was = NONE if before is None else count(before["prompt_tokens"])
        return [_UNTOLD[word], was, UNKNOWN, NONE, NONE, NONE, NONE]
    if word == "moved" and before is not None and now is not None:
        was_total, is_now = (side["prompt_tokens"] + side["output_tokens"] for side in (before, now))
        word = "shifted" if was_total == is_now else "grew" if is_now > was_total else "shrank"
    return change_cells("as before" if word == "again" else word, before, now)


def _notes(move: MoveEntry, before: str | None) -> Iterator[str]:
    name = plain(move["id"])
    if move["was"]:
        yield f"{name} was {plain(move['was'])}"
    if move["rerecorded"]:
        yield f"{name} was recorded anew, so its answers may have moved it too"
    if move["since"] not in (None, before) and move["now"] is not None:
        yield f"{name} was last measured at {(move['since'] or '')[:7]}"
