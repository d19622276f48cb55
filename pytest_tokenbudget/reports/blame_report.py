"""Tell which commit moved which scenario, and by how much, as JSON and in the terminal.

    BLAME = {"version": 1, "range": "main..HEAD", "prices": {"source": ..., "version": ...},
      "commits": [{"commit": HASH, "date": ..., "subject": ..., "merge": false, "note": ...,
        "state": "measured" | "same" | "failed",
        "moves": [{"id": ..., "was": ID | null, "what": ..., "since": HASH | null, "rerecorded": false,
          "before": TOKENS | null, "now": TOKENS | null}]}]}

The first commit is the one before the range. It moves nothing, and the others are compared with it. `what` is
one of `moved`, `added`, `removed`, `renamed`, `stale`, `unknown`, `unrecorded`, `failed` or `skipped` (its
test gave no measurement), or `again` (it can be measured again, and has the tokens that it had before).
`since` is the commit at which `before` was measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict, cast

from pytest_tokenbudget.budget.changes import renames
from pytest_tokenbudget.model import Usage
from pytest_tokenbudget.reports import scenario_view
from pytest_tokenbudget.reports.baseline_report import CHANGE_HEADERS, SPARE_HEADERS, change_cells
from pytest_tokenbudget.reports.document import Document, ScenarioEntry, TokensEntry, is_measured, usage_of
from pytest_tokenbudget.reports.history import CommitEntry
from pytest_tokenbudget.reports.text import Line, Paper, named_table, plain, wrap
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, plural

VERSION = 1


class MoveEntry(TypedDict):
    """What one commit did to one scenario."""

    id: str
    was: str | None
    """Its id before, if the commit gave it another; else None."""
    what: str
    since: str | None
    rerecorded: bool
    """Whether its recording changed too, so that its answers may have moved it."""
    before: TokensEntry | None
    now: TokensEntry | None


class BlamedCommit(CommitEntry):
    """A commit and what it moved."""

    merge: bool
    state: str
    note: str
    moves: list[MoveEntry]


class Blame(TypedDict):
    """What each commit of a range moved: BLAME."""

    version: int
    range: str
    prices: dict[str, str]
    commits: list[BlamedCommit]


@dataclass(frozen=True, slots=True)
class Replay:
    """The result of replaying one commit."""

    commit: CommitEntry
    merge: bool = False
    document: Document | None = None
    """None if nothing could be measured, or nothing had to be (`same`)."""
    same: bool = False
    """Whether the commit holds what the one before it holds."""
    note: str = ""
    untold: Mapping[str, str] = field(default_factory=dict)
    """Scenarios whose tests ran and gave no measurement: `failed` or `skipped`, by id."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """Files that were moved since the last measured commit: new path to old path."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The last measurement of a scenario."""

    commit: str | None
    tokens: TokensEntry | None
    answers: Counter[int]
    """The output tokens of each recorded answer."""
    what: str = ""
    """Why nothing newer is known."""

    @property
    def usage(self) -> Usage:
        """Its usage; if it was never measured, an empty one, which is like no other scenario's."""
        return Usage() if self.tokens is None else usage_of(self.tokens)


_NEVER = _Known(None, None, Counter())


def blame(range_: str, replays: Sequence[Replay], prices: Mapping[str, str]) -> Blame:
    """Return the BLAME of `replays`, oldest first. The first that could be measured moves nothing."""
    known: dict[str, _Known] | None = None
    commits: list[BlamedCommit] = []
    for replay in replays:
        moves: list[MoveEntry] = []
        state = "same" if replay.same else "failed"
        if replay.document is not None:
            state = "measured"
            before = known
            known, was = _after(before or {}, replay, replay.document)
            moves = [] if before is None else _moves(before, known, was)
        entry = {**replay.commit, "merge": replay.merge, "state": state, "note": replay.note, "moves": moves}
        commits.append(cast("BlamedCommit", entry))
    return {"version": VERSION, "range": range_, "prices": dict(prices), "commits": commits}


def _after(
    before: Mapping[str, _Known], replay: Replay, document: Document
) -> tuple[dict[str, _Known], dict[str, str]]:
    """Return what is known of each scenario after a commit, and its id before (mostly the same)."""
    told = {one["id"]: one for one in document["scenarios"]}
    untold = {name: what for name, what in replay.untold.items() if name not in told}
    measured = {name: _measured(one, replay.commit["commit"]) for name, one in told.items()}
    measured |= {name: _Known(None, None, Counter(), what) for name, what in untold.items() if name in before}
    usages = [{name: one.usage for name, one in side.items()} for side in (before, measured)]
    renamed = renames(usages[0], usages[1], replay.moved)
    was = {name: renamed[name][0] if name in renamed else name for name in measured}
    known = {
        name: replace(before.get(was[name], _NEVER), what=now.what) if now.what else now
        for name, now in measured.items()
    }
    return known, was


def _measured(scenario: ScenarioEntry, commit: str) -> _Known:
    if not is_measured(scenario):
        departed = scenario["verdict"] in ("stale", "unrecorded")
        return _Known(None, None, Counter(), scenario["verdict"] if departed else "unknown")
    recorded = [turn["recorded"] for turn in scenario["turns"]]
    answers = Counter(tokens["output_tokens"] for tokens in recorded if tokens is not None)
    return _Known(commit, scenario["measured"], answers)


def _moves(
    before: Mapping[str, _Known], known: Mapping[str, _Known], was: Mapping[str, str]
) -> list[MoveEntry]:
    found = []
    for name, now in sorted(known.items()):
        then = before.get(was[name])
        what = _what(then, now, renamed=was[name] != name)
        if what:
            found.append(_move(name, was[name], what, then or _NEVER, now))
    gone = before.keys() - was.values()
    return found + [_move(name, name, "removed", before[name], _NEVER) for name in sorted(gone)]


def _what(then: _Known | None, now: _Known, *, renamed: bool) -> str:
    if then is None:
        return "added"
    if now.what:
        return "" if now.what == then.what else now.what
    if now.tokens != then.tokens:
        return "moved"
    return "again" if then.what else "renamed" if renamed else ""


def _move(name: str, was: str, what: str, then: _Known, now: _Known) -> MoveEntry:
    return {
        "id": name,
        "was": was if was != name else None,
        "what": what,
        "since": then.commit,
        "rerecorded": what == "moved" and bool(now.answers - then.answers),
        "before": then.tokens,
        "now": None if now.what else now.tokens,
    }


_FIRST = "The first that could be measured: the next are held against it."
_UNTOLD = {
    "stale": "stale",
    "unknown": "unknown",
    "unrecorded": "unrecorded",
    "failed": "its test failed",
    "skipped": "its test was skipped",
}


def blame_lines(blame: Blame, *, columns: int, ascii_only: bool = False) -> list[Line]:
    """Return commit by commit what it moved, in lines."""
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
    """Yield what a commit moved, or that it is the first that could be measured.

    `before` is the commit before it, None if nothing was measured until then.
    """
    if one["merge"]:
        short = one["commit"][:7]
        inside = f"A merge, taken as one; its own commits: tokenbudget blame {short}^1..{short}^2"
        yield from map(Line, wrap(inside, paper.columns, "  ", "  "))
    if one["note"]:
        style = "yellow" if one["state"] == "failed" else ""
        yield from (Line(text, style) for text in wrap(plain(one["note"]), paper.columns, "  ", "  "))
    moves = one["moves"]
    if moves:
        names = scenario_view.short_ids([move["id"] for move in moves])
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
