"""`tokenbudget history`: the trend of each scenario over the commits that changed its baseline."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_tokenbudget.commands import output
from pytest_tokenbudget.reports.trend_text import history_lines
from pytest_tokenbudget.repository.baseline_history import read_history
from pytest_tokenbudget.repository.git import Repository
from pytest_tokenbudget.settings import load_settings


def run(folder: Path, form: str, most: int, destination: Path | None) -> int:
    """Write the history; what could not be read is told. Raises GitError where history is cut off."""
    history, amiss = read_history(Repository.open(folder), most)
    for sentence in amiss:
        output.tell(sentence)
    if form == "terminal":
        lines = history_lines(history, columns=output.columns(), ascii_only=output.ascii_only())
        output.write_lines(lines, destination)
    elif form == "json":
        output.write_text(json.dumps(history, separators=(",", ":"), ensure_ascii=False) + "\n", destination)
    else:
        from pytest_tokenbudget.reports.dashboard.page import dashboard

        runs = load_settings(folder).scenario.runs_per_month
        output.write_text(dashboard(None, history, runs_per_month=runs), destination)
    return 0
