"""The history of the baselines in the terminal: one line a scenario, its trend drawn in characters."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_tokenbudget.reports.document import TokensEntry
from pytest_tokenbudget.reports.history import History, states, suite
from pytest_tokenbudget.reports.layout import Line, Paper, named_table
from pytest_tokenbudget.reports.text import plain, wrap
from pytest_tokenbudget.reports.view import short_ids
from pytest_tokenbudget.wording import NONE, UNKNOWN, count, money, percent, plural, signed

_HEADERS = ("scenario", "prompt then", "now", "change", "a run then", "a run now", "trend of prompt")
_SPARE = ("a run then", "a run now", "prompt then")
_TREND = 20
"""Characters of a trend, one a commit; of more commits, that many, evenly apart and with both ends."""
_BARS, _ASCII_BARS = "·▁▂▃▄▅▆▇█", "._-~=+*%#"
"""What stands for no baseline, then from the least to the most."""
_SUITE = "all baselines"


def history_lines(history: History, *, columns: int, ascii_only: bool = False) -> list[Line]:
    """The suite, then every scenario whose baseline changed, the one that moved most dollars first."""
    commits = history["commits"]
    if not commits:
        return [Line("No commit holds a baseline yet. Write them with `tokenbudget update` and commit them.")]
    number = len(commits)
    series = {name: states(points, number) for name, points in history["scenarios"].items()}
    moved = {name: values for name, values in series.items() if len(history["scenarios"][name]) > 1}
    ordered = sorted(moved, key=lambda name: (-abs(_dollars(moved[name])), name))
    paper = Paper(columns, ascii_only)
    rows: list[Sequence[TokensEntry | None]] = [suite(history), *(moved[name] for name in ordered)]
    cells = [_cells(values, _ASCII_BARS if ascii_only else _BARS) for values in rows]
    lines = list(named_table([_SUITE, *short_ids(ordered)], _HEADERS, cells, paper, _SPARE))
    since, until = commits[0], commits[-1]
    steady = len(series) - len(moved)
    first, last = (f"{one['commit'][:7]} ({one['date'][:10]})" for one in (since, until))
    facts = [
        f"{plural(number, 'commit')} from {first} to {last}" if number > 1 else f"1 commit, {first}",
        f"{plural(steady, 'scenario')} never changed" if steady else "every scenario changed",
        f"all at the prices of {' '.join(history['prices'].values())}",
    ]
    lines += [Line(), *(Line(text) for text in wrap(plain("; ".join(facts)), columns))]
    return list(map(paper.fitted, lines))


def sparkline(values: Sequence[float | None], bars: str) -> str:
    """One character a value: the first of `bars` for none, the others from the least value to the most."""
    gap, steps = bars[0], bars[1:]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    least, span = min(known), max(known) - min(known)
    last = len(steps) - 1
    return "".join(
        gap if value is None else steps[round((value - least) / span * last) if span else 0]
        for value in values
    )


def _cells(values: Sequence[TokensEntry | None], bars: str) -> list[str]:
    known = [value for value in values if value is not None]
    if not known:
        return [NONE] * (len(_HEADERS) - 1)
    first, last = known[0], values[-1]
    prompts = [None if value is None else float(value["prompt_tokens"]) for value in _apart(values)]
    was = first["prompt_tokens"]
    change = NONE
    if last is not None and was and last["prompt_tokens"] != was:
        growth = (last["prompt_tokens"] - was) / was
        change = signed(growth, percent(growth))
    return [
        count(was),
        "removed" if last is None else count(last["prompt_tokens"]),
        change,
        _money(first),
        NONE if last is None else _money(last),
        sparkline(prompts, bars),
    ]


def _apart(values: Sequence[TokensEntry | None]) -> list[TokensEntry | None]:
    if len(values) <= _TREND:
        return list(values)
    return [values[round(place * (len(values) - 1) / (_TREND - 1))] for place in range(_TREND)]


def _money(value: TokensEntry) -> str:
    return UNKNOWN if value["cost_usd"] is None else money(value["cost_usd"])


def _dollars(values: Sequence[TokensEntry | None]) -> float:
    """How far the cost of a run has gone; an unknown one counts as none."""
    costs = [value["cost_usd"] or 0.0 for value in values if value is not None]
    return costs[-1] - costs[0]
