"""Reports as files: each is a function of the document, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_tokenbudget.errors import GitError, ReportError
from pytest_tokenbudget.files import encoded, write_atomically
from pytest_tokenbudget.options import ReportTarget
from pytest_tokenbudget.reports.document import Document
from pytest_tokenbudget.reports.history import History
from pytest_tokenbudget.repository.baseline_history import read_history
from pytest_tokenbudget.repository.git import Repository


def write_report(
    target: ReportTarget, document: Document, root: Path, runs_per_month: float | None = None
) -> None:
    """Write one report of a run in `root`. Raises ReportError naming the file and the fix."""
    try:
        write_atomically(target.path, encoded(render(target.type, document, root, runs_per_month)))
    except OSError as error:
        raise ReportError(
            f"{target.path}: the report cannot be written: {error.strerror or error}. "
            "Name a place that can be written to."
        ) from error


def render(kind: str, document: Document, root: Path, runs_per_month: float | None) -> str:
    """The text of a report: `json`, `markdown` or `html`, the last with trends where git has them."""
    if kind == "markdown":
        from pytest_tokenbudget.reports.markdown import markdown

        return markdown(document, full=True, runs_per_month=runs_per_month)
    if kind == "html":
        from pytest_tokenbudget.reports.dashboard.page import dashboard

        return dashboard(document, _history(root), runs_per_month=runs_per_month)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _history(root: Path) -> History | None:
    try:
        return read_history(Repository.open(root))[0]
    except GitError:  # no repository, or a shallow clone: the page does without
        return None
