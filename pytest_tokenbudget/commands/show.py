"""`tokenbudget show`: the committed baselines below some folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pytest_tokenbudget.commands import output
from pytest_tokenbudget.errors import BaselineError
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.reports import build, suite
from pytest_tokenbudget.repository import baseline_history
from pytest_tokenbudget.settings import load_settings


def run(folder: Path, paths: Sequence[str], form: str = "terminal") -> int:
    """Write what the baselines hold, of tests in `paths` only if any are given.

    Raises BaselineError, also where a path holds no baseline, and SettingsError.
    """
    prices = Prices()
    runs = load_settings(folder).scenario.runs_per_month
    found = baseline_history.in_files(folder)
    chosen = {name: usage for name, usage in found.items() if not paths or _is_in(name, paths)}
    if paths and not chosen:
        raise BaselineError(
            f"No baseline belongs to {', '.join(paths)}. Name test files or folders, from here."
        )
    tokens = {name: build.tokens(usage, prices.cost) for name, usage in sorted(chosen.items())}
    price_list = {"source": prices.source, "version": prices.version}
    if form == "json":
        value = suite.suite_json(tokens, price_list, runs)
        output.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", None)
        return 0
    lines = suite.suite_lines(
        tokens, price_list, runs, columns=output.columns(), ascii_only=output.ascii_only()
    )
    output.write_lines(lines, None)
    return 0


def _is_in(name: str, paths: Sequence[str]) -> bool:
    """Whether a scenario is one of `paths`: folders, test files, or node ids."""
    file = PurePosixPath(name.partition("::")[0])
    return any(name == path or file.is_relative_to(PurePosixPath(path)) for path in paths)
