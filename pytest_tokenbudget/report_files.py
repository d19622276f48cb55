"""Reports as files: each is a function of the document, written whole or not at all."""

from __future__ import annotations

import json

from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.files import write_atomically
from pytest_tokenbudget.options import ReportTarget
from pytest_tokenbudget.reports.document import Document


def write_report(target: ReportTarget, document: Document, runs_per_month: float | None = None) -> None:
    """Write one report. Raises ReportError naming the file and the fix."""
    try:
        write_atomically(target.path, render(target.type, document, runs_per_month).encode())
    except OSError as error:
        raise ReportError(
            f"{target.path}: the report cannot be written: {error.strerror or error}. "
            "Name a place that can be written to."
        ) from error


def render(kind: str, document: Document, runs_per_month: float | None) -> str:
    """The text of a report of one kind: `json`, `markdown` or `html`."""
    if kind == "markdown":
        from pytest_tokenbudget.reports.markdown import markdown

        return markdown(document, full=True, runs_per_month=runs_per_month)
    if kind == "html":
        from pytest_tokenbudget.reports.dashboard import dashboard

        return dashboard(document, None, runs_per_month=runs_per_month)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
