"""What the dashboard shows, before it is laid out: rows, totals, the spend, causes, what moved a baseline."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_tokenbudget.reports.dashboard import decisions, page
from pytest_tokenbudget.reports.dashboard.scenarios import Past, Subject, details, subjects, trend
from pytest_tokenbudget.reports.dashboard.totals import figures, savings, spend, totals
from pytest_tokenbudget.reports.document import TokensEntry, add
from pytest_tokenbudget.reports.history import History, PointEntry
from support.documents import NEW_MODEL, SONNET, document, finding, let_run, loop, many, one_of_each, scenario
from support.histories import history_of, with_gaps

SMALL, LARGE = loop(SONNET, 1000, [10]), loop(SONNET, 2000, [10])


def tokens(prompt: int, cost: float | None) -> TokensEntry:
    entry = add(loop(SONNET, 1000, [10]))
    return {**entry, "prompt_tokens": prompt, "cost_usd": cost}


def subject(points: list[tuple[int, TokensEntry | None]]) -> Subject:
    series = [PointEntry(commit=place, tokens=held) for place, held in points]
    return Subject("t.py::test_a", "test_a", "s0", None, series, None)


def past(number: int) -> Past:
    return Past(
        [
            {"commit": f"{n:040x}", "date": f"2026-01-{n + 1:02}", "subject": f"commit {n}"}
            for n in range(number)
        ]
    )


def costing(dollars: float | None, number: int) -> Subject:
    points = [PointEntry(commit=0, tokens=tokens(1000, dollars))]
    return Subject(f"t.py::test_{number}", f"test_{number}", f"s{number}", None, points, None)


@pytest.mark.parametrize(
    ("cost", "ticks", "note"),
    [
        (None, 0, "Unknown: of every commit a price is missing."),
        (0.0, 3, ""),
    ],
)
def test_an_axis_of_dollars_has_dollars_beside_it(cost: float | None, ticks: int, note: str) -> None:
    history: History = {
        "version": 1,
        "prices": {"source": "s", "version": "1"},
        "commits": list(past(2).commits),
        "scenarios": {"t.py::a": [{"commit": 0, "tokens": tokens(10, cost)}]},
    }
    figure = figures(history, past(2))[1]
    assert (figure.title, figure.note) == ("Cost a run", note)
    assert figure.svg.count("$0.0") >= ticks
    assert "$0.0000" not in figure.svg


def test_rows_of_a_run_come_worst_first() -> None:
    listed = subjects(one_of_each(), None, None)
    assert [one.verdict for one in listed] == ["over"] * 5 + ["stale"] + ["new"] * 2 + ["improved"] + [
        "within"
    ] * 6
    assert [one.anchor for one in listed] == [f"s{n}" for n in range(15)]


def test_rows_of_a_history_come_dearest_first_and_the_gone_not_at_all() -> None:
    assert [one.name for one in subjects(None, with_gaps(), None)] == [
        "test_a.py::test_always",
        "test_a.py::test_born_late",
        "test_a.py::test_gone_and_back",
        "test_b.py::test_unpriced",
    ]


def test_what_moved_most_dollars_is_told_newest_first() -> None:
    one = subject([(n, tokens(1000 + n, cost)) for n, cost in enumerate([0.1, 0.2, 0.21, 0.5, 0.505, 0.1])])
    found = trend(one, past(6))
    assert found is not None
    assert [(move.commit, move.subject, move.change) for move in found.moves] == [
        ("0000000", "commit 5", "+1"),
        ("0000000", "commit 3", "+1"),
        ("0000000", "commit 1", "+1"),
    ]
    assert found.hidden == 2


def test_moves_of_one_cost_are_told_by_their_tokens() -> None:
    one = subject([(n, tokens(prompt, None)) for n, prompt in enumerate([1000, 1001, 1500, 1499, 2500])])
    found = trend(one, past(5))
    assert found is not None
    assert [move.change for move in found.moves] == ["+1,001", "+499", "+1"]


@pytest.mark.parametrize(
    ("points", "rows"),
    [
        ([(0, tokens(10, 0.1)), (1, None)], [("removed", "–", "–")]),
        (
            [(0, tokens(10, 0.1)), (1, None), (2, tokens(9, None))],
            [("9", "again", "unknown"), ("removed", "–", "–")],
        ),
    ],
)
def test_a_baseline_may_go_and_come_back(points: Any, rows: list[tuple[str, str, str]]) -> None:
    found = trend(subject(points), past(3))
    assert found is not None
    assert [(move.prompt, move.change, move.cost) for move in found.moves] == rows


def test_a_baseline_that_never_changed_has_no_large_chart() -> None:
    found = trend(subject([(0, tokens(10, 0.1))]), past(3))
    assert found is not None
    assert (found.chart, found.moves, found.growth) == ("", [], 0)
    assert trend(subject([]), past(3)) is None


@pytest.mark.parametrize(
    ("costs", "sentence"),
    [
        ([], ""),
        ([None, None], "The cost of 2 scenarios is unknown."),
        ([0.5], "1 of 1 scenario holds 100.0% of the $0.5000 that a run costs."),
        ([0.5, 0.3, 0.2], "1 of 3 scenarios holds 50.0% of the $1.00 that a run costs."),
        (
            [0.4, 0.3, 0.3, None],
            "2 of 3 scenarios hold 70.0% of the $1.00 that a run costs; the cost of 1 is unknown.",
        ),
        ([0.0, 0.0], "A run costs nothing."),
    ],
)
def test_the_spend_in_a_sentence(costs: list[float | None], sentence: str) -> None:
    assert spend([costing(cost, number) for number, cost in enumerate(costs)]).sentence == sentence


def test_the_spend_adds_up() -> None:
    found = spend([costing(1 + number / 100, number) for number in range(13)])
    assert [one.name for one in found.dearest] == [f"test_{number}" for number in range(12, 2, -1)]
    assert found.others is not None
    assert (found.others.name, found.others.together) == ("3 others", "100.0%")
    shares = [float(one.share.rstrip("%")) for one in [*found.dearest, found.others]]
    assert sum(shares) == pytest.approx(100, abs=1)


@pytest.mark.parametrize(("together", "overlap"), [(True, True), (False, False)])
def test_savings_of_one_scenario_overlap(together: bool, overlap: bool) -> None:
    levers = [
        finding("lever_cache", "system[0]", "Mark it.", tokens=-900, cost=-0.002),
        finding("lever_context", "messages[2]", "Drop it.", tokens=-500, cost=-0.001),
    ]
    first, second = (levers, []) if together else ([levers[0]], [levers[1]])
    found = savings(
        document(
            [
                scenario("t.py::test_a", "within", SMALL, SMALL, findings=first),
                scenario("t.py::test_b", "within", SMALL, SMALL, findings=second),
            ]
        ),
        None,
    )
    assert [one.saving for one in found.levers] == ["−$0.0020 a run", "−$0.0010 a run"]
    assert bool(found.note) is overlap


def test_totals_leave_out_what_has_no_other_side() -> None:
    stale = scenario("t.py::test_stale", "stale", SMALL, SMALL)
    new = scenario("t.py::test_new", "new", None, LARGE)
    kept = scenario("t.py::test_kept", "within", SMALL, LARGE)
    found = totals(subjects(document([stale, new, kept]), None, None), "baseline", alarmed=False)
    prompt = found.tiles[0]
    assert (prompt.value, prompt.note) == ("2,060", "was 1,060")
    assert found.scope == "Of 1 scenario with a number then and now, not of 2 that are new, stale or unknown."


def test_where_nothing_had_a_number_the_totals_are_of_what_has_one_now() -> None:
    both = [scenario(f"t.py::test_{name}", "new", None, SMALL) for name in "ab"]
    stale = scenario("t.py::test_stale", "stale", SMALL, SMALL)
    found = totals(subjects(document([*both, stale]), None, None), "baseline", alarmed=False)
    assert [(tile.value, tile.change, tile.note) for tile in found.tiles] == [
        ("2,120", "new", ""),
        ("20", "new", ""),
        ("0.0%", "", ""),
        ("$0.0054", "new", ""),
    ]
    assert {row.was for row in found.kinds} == {"–"}, "no baseline is not a baseline of 0"
    assert [name for name, _ in found.bars] == ["now"]
    assert found.scope == "Of 2 scenarios without a baseline to compare with."


def test_where_nothing_has_a_number_there_is_no_total() -> None:
    found = totals(
        subjects(document([scenario("t.py::test_a", "stale", SMALL, SMALL)]), None, None),
        "then",
        alarmed=True,
    )
    assert (found.tiles, found.kinds, found.bars) == ([], [], [])
    assert found.scope == "No scenario has a number that could be added up."


@pytest.mark.parametrize(("verdict", "worse"), [("over", True), ("within", False)])
def test_growth_is_worse_where_anything_is_over(verdict: str, worse: bool) -> None:
    shown = page(document([scenario("t.py::test_a", verdict, SMALL, LARGE)]), None, None)
    assert [tile.worse for tile in shown.totals.tiles] == [worse, False, False, worse]


def test_a_cost_of_which_nothing_is_known_is_unknown() -> None:
    unpriced = loop(NEW_MODEL, 1000, [10])
    shown = page(document([scenario("t.py::test_a", "over", unpriced, unpriced)]), None, 1000)
    assert [tile.value for tile in shown.totals.tiles[3:]] == ["unknown", "unknown"]


def test_a_month_of_baselines_alone_says_what_it_rests_on() -> None:
    history = history_of(one_of_each(), 3)
    facts = "a month is 2,000 runs of each, as the settings say (markers are not read)"
    assert facts in page(None, history, 2000).facts
    assert facts not in page(one_of_each(), history, 2000).facts


def test_a_month_is_of_those_scenarios_that_are_known_to_run() -> None:
    both = [scenario(f"t.py::test_{name}", "within", SMALL, SMALL) for name in "ab"]
    let_run(both[0], 1_000_000)
    shown = page(document(both), None, None)
    assert [tile.value for tile in shown.totals.tiles[3:]] == ["$0.0054", "$2,720.00"]
    assert shown.totals.tiles[-1].note == "was $2,720.00, without 1 of which nobody said how often"


@pytest.mark.parametrize(
    ("verdict", "was", "now", "more", "reason"),
    [
        ("over", SMALL, SMALL, {"caps": {"max_prompt_tokens": 10}}, "Past a cap, which is set by hand"),
        ("over", SMALL, LARGE, {}, "Past a limit, and no part of the prompt is known to have done it"),
        ("over", SMALL, LARGE, {"findings": [finding("growth", "system", "system grew")]}, "system grew"),
        ("stale", SMALL, SMALL, {}, "The recording does not answer what the agent asks"),
        ("new", None, SMALL, {}, "There is no baseline to be held against"),
    ],
)
def test_each_decision_has_a_reason(verdict: str, was: Any, now: Any, more: Any, reason: str) -> None:
    run = document([scenario("t.py::test_a", verdict, was, now, **more)])
    (shown,) = decisions(run, subjects(run, None, None)).shown
    assert shown.causes[0].text == reason


def test_scenarios_of_one_cause_are_one_decision() -> None:
    grown = [finding("growth", "system[0]", "system[0] grew", tokens=1000, at="prompt.md:3")]
    run = document(scenario(f"t.py::test_{n}", "over", SMALL, LARGE, findings=grown) for n in range(8))
    (shown,) = decisions(run, subjects(run, None, None)).shown
    assert (len(shown.scenarios), shown.more) == (5, 3)


@pytest.mark.parametrize(("number", "hidden"), [(40, 0), (41, 40)])
def test_every_turn_is_listed_up_to_forty_then_those_that_changed(number: int, hidden: int) -> None:
    was = loop(SONNET, 1000, [10] * number)
    (one,) = subjects(document([scenario("t.py::test_a", "over", was, [*was[:-1], *LARGE])]), None, None)
    found = details(one).turns
    assert found is not None
    assert (len(found.rows), found.hidden) == (number - hidden, hidden)


def test_of_many_scenarios_those_where_nothing_changed_are_shown_in_brief() -> None:
    every = many(201)
    shown = page(every, history_of(every, 10), None)
    steady = [row for row in shown.rows if row.details.turns is None]
    assert {row.subject.verdict for row in steady} == {"within"}
    assert all(row.details.chart for row in steady), "their pictures stay"
    assert shown.brief == f"The tables of {len(steady)} scenarios where nothing changed are left out."
    assert page(many(200), None, None).brief == ""
