"""Read JSON documents: write one in another format, merge several, check one against what is committed.

These are `tokenbudget report`, `merge` and `check`. The folder of a CI artifact holds a document, the DIFF of
the baselines and the result of a check, under fixed names.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from pytest_tokenbudget.budget.changes import (
    PYTEST_FILES,
    LimitChange,
    is_baseline_file,
    limit_changes,
    marker_changes,
    module_of,
    pytest_options,
    pytest_settings,
)
from pytest_tokenbudget.commands import output
from pytest_tokenbudget.errors import GitError, ReportError
from pytest_tokenbudget.reports import run_view, scenario_view
from pytest_tokenbudget.reports.baseline_report import Accepting, load_diff
from pytest_tokenbudget.reports.document import (
    CHECK,
    DIFF,
    DOCUMENT,
    Document,
    from_the_top,
    is_lost,
    load,
    merge,
)
from pytest_tokenbudget.reports.terminal import summary_lines
from pytest_tokenbudget.reports.text import Line, command_data, plain, prose, wrap
from pytest_tokenbudget.repository.baseline_history import at_commit, in_files
from pytest_tokenbudget.repository.git import Repository
from pytest_tokenbudget.run.results import render
from pytest_tokenbudget.settings import load_settings
from pytest_tokenbudget.wording import plural


def write_report(
    folder: Path, paths: Sequence[Path], form: str, diff: Path | None = None, destination: Path | None = None
) -> int:
    """Write the report of files or artifact folders; a DIFF goes below the Markdown. Raises ReportError."""
    given = inputs(paths, diff)
    lead = leading(given.check) if form in ("markdown", "markdown-comment") else ""
    if lead and not any(path.is_file() for path in given.documents):
        output.write_text(leading(given.check, alone=True), destination)
        return 0
    document = read_documents(given.documents)
    if form == "terminal":
        output.write_lines(_terminal(document), destination)
        return 0
    text = _text(folder, document, form, given)
    output.write_text(led(text, lead) if form == "markdown-comment" else lead + text, destination)
    return 0


def accepting(given: Inputs) -> Accepting:
    """Return what a pull request accepts, as the files beside a document say. Raises ReportError."""
    diff = load_diff(given.diff) if given.diff else None
    return Accepting(diff, given.check["decisions"], given.check["notices"])


def led(comment: str, lead: str) -> str:
    """Return a comment with `lead` below its first line, which is its hidden marker."""
    marker, _, text = comment.partition("\n")
    return f"{marker}\n{lead}\n{text}" if lead else comment


def _terminal(document: Document) -> list[Line]:
    columns = output.columns()
    lines = summary_lines(document, columns=columns, verbosity=1, ascii_only=output.ascii_only())
    return [*lines, *(Line(text, "bold") for text in wrap(run_view.opening(document), columns))]


def _text(folder: Path, document: Document, form: str, given: Inputs) -> str:
    if form in ("markdown", "markdown-comment"):
        from pytest_tokenbudget.reports.markdown import markdown

        runs = load_settings(folder).scenario.runs_per_month
        accepted = accepting(given)
        return markdown(document, full=form == "markdown", runs_per_month=runs, accepting=accepted)
    if form == "github":
        from pytest_tokenbudget.reports.exports import workflow_commands

        return "".join(
            f"{line}\n" for line in workflow_commands(from_the_top(document, _prefix(document, folder)))
        )
    if form == "otel":
        from pytest_tokenbudget.reports.exports import traces

        return json.dumps(traces(document, time.time_ns()), indent=2, ensure_ascii=False) + "\n"
    return render("html", document, folder, load_settings(folder).scenario.runs_per_month)


def _prefix(document: Document, folder: Path) -> str:
    """Return the folder that leads from the top of the repository to a document's files, with its slash."""
    if document["project"] is not None:
        return f"{document['project']}/" if document["project"] else ""
    try:
        return Repository.open(folder).prefix
    except GitError:
        return ""


def write_merged(paths: Sequence[Path], destination: Path, expected: int | None) -> int:
    """Write the document of all files; return 1 if none of them has measured a committed baseline, else 0.

    Raises ReportError if the files disagree or one is missing.
    """
    merged = read_documents(inputs(paths).documents, expected)
    output.write_text(json.dumps(merged, indent=2, ensure_ascii=False) + "\n", destination)
    if not any(map(is_lost, merged["unmeasured"])):
        return 0
    output.write_lines([Line(text) for text in run_view.unmeasured(merged)], None)
    return 1


def read_documents(paths: Sequence[Path], expected: int | None = None) -> Document:
    """Return one document of one or more files; tell what is worth knowing of several.

    Raises ReportError.
    """
    merged = merge({str(path): load(path) for path in paths}, shards=expected)
    for note in merged.notes:
        output.tell(note)
    return merged.document


class Check(TypedDict):
    """What a reviewer must know before the numbers, in sentences."""

    problems: list[str]
    """These fail the check."""
    notices: list[str]
    decisions: list[str]
    """The notices in a few words each, as they stand in a headline: `excludes 2 tests`."""


def write_check(
    folder: Path, paths: Sequence[Path], base: str | None, destination: Path | None, *, partial: bool
) -> int:
    """Check the document of a run against what is committed, and tell what would otherwise go unnoticed.

    If `partial`, the run was told to take a part of the suite, so that the rest is a notice. Returns 1 if
    there is a problem, or if a verdict fails. Raises GitError and BaselineError.
    """
    given = inputs(paths).documents
    repository = Repository.open(folder)
    document, unreadable = None, []
    if all(path.is_file() for path in given):
        try:
            document = read_documents(given)
        except ReportError as error:
            unreadable = [str(error)]
    check = checked(repository, document, base, partial=partial)
    check["problems"][:0] = unreadable
    if destination is not None:
        output.write_text(json.dumps(check, indent=2, ensure_ascii=False) + "\n", destination)
    commands = [
        f"::{kind} title=Token budget::{command_data(text)}\n"
        for kind, texts in (("error", check["problems"]), ("warning", check["notices"]))
        for text in texts
    ]
    red = document is not None and any(map(scenario_view.fails, document["scenarios"]))
    told = f"{plain(run_view.opening(document))}\n" if document is not None and red else ""
    output.write_text("".join([*commands, told]), None)
    return 1 if check["problems"] or red else 0


def checked(repository: Repository, document: Document | None, base: str | None, *, partial: bool) -> Check:
    """Return what is to be known of a run in the working tree. Raises GitError and BaselineError."""
    check: Check = {"problems": [], "notices": [], "decisions": []}
    if document is None:
        check["problems"].append(_NO_DOCUMENT)
    else:
        head = repository.commit().id
        if document["commit"] != head:
            check["problems"].append(
                f"The document is of commit {document['commit']}, and this is {head}: it says nothing of it."
            )
        told = {one["id"] for key in _OF_SCENARIOS for one in document[key]}  # type: ignore[literal-required]
        silent = sorted(name for name in in_files(repository.folder) if name not in told)
        if silent:
            text = f"{plural(len(silent), 'baseline')} of which this run says nothing: {_few(silent)}"
            check["notices" if partial else "problems"].append(text)
    rewritten = sorted(path for path in repository.touched("HEAD") if is_baseline_file(path))
    if rewritten:
        check["problems"].append(
            f"The run has written baselines, as --token-budget-update does: {_few(rewritten)}"
        )
    if base is not None:
        for decision, notice in _since(repository, base):
            check["decisions"] += [decision] if decision else []
            check["notices"].append(notice)
    return check


_OF_SCENARIOS = ("scenarios", "not_judged", "excluded", "unmeasured")
_NO_DOCUMENT = (
    "There is no document: pytest ended before it wrote one, or an option switched the budgets off. Nothing "
    "was judged."
)


def _since(repository: Repository, base: str) -> Iterator[tuple[str, str]]:
    """Yield what a reviewer decides on since `base`: in a few words, and in a sentence.

    That is what is measured less, what is held less tightly, and what is measured on other recordings.
    """
    commit = repository.merge_base(base)
    before, now = at_commit(repository, commit), in_files(repository.folder)
    kept = {module_of(was) for was in repository.moved(commit.id).values() if is_baseline_file(was)}
    gone = sorted(name for name in before if name not in now and name.partition("::")[0] not in kept)
    if gone:
        scenarios = plural(len(gone), "scenario")
        yield f"removes {scenarios}", f"{scenarios} less than {base} has: {_few(gone)}"
    touched = sorted(repository.touched(commit.id))
    tree = repository.tree(commit.id)
    cassettes = [path for path in touched if "cassettes" in path.split("/") and path in tree]
    if cassettes:
        number = plural(len(cassettes), "cassette")
        yield f"changes {number}", f"{number} changed since {base}: {_few(cassettes)}"
    changes = dict(_limits_since(repository, tree, touched))
    if changes:
        told = [f"{where}: {', '.join(map(str, found))}" for where, found in changes.items()]
        yield _decided(list(changes.values())), f"Limits changed since {base}: {_few(told, '; ')}"
    options = dict(_pytest_since(repository, tree, touched))
    if options:
        told = [f"{path}: {', '.join(map(str, found))}" for path, found in options.items()]
        yield (
            f"changes what pytest runs in {plural(len(told), 'place')}",
            f"Settings of pytest changed since {base}: {_few(told, '; ')}",
        )


def _limits_since(
    repository: Repository, tree: Mapping[str, str], touched: Sequence[str]
) -> Iterator[tuple[str, list[LimitChange]]]:
    """Yield where settings or markers differ from those in `tree`, and what differs there."""
    paths = [path for path in touched if path.endswith((".py", "pyproject.toml"))]
    for path, was, now in repository.texts(tree, paths):
        if path.endswith(".py"):
            for name, changes in marker_changes(was, now).items():
                yield f"{path}::{name}", changes
        elif changes := limit_changes(_table(was), _table(now)):
            yield path, changes


def _pytest_since(
    repository: Repository, tree: Mapping[str, str], touched: Sequence[str]
) -> Iterator[tuple[str, list[LimitChange]]]:
    """Yield the files whose settings of pytest decide otherwise than in `tree` what is run and judged."""
    paths = [path for path in touched if "cassettes" not in path.split("/") and not is_baseline_file(path)]
    for path, was, now in repository.texts(tree, paths):
        name = Path(path).name
        options = pytest_options(path, was), pytest_options(path, now)
        files = (pytest_settings(name, text) for text in (was, now)) if name in PYTEST_FILES else ({}, {})
        if changes := [*limit_changes(*files), *limit_changes(*options)]:
            yield path, changes


def _decided(changes: Sequence[Sequence[LimitChange]]) -> str:
    """Return in a few words what became of limits: `raises 2 limits, excludes 1 test`."""
    excluding = [own for own in changes if any(change.is_exclusion for change in own)]
    looser = [own for own in changes if any(change.is_looser for change in own)]
    others = [own for own in changes if own not in excluding and own not in looser]
    parts = [f"loosens limits in {plural(len(looser), 'place')}"] if looser else []
    parts += [f"excludes tests in {plural(len(excluding), 'place')}"] if excluding else []
    parts += [f"changes settings in {plural(len(others), 'place')}"] if others else []
    return ", ".join(parts)


def _table(text: str) -> dict[str, object]:
    """Return `[tool.tokenbudget]` of a pyproject.toml, empty if it cannot be read."""
    try:
        return dict(tomllib.loads(text)["tool"]["tokenbudget"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError):
        return {}


def _few(names: Sequence[str], between: str = ", ") -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return between.join(names[:_NAMED]) + more


_NAMED = 5
"""How many files or scenarios one sentence names."""


def read_check(folders: Sequence[Path]) -> Check:
    """Return what the checks in the folders of artifacts say. Whatever else such a file holds is left out."""
    check: Check = {"problems": [], "notices": [], "decisions": []}
    for path in (folder / CHECK for folder in folders):
        try:
            said = json.loads(path.read_text("utf-8"))
            check["problems"] += [text for text in said["problems"] if isinstance(text, str)]
            check["notices"] += [text for text in said["notices"] if isinstance(text, str)]
            check["decisions"] += [text for text in said.get("decisions", ()) if isinstance(text, str)]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return check


def leading(check: Check, *, alone: bool = False) -> str:
    """Return the Markdown that leads a report: the problems of a check; `alone`, all that it says."""
    lines = [f"> **Not judged as committed:** {prose(plain(text))}" for text in check["problems"]]
    lines += [f"> **Look at:** {prose(plain(text))}" for text in check["notices"] if alone]
    return "".join(f"{line}\n>\n" for line in lines[:_MOST_LEADS]).removesuffix(">\n")


_MOST_LEADS = 20


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files that a command reads."""

    documents: tuple[Path, ...]
    diff: Path | None
    check: Check


def inputs(given: Sequence[Path], diff: Path | None = None) -> Inputs:
    """Return the files that `given` names; a folder stands for the document, DIFF and check in it.

    The DIFF of the first folder that has one is taken if `diff` is None.
    """
    folders = [path for path in given if path.is_dir()]
    found = [folder / DIFF for folder in folders if (folder / DIFF).is_file()]
    documents = tuple(path / DOCUMENT if path in folders else path for path in given)
    return Inputs(documents, diff or next(iter(found), None), read_check(folders))
