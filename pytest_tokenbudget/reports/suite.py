"""The committed baselines as a table: what each scenario may cost, a run and a month."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_tokenbudget.reports.document import TokensEntry, add
from pytest_tokenbudget.reports.facts import usual_month
from pytest_tokenbudget.reports.layout import Line, Paper, named_table
from pytest_tokenbudget.reports.text import wrap
from pytest_tokenbudget.reports.view import short_ids
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, money, percent, plural

_HEADERS = ("scenario", "turns", "prompt", "written", "read", "output", "cache share", "a run")
_SPARE = ("turns", "written", "read", "cache share", "output")
_TOTAL = "total"


def suite_json(
    baselines: Mapping[str, TokensEntry], prices: Mapping[str, str], runs_per_month: int | None
) -> dict[str, Any]:
    """`{"version", "prices", "runs_per_month", "totals": TOKENS, "scenarios": {ID: TOKENS}}`."""
    return {
        "version": 1,
        "prices": dict(prices),
        "runs_per_month": runs_per_month,
        "totals": add(list(baselines.values())),
        "scenarios": dict(baselines),
    }


def suite_lines(
    baselines: Mapping[str, TokensEntry],
    prices: Mapping[str, str],
    runs_per_month: int | None,
    *,
    columns: int,
    ascii_only: bool = False,
) -> list[Line]:
    """One row a scenario, and their sum."""
    if not baselines:
        return [Line("There are no baselines here. Write them with `tokenbudget update`.")]
    names = [*short_ids(list(baselines)), _TOTAL]
    headers = _HEADERS if runs_per_month is None else (*_HEADERS, "a month")
    cells = [_cells(one, runs_per_month) for one in (*baselines.values(), add(list(baselines.values())))]
    lines = list(named_table(names, headers, cells, Paper(columns, ascii_only), _SPARE))
    about = [plural(len(baselines), "scenario"), f"prices of {' '.join(prices.values())}"]
    if runs_per_month is not None:
        about.append(usual_month(runs_per_month))
    return [*lines, Line(), *map(Line, wrap(", ".join(about), columns))]


def _cells(one: TokensEntry, runs_per_month: int | None) -> list[str]:
    prompt, cost = one["prompt_tokens"], one["cost_usd"]
    cells = [
        count(one["turns"]),
        count(prompt),
        count(one["cache_creation_input_tokens"]),
        count(one["cache_read_input_tokens"]),
        count(one["output_tokens"]),
        percent(one["cache_read_input_tokens"] / prompt) if prompt else NONE,
        UNKNOWN if cost is None else money(cost),
    ]
    if runs_per_month is not None:
        cells.append(UNKNOWN if cost is None else money(cost * runs_per_month))
    return cells
