"""Read JSON documents: `tokenbudget report` writes one in another form, `tokenbudget merge` joins several.

The folder of a CI artifact holds a document, and what became of the baselines, under fixed names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_tokenbudget.commands import output
from pytest_tokenbudget.errors import GitError
from pytest_tokenbudget.reports import view
from pytest_tokenbudget.reports.baseline_report import diff_markdown, load_diff
from pytest_tokenbudget.reports.document import Document, from_the_top, is_lost, load, merge
from pytest_tokenbudget.reports.terminal import summary_lines
from pytest_tokenbudget.reports.text import Line
from pytest_tokenbudget.repository.git import Repository
from pytest_tokenbudget.run.session import render
from pytest_tokenbudget.settings import load_settings


def write_report(
    folder: Path, paths: Sequence[Path], form: str, diff: Path | None = None, destination: Path | None = None
) -> int:
    """Write the report of files or artifact folders; a DIFF goes below the Markdown. Raises ReportError."""
    given = inputs(paths, diff)
    document = read_documents(given.documents)
    if form == "terminal":
        output.write_lines(_terminal(document), destination)
    else:
        output.write_text(_text(folder, document, form, given.diff), destination)
    return 0


def _terminal(document: Document) -> list[Line]:
    lines = summary_lines(document, columns=output.columns(), verbosity=1, ascii_only=output.ascii_only())
    return lines or [Line(view.headline(document))]


def _text(folder: Path, document: Document, form: str, diff: Path | None) -> str:
    if form in ("markdown", "markdown-comment"):
        from pytest_tokenbudget.reports.markdown import markdown

        runs = load_settings(folder).scenario.runs_per_month
        text = markdown(document, full=form == "markdown", runs_per_month=runs)
        below = diff_markdown(load_diff(diff)) if diff else ""
        return f"{text}\n{below}" if below else text
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
    """Return what stands before the files of a document, from the top of the repository."""
    if document["project"] is not None:
        return f"{document['project']}/" if document["project"] else ""
    try:
        return Repository.open(folder).prefix
    except GitError:
        return ""


def write_merged(paths: Sequence[Path], destination: Path, expected: int | None) -> int:
    """Write the document of all; return 1 where no file has measured a committed baseline.

    Raises ReportError where they disagree or one is missing.
    """
    merged = read_documents(inputs(paths).documents, expected)
    output.write_text(json.dumps(merged, indent=2, ensure_ascii=False) + "\n", destination)
    if not any(map(is_lost, merged["unmeasured"])):
        return 0
    output.write_lines([Line(text) for text in view.unmeasured(merged)], None)
    return 1


def read_documents(paths: Sequence[Path], expected: int | None = None) -> Document:
    """One document of one or more files; what is worth knowing of several is told. Raises ReportError."""
    merged = merge({str(path): load(path) for path in paths}, shards=expected)
    for note in merged.notes:
        output.tell(note)
    return merged.document


DOCUMENT, DIFF = "token-budget.json", "token-budget-diff.json"


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files that a command reads."""

    documents: tuple[Path, ...]
    diff: Path | None


def inputs(given: Sequence[Path], diff: Path | None = None) -> Inputs:
    """`given`, folders taken for what is in them; the first DIFF of one serves where none is named."""
    folders = [path for path in given if path.is_dir()]
    found = [folder / DIFF for folder in folders if (folder / DIFF).is_file()]
    documents = tuple(path / DOCUMENT if path in folders else path for path in given)
    return Inputs(documents, diff or next(iter(found), None))
