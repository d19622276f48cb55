"""Replay each commit of a range in a worktree, and tell what each one moved: `tokenbudget blame`."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest_tokenbudget
from pytest_tokenbudget.commands import output
from pytest_tokenbudget.commands.suite import SuiteRun, junit_name, measure
from pytest_tokenbudget.errors import GitError
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.reports import blame_report, build, scenario_view
from pytest_tokenbudget.reports.blame_report import Replay
from pytest_tokenbudget.reports.document import Document
from pytest_tokenbudget.reports.history import CommitEntry
from pytest_tokenbudget.repository.git import Commit, Repository, environment
from pytest_tokenbudget.wording import plural

_PASSED, _FAILED, _EMPTY = 0, 1, 5
"""pytest's exit statuses of a suite that ran."""
_NAMED = 3
"""How many failing tests are named."""


def run(
    folder: Path,
    range_: str,
    arguments: Sequence[str],
    *,
    form: str = "terminal",
    documents: Path | None = None,
) -> int:
    """Replay the commits of a range and write what each moved.

    The documents of the commits are kept in `documents`, if it is given. Raises GitError.
    """
    repository = Repository.open(folder)
    repository.require_history()
    commits = _commits(repository, range_)
    with _ended_as_interrupted():
        replays = list(_replays(repository, commits, arguments, documents))
    prices = Prices()
    found = blame_report.blame(range_, replays, {"source": prices.source, "version": prices.version})
    if form == "json":
        output.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", None)
    else:
        lines = blame_report.blame_lines(found, columns=output.columns(), ascii_only=output.ascii_only())
        output.write_lines(lines, None)
    return 0


def _commits(repository: Repository, range_: str) -> list[Commit]:
    """Return the commit before the range, if there is one, and those of the range, oldest first.

    Raises GitError for a range that is malformed or empty.
    """
    base, dots, until = range_.partition("..")
    if not base or until.startswith("."):
        raise GitError(f"{range_!r} is no range. Write BASE..HEAD, such as main..HEAD or HEAD~5..HEAD.")
    head = repository.commit(until if dots and until else "HEAD")
    commits = repository.commits(repository.commit(base).id, head.id)
    if not commits:
        raise GitError(
            f"{range_} holds no commit: everything in it is in {base} already. Name an older base."
        )
    return [*(repository.commit(parent) for parent in commits[0].parents[:1]), *commits]


def _replays(
    repository: Repository, commits: Sequence[Commit], arguments: Sequence[str], documents: Path | None
) -> Iterator[Replay]:
    before: Commit | None = None
    measured: Commit | None = None
    seen: set[str] = set()
    with repository.worktree() as (top, check_out):
        for number, commit in enumerate(commits, 1):
            output.tell(f"[{number}/{len(commits)}] {commit.id[:7]} {commit.subject}")
            if before is not None and before.tree == commit.tree:
                yield _replay(commit, same=True, note="Changes no file.")
                continue
            before = commit
            check_out(commit.id)
            moved = repository.moved(measured.id, commit.id) if measured else {}
            replay = _measured(
                commit, top / repository.prefix, arguments, _environment(repository, top), seen
            )
            if replay.document is not None:
                measured = commit
                seen |= {one["id"] for one in replay.document["scenarios"]}
                _keep(replay.document, commit, documents)
            yield replace(replay, moved=moved)


def _replay(commit: Commit, **known: Any) -> Replay:
    entry: CommitEntry = {"commit": commit.id, "date": commit.date, "subject": commit.subject}
    return Replay(entry, merge=len(commit.parents) > 1, **known)


def _measured(
    commit: Commit, folder: Path, arguments: Sequence[str], variables: Mapping[str, str], seen: set[str]
) -> Replay:
    """Replay the commit that is checked out in `folder`; `seen` are the scenarios that it may have."""
    if not folder.is_dir():
        return _replay(commit, note=f"Could not be measured: it has no folder {folder.name}.")
    done = measure(arguments, folder, variables)
    if done.status == _EMPTY:
        prices = Prices()
        nothing = build.document([], mode="replay", prices=(prices.source, prices.version), commit=commit.id)
        return _replay(commit, document=done.document or nothing, note="It has no tests.")
    if done.status not in (_PASSED, _FAILED) or done.document is None:
        return _replay(
            commit, note=f"Could not be measured: pytest ended with {done.status}: {_reason(done)}"
        )
    outcomes = {name: done.outcomes.get(junit_name(name), "") for name in seen}
    untold = {name: outcome for name, outcome in outcomes.items() if outcome in ("failed", "skipped")}
    return _replay(commit, document=done.document, note=_other_failures(done, done.document), untold=untold)


def _reason(done: SuiteRun) -> str:
    """Return the last error of a collection, or if there is none, the last lines of pytest as one line."""
    errors = [line.removeprefix("E ").strip() for line in done.said.splitlines() if line.startswith("E ")]
    return errors[-1] if errors else " ".join(done.said.split())


def _other_failures(done: SuiteRun, document: Document) -> str:
    """Return a sentence about tests that failed, but not for their tokens; empty if there are none."""
    budgets = {junit_name(one["id"]) for one in document["scenarios"] if scenario_view.fails(one)}
    others = sorted(
        "::".join(filter(None, name))
        for name, outcome in done.outcomes.items()
        if outcome == "failed" and name not in budgets
    )
    if not others:
        return ""
    more = f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else ""
    verb = "fails for another reason" if len(others) == 1 else "fail for other reasons"
    return f"{plural(len(others), 'test')} {verb}: {', '.join(others[:_NAMED])}{more}."


def _environment(repository: Repository, top: Path) -> dict[str, str]:
    """Return the variables of this process, with modules imported from the worktree if it has them.

    Every folder of the repository that this Python imports from (PYTHONPATH, editable installs) has its
    counterpart there; the plugin itself stays the one that is installed.
    """
    here = repository.folder.resolve()
    root = here.parents[len(Path(repository.prefix).parts) - 1] if repository.prefix else here
    own = Path(pytest_tokenbudget.__file__).resolve().parents[1]
    imported = [Path(entry).resolve() for entry in sys.path if entry]
    inside = [entry.relative_to(root) for entry in imported if entry.is_relative_to(root) and entry != own]
    folder = top / repository.prefix
    found = [folder, folder / "src", *(top / entry for entry in inside)]
    paths = [str(path) for path in dict.fromkeys(found) if path.is_dir()]
    given = os.environ.get("PYTHONPATH")
    joined = os.pathsep.join([*paths, *([given] if given else [])])
    return environment(os.environ) | {"PYTHONPATH": joined, "PYTHONDONTWRITEBYTECODE": "1"}


def _keep(document: Document, commit: Commit, folder: Path | None) -> None:
    if folder is not None:
        text = json.dumps({**document, "commit": commit.id}, indent=2, ensure_ascii=False) + "\n"
        output.write_text(text, folder / f"{commit.id}.json")


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """End a cancelled job, or one whose terminal is closed, as by Ctrl-C: the worktree is removed."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    ends = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heeded = {end: signal.getsignal(end) for end in ends if signal.getsignal(end) != signal.SIG_IGN}
    for end in heeded:  # but not what is ignored, as below nohup
        signal.signal(end, interrupt)
    try:
        yield
    finally:
        for end, before in heeded.items():
            signal.signal(end, before)
