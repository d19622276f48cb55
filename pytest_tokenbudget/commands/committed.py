"""`tokenbudget diff`: the committed baselines of another commit against those of the working tree."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_tokenbudget.budget.changes import Baselines, changes
from pytest_tokenbudget.commands import output
from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.reports import baseline_report, diff_text, document
from pytest_tokenbudget.reports.baseline_report import Diff
from pytest_tokenbudget.repository import baseline_history
from pytest_tokenbudget.repository.git import Repository


def run(
    folder: Path,
    base: str | None,
    *,
    report: Path | None = None,
    base_report: Path | None = None,
    form: str = "terminal",
    destination: Path | None = None,
) -> int:
    """Compare and write. Raises GitError, BaselineError and ReportError."""
    if (report is None) != (base_report is None):
        raise ReportError("What failed already is told from two documents: give --report and --base-report.")
    found = compare(Repository.open(folder), base)
    if report is not None and base_report is not None:
        was = {one["id"]: one["was"] for one in found["scenarios"]}
        now, then = document.load(report), document.load(base_report)
        found["already"] = baseline_report.already_failing(now, then, was)
    if form == "terminal":
        lines = diff_text.diff_lines(found, columns=output.columns(), ascii_only=output.ascii_only())
        output.write_lines(lines, destination)
    elif form == "markdown":
        output.write_text(diff_text.diff_markdown(found), destination)
    else:
        output.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", destination)
    return 0


def compare(repository: Repository, base: str | None) -> Diff:
    """The DIFF between where HEAD left `base` (the default branch where None) and the files of now."""
    name = base or repository.default_branch()
    commit = repository.merge_base(name)
    before, now = baseline_history.at_commit(repository, commit), baseline_history.in_files(repository.folder)
    prices = Prices()
    changed = changes(before, now, repository.moved(commit.id), prices.cost)
    return baseline_report.diff(
        changed,
        _unchanged(before, now),
        {"name": name, "commit": commit.id},
        {"source": prices.source, "version": prices.version},
        prices.cost,
    )


def _unchanged(before: Baselines, now: Baselines) -> int:
    return sum(before.get(name) == usage for name, usage in now.items())
