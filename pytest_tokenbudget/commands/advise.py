"""`tokenbudget advise`: measure the suite, and tell what would be cheaper."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pytest_tokenbudget.commands import output
from pytest_tokenbudget.commands.suite import measure
from pytest_tokenbudget.reports import advice_report
from pytest_tokenbudget.settings import load_settings

FORMATS = ("terminal", "markdown", "json")


def run(folder: Path, arguments: Sequence[str], form: str = "terminal") -> int:
    """0 where there is advice; pytest's own status, with what it said, where it measured nothing."""
    runs = load_settings(folder).scenario.runs_per_month
    done = measure(arguments, folder)
    if done.document is None or not done.document["scenarios"]:
        output.tell(f"{done.said}\nNo scenario was measured, so there is nothing to advise on.")
        return done.status or 1
    found = advice_report.advice(done.document, runs)
    if form == "terminal":
        lines = advice_report.advice_lines(found, columns=output.columns(), ascii_only=output.ascii_only())
        output.write_lines(lines, None)
    elif form == "markdown":
        output.write_text(advice_report.advice_markdown(found), None)
    else:
        output.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", None)
    return 0
