"""What the commands print: golden files, and lines that are never wider than the paper."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.budget.baselines import Baseline
from pytest_tokenbudget.budget.changes import Change, Direction, Matched
from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.reports import advice_report, baseline_report, build, history
from pytest_tokenbudget.reports.baseline_report import Diff
from pytest_tokenbudget.reports.document import usage_of
from pytest_tokenbudget.reports.terminal import Line
from support import documents

Golden = Callable[[str, str], None]
PRICES = {"source": "genai-prices", "version": "0.2.3"}
BASE: Any = {"name": "origin/main", "commit": documents.COMMIT}
TESTS = "tests/agents/test_support.py::test_"
HOSTILE = f"{TESTS}x[a|`b`]@me</summary><img src=x>\n#1"


def cost(usage: Usage) -> Decimal | None:
    if any(rate.model == documents.NEW_MODEL for rate in usage.by_rate):
        return None
    tokens = usage.tokens
    return (2 * Decimal(tokens.prompt_tokens) + 10 * Decimal(tokens.output_tokens)) / 10**6


def use(prompt: int, output: int = 120, turns: int = 3, model: str = documents.SONNET) -> Usage:
    fresh = prompt // 5
    tokens = Tokens(fresh, cache_read_input_tokens=prompt - fresh, output_tokens=output)
    return Usage.of(Rate(model), tokens, turns)


def changed() -> Diff:
    changes = [
        Change(f"{TESTS}refund", f"{TESTS}refund", None, use(4812), use(6690), Direction.RAISED),
        Change(
            f"{TESTS}late", f"{TESTS}delayed", Matched.FILE, use(3000), use(3100, 140, 4), Direction.RAISED
        ),
        Change(HOSTILE, HOSTILE, None, use(900), use(800, model=documents.NEW_MODEL), Direction.LOWERED),
        Change(f"{TESTS}search", f"{TESTS}search", None, use(5120), use(4010), Direction.LOWERED),
        Change(f"{TESTS}new", f"{TESTS}new", None, None, use(1480), Direction.ADDED),
        Change(f"{TESTS}old", f"{TESTS}old", None, use(700), None, Direction.REMOVED),
        Change(f"{TESTS}angry", f"{TESTS}cross", Matched.TOKENS, use(2000), use(2000), Direction.RENAMED),
    ]
    found = baseline_report.diff(changes, 7, BASE, PRICES, cost)
    worse = ["prompt_tokens", "cost_usd"]
    found["already"] = [
        {"id": f"{TESTS}refund", "verdict": "over", "commit": documents.COMMIT, "worse": worse},
        {"id": f"{TESTS}search", "verdict": "stale", "commit": None, "worse": []},
    ]
    return found


def printed(lines: list[Line], columns: int) -> str:
    assert all(len(line.text) <= columns for line in lines)
    return "".join(f"{line.text}\n" for line in lines)


@pytest.mark.parametrize(("columns", "ascii_only"), [(110, False), (80, True), (44, False)])
def test_diff(golden: Golden, columns: int, ascii_only: bool) -> None:
    lines = baseline_report.diff_lines(changed(), columns=columns, ascii_only=ascii_only)
    golden(f"diff-{columns}.txt", printed(lines, columns))


def test_diff_in_markdown(golden: Golden) -> None:
    golden("diff.md", baseline_report.diff_markdown(changed()))


def test_a_diff_without_a_change_is_a_sentence_and_no_section() -> None:
    nothing = baseline_report.diff([], 14, BASE, PRICES, cost)
    assert [line.text for line in baseline_report.diff_lines(nothing, columns=80)] == [
        "Nothing was accepted since origin/main (9f2c41d): 14 baselines, unchanged",
        "What the agent costs now, against these:",
        "  pytest --token-budget",
    ]
    assert baseline_report.diff_markdown(nothing) == ""


@given(st.integers(0, 300), st.text(min_size=1, max_size=700))
def test_a_section_leaves_room_for_the_report(number: int, name: str) -> None:
    ids = [(f"{name}{n}", f"{n}{name}") for n in range(number)]
    changes = [Change(new, old, Matched.TOKENS, use(1), use(2), Direction.RAISED) for new, old in ids]
    found = baseline_report.diff(changes, 0, {"name": name, "commit": name}, PRICES, cost)
    assert len(baseline_report.diff_markdown(found)) <= 5_200


def test_a_diff_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "diff.json"
    path.write_text(json.dumps(changed()), "utf-8")
    assert baseline_report.load_diff(path) == changed()


ALREADY = {"id": "x", "verdict": "over", "commit": None, "worse": []}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"version": 2}, "version must be 1, not 2"),
        ({"base": None}, "base must be an object, not null"),
        ({"unchanged": -1}, "unchanged must be at least 0"),
        ({"scenarios": [{}]}, r"scenarios\[0\]\.id is missing"),
        (
            {"already": [{**ALREADY, "verdict": "<b>"}]},
            r"already\[0\]\.verdict must be",
        ),
        (
            {"already": [{**ALREADY, "worse": ["<b>"]}]},
            r"worse\[0\] must be",
        ),
        ({"pull_request": 1}, "pull_request is not a key of this version"),
    ],
)
def test_a_diff_that_others_wrote_is_validated(tmp_path: Path, wrong: Any, says: str) -> None:
    path = tmp_path / "diff.json"
    path.write_text(json.dumps({**changed(), **wrong}), "utf-8")
    with pytest.raises(ReportError, match=says):
        baseline_report.load_diff(path)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, '{"version": NaN}'])
def test_a_diff_that_is_no_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "diff.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ReportError, match=r"tokenbudget diff --format json"):
        baseline_report.load_diff(path)


def past(number: int = 30) -> history.History:
    dates = [f"2026-10-{place + 1:02}T09:00:00+02:00" for place in range(number)]
    commits: Any = [
        {"commit": f"{place:02}" * 20, "date": date, "subject": f"Say more (#{place})"}
        for place, date in enumerate(dates)
    ]
    series: Any = {
        f"{TESTS}grows": [(place, use(1000 + 40 * place)) for place in range(number)],
        f"{TESTS}jumps": [(0, use(4000)), (15, use(6000))],
        f"{TESTS}is_gone": [(2, use(700)), (5, use(710)), (9, None)],
        f"{TESTS}has_no_price": [(0, use(900)), (4, use(800, model=documents.NEW_MODEL))],
        f"{TESTS}never_changed": [(3, use(50))],
    }
    known = {name: [point for point in points if point[0] < number] for name, points in series.items()}
    return history.from_trends(commits, known, PRICES, cost)


@pytest.mark.parametrize(("columns", "ascii_only"), [(110, False), (60, True)])
def test_history(golden: Golden, columns: int, ascii_only: bool) -> None:
    lines = history.history_lines(past(), columns=columns, ascii_only=ascii_only, runs_per_month=1000)
    golden(f"history-{columns}.txt", printed(lines, columns))


def test_a_history_of_one_commit_and_of_none() -> None:
    (line,) = history.history_lines(history.from_trends([], {}, PRICES, cost), columns=80)
    assert line.text.startswith("No commit holds a baseline yet")
    lines = history.history_lines(past(1), columns=80)
    assert any(line.text.startswith("1 commit, 0000000") for line in lines)


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], ""),
        ([None], ""),
        ([5, 5, 5], "ddd"),
        ([0, 0], "aa"),
        ([0, 51, 100], "acd"),
        ([100, 101], "dd"),
        ([None, 1, None, 2], ".c.d"),
        ([100, 0], "da"),
    ],
)
def test_sparklines(values: list[float | None], drawn: str) -> None:
    assert history.sparkline(values, ".abcd") == drawn


def test_the_commits_that_moved_the_suite_add_up_to_its_trend() -> None:
    found = past()
    totals = [one["prompt_tokens"] for one in history.suite(found)]
    every = history.steps(found, 99)
    dates = [step.commit["date"] for step in every]
    assert dates == sorted(dates, reverse=True)
    assert sum(step.tokens for step in every) == totals[-1] - totals[0]
    by_date = {step.commit["date"][8:10]: step for step in every}
    assert by_date["16"].tokens == totals[15] - totals[14]
    assert by_date["16"].dollars == pytest.approx((2000 + 40) * 2 / 10**6)
    assert (by_date["03"].scenarios, by_date["10"].scenarios) == (
        "1 changed, 1 added",
        "1 changed, 1 removed",
    )
    assert by_date["05"].dollars is None
    assert [step.commit["date"][8:10] for step in history.steps(found, 2)] == ["16", "03"]


@pytest.mark.parametrize(
    ("subject", "number"),
    [
        ("Say how to greet (#412)", 412),
        ("Merge pull request #7 from shop/grow", 7),
        ("Fix #3", None),
        ("Revert (#1) again", None),
    ],
)
def test_the_pull_request_of_a_commit(subject: str, number: int | None) -> None:
    step = history.Step({"commit": "", "date": "", "subject": subject}, 0, 0.0, 1, 0, 0)
    assert step.pull_request == number


def test_the_suite_after_each_commit_adds_up() -> None:
    found = past()
    totals = history.suite(found)
    for place, total in enumerate(totals):
        each = [history.states(points, 30)[place] for points in found["scenarios"].values()]
        assert total["prompt_tokens"] == sum(one["prompt_tokens"] for one in each if one)
    assert totals[3]["cost_usd"] is not None
    assert totals[4]["cost_usd"] is None, "one has no price"
    assert set(history.present(found)) == {name for name in found["scenarios"] if "is_gone" not in name}


@pytest.mark.parametrize(("columns", "runs"), [(110, 30_000), (80, None), (50, 100)])
def test_show(golden: Golden, columns: int, runs: int | None) -> None:
    found = {one["id"]: one["baseline"] for one in documents.one_of_each()["scenarios"] if one["baseline"]}
    found[f"{TESTS}priceless"] = documents.used(documents.NEW_MODEL, 900, 0, 0, 10)
    start = build.starts([Baseline(usage_of(one)) for one in found.values()], cost)
    lines = baseline_report.suite_lines(found, PRICES, runs, start, columns=columns)
    golden(f"show-{columns}.txt", printed(lines, columns))
    assert baseline_report.suite_json(found, PRICES, runs, start)["totals"]["cost_usd"] is None


@pytest.mark.parametrize(
    ("turns", "foreign", "said"),
    [
        (1, {}, "from an empty cache, $9.60"),
        (2, {}, "from an empty cache, at least $9.60"),
        (2, {"5m": 100}, "from recordings that began partly warm, $25.80 from an empty cache, $24.00"),
    ],
)
def test_a_month_says_from_which_start_it_is_priced(turns: int, foreign: Any, said: str) -> None:
    """`show`, `diff` and `history` say it of the same baselines in the same words."""
    rate = Rate(documents.SONNET)
    tokens = Tokens(100, ephemeral_5m_input_tokens=800, cache_read_input_tokens=200, output_tokens=10)
    held = Baseline(Usage.of(rate, tokens, turns), {rate: foreign})

    def by_kind(usage: Usage) -> Decimal:
        all_of_it = usage.tokens
        written, read = all_of_it.cache_creation_input_tokens, all_of_it.cache_read_input_tokens
        return (Decimal(2) * written + Decimal("0.2") * read) / 10**6 + Decimal("0.00076")

    start = build.starts([held], by_kind)
    found = {f"{TESTS}a": documents.used(documents.SONNET, 100, 800, 200, 10)}
    past_one = {**past(1), "start": start}
    diff = baseline_report.diff([], 1, BASE, PRICES, by_kind, 10_000, start=start)
    shown = (
        baseline_report.suite_lines(found, PRICES, 10_000, start, columns=500),
        history.history_lines(past_one, columns=500, runs_per_month=10_000),
        baseline_report.diff_lines(diff, columns=500),
    )
    for lines in shown:
        assert lines[-1].text.endswith(f"the baseline: $24.00 a month ({said} with a warm prefix)")
    assert by_kind(held.usage) * 10_000 == 24


def test_a_month_is_unknown_without_a_price() -> None:
    held = Baseline(use(900, model=documents.NEW_MODEL))
    start = build.starts([held], cost)
    assert (start["usd"], start["cold_usd"], start["warm_usd"]) == (None, None, None)
    priceless = {f"{TESTS}priceless": documents.used(documents.NEW_MODEL, 900, 0, 0, 10)}
    lines = baseline_report.suite_lines(priceless, PRICES, 5, start, columns=99)
    assert lines[-1].text.endswith("unknown a month, for a price is missing")


def levers() -> advice_report.Advice:
    def scenario(name: str, prompt: int, *found: Any) -> Any:
        turns = [documents.used(documents.SONNET, prompt, 0, 0, 50)]
        return documents.scenario(f"{TESTS}{name}", "within", turns, turns, findings=found)

    def lever(kind: str, saving: float | None, text: str, at: str = "") -> Any:
        return documents.finding(f"lever_{kind}", "system[0]", text, tokens=None, cost=saving, at=at)

    shared = "cache_control at system[0] (agent.py:9), where nothing is marked now, would read more"
    ttl, model = lever("ttl", -0.0001, "an hour is enough"), lever("model", None, "a smaller model")
    scenarios = [
        scenario("a", 1000, lever("caching", -0.002, shared, "agent.py:9"), ttl),
        scenario("b", 1010, lever("caching", -0.003, shared, "agent.py:9"), model),
        *(scenario(f"c{place}", 1000 + place) for place in range(7)),
        scenario("huge", 90_000, documents.finding("growth", "system[0]", "is no lever", tokens=5)),
    ]
    return advice_report.advice(documents.document(scenarios), 1000)


def test_levers_of_one_place_are_one_and_the_dearest_is_first() -> None:
    found = levers()
    assert [(one["kind"], one["cost_usd"], len(one["scenarios"])) for one in found["levers"]] == [
        ("lever_caching", -0.005, 2),
        ("lever_ttl", -0.0001, 1),
        ("lever_model", None, 1),
    ]
    (outlier,) = found["outliers"]
    assert outlier["id"] == f"{TESTS}huge"
    assert outlier["share"] == pytest.approx(0.1805 / found["totals"]["cost_usd"])  # type: ignore[operator]


def test_a_few_scenarios_have_no_outliers() -> None:
    few = documents.document(documents.one_of_each()["scenarios"][:3])
    assert advice_report.advice(few, None)["outliers"] == []


@pytest.mark.parametrize("columns", [100, 50])
def test_advise(golden: Golden, columns: int) -> None:
    golden(f"advice-{columns}.txt", printed(advice_report.advice_lines(levers(), columns=columns), columns))


def test_advise_in_markdown(golden: Golden) -> None:
    golden("advice.md", advice_report.advice_markdown(levers()))
    nothing = advice_report.advice(documents.all_green(), None)
    assert "nothing found that would be cheaper" in advice_report.advice_markdown(nothing)
