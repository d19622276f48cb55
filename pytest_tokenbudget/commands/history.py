"""`tokenbudget history`: the trend of each scenario over the commits that changed its baseline."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_tokenbudget.budget.trend import trends
from pytest_tokenbudget.commands import committed, output
from pytest_tokenbudget.config import load_settings
from pytest_tokenbudget.errors import GitError
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.reports.document import Document
from pytest_tokenbudget.reports.history import History, from_trends
from pytest_tokenbudget.reports.trend_text import history_lines
from pytest_tokenbudget.repository import Repository

COMMITS = 100
"""How many commits are looked back at."""


def run(folder: Path, form: str, most: int, destination: Path | None) -> int:
    """Write the history. Raises GitError where there is none, or it is cut off."""
    history = read(Repository.open(folder), most)
    if form == "terminal":
        lines = history_lines(history, columns=output.columns(), ascii_only=output.ascii_only())
        output.write_lines(lines, destination)
    elif form == "json":
        output.write_text(json.dumps(history, separators=(",", ":"), ensure_ascii=False) + "\n", destination)
    else:
        output.write_text(_page(folder, None, history), destination)
    return 0


def page(folder: Path, document: Document) -> str:
    """The HTML page of a run, with the history of its baselines where git has one."""
    try:
        history = read(Repository.open(folder))
    except GitError as error:
        output.tell(f"The page has no trends. {error}")
        history = None
    return _page(folder, document, history)


def _page(folder: Path, document: Document | None, history: History | None) -> str:
    from pytest_tokenbudget.reports.dashboard import dashboard

    runs = load_settings(folder).scenario.runs_per_month
    return dashboard(document, history, runs_per_month=runs)


def read(repository: Repository, most: int = COMMITS) -> History:
    """HISTORY of the newest `most` commits that changed a baseline; what could not be read is told."""
    past = committed.in_history(repository, most)
    for sentence in past.amiss:
        output.tell(sentence)
    prices = Prices()
    return from_trends(
        [{"commit": one.id, "date": one.date, "subject": one.subject} for one in past.commits],
        trends(past.snapshots),
        {"source": prices.source, "version": prices.version},
        prices.cost,
    )
