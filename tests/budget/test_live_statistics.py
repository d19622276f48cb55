"""What statistics bear of live runs: the tests, how often they are wrong, and what they find."""

from __future__ import annotations

import math
import random

import pytest

from pytest_tokenbudget.budget.verdict import (
    ALPHA,
    Growth,
    LiveRuns,
    grown,
    growth,
    judge_live,
    looks,
    may_stop,
    runs_to_decide,
    student_quantile,
    student_tail,
    suite_growth,
)
from support.sample import examples

ALLOWED = 1.05


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 6.314), (2, 2.920), (5, 2.015), (10, 1.812), (30, 1.697), (120, 1.658)]
)
def test_students_t_is_that_of_the_tables(freedom: float, t: float) -> None:
    """NIST/SEMATECH e-Handbook, 1.3.6.7.2."""
    assert student_tail(t, freedom) == pytest.approx(0.05, abs=1e-4)
    assert student_tail(-t, freedom) == pytest.approx(0.95, abs=1e-4)
    assert student_quantile(0.95, freedom) == pytest.approx(t, abs=1e-3)
    assert student_tail(0, freedom) == pytest.approx(0.5)


def test_the_less_sure_of_two_tests_counts() -> None:
    equal = growth([1.0, 1.1, 0.9, 1.05], [1.2, 1.3, 1.1, 1.25])
    assert equal is not None
    assert (equal.ratio, equal.freedom) == (pytest.approx(1.2, abs=0.02), pytest.approx(6, abs=0.2))
    lucky = growth([1.0, 1.4, 0.7, 1.2, 0.8], [1.3, 1.3])
    assert lucky is not None
    assert lucky.p > ALPHA, "two equal runs do not show how runs vary"


def test_runs_without_noise_are_decided_by_any_growth() -> None:
    more, same = growth([1.0, 1.0], [1.5]), growth([1.0, 1.0], [1.0, 1.0])
    assert more is not None
    assert same is not None
    assert (more.p, same.p) == (0, 1)
    assert more.interval() == (pytest.approx(1.5), pytest.approx(1.5))


@pytest.mark.parametrize(
    ("before", "now"), [((1.0,), (1.0,)), ((), (1.0,)), ((1.0, 1.0), ()), ((0.0, 1.0), (1.0,))]
)
def test_what_cannot_be_compared_is_not(before: tuple[float, ...], now: tuple[float, ...]) -> None:
    assert growth(before, now) is None
    assert judge_live({"a": LiveRuns(before, now, ALLOWED)}).over == frozenset()


def test_holm_holds_each_against_what_is_left() -> None:
    """p of 0.01, 0.02, 0.04 and 0.5: 0.0437 / 4 lets the first through, 0.0437 / 3 not the second."""
    errors = {"a": 0.01, "b": 0.02, "c": 0.04, "d": 0.5}
    known = {name: Growth(student_quantile(1 - p, 1e6), 1.0, 1e6) for name, p in errors.items()}
    assert grown(known) == {"a"}
    assert grown({name: known[name] for name in "abc"}) == {"a", "b", "c"}
    assert grown({}) == frozenset()


def test_a_mean_below_its_limit_is_not_over_however_sure_it_is() -> None:
    runs = LiveRuns((1.0, 1.0001, 0.9999), (1.04, 1.0401, 1.0399), ALLOWED)
    assert runs.growth is not None
    assert runs.growth.p < 0.001
    assert judge_live({"a": runs}).over == frozenset()
    assert judge_live({"a": LiveRuns(runs.baseline, (1.06, 1.0601), ALLOWED)}).over == {"a"}


def test_a_suite_may_have_grown_where_no_scenario_has() -> None:
    noisy = [0.8, 1.2, 1.0, 0.9, 1.1]
    scenarios = {
        str(number): LiveRuns(tuple(noisy), tuple((1.1 + number / 500) * cost for cost in noisy), ALLOWED)
        for number in range(8)
    }
    found = judge_live(scenarios)
    assert (found.over, found.suite_is_over) == (frozenset(), True)
    assert suite_growth([Growth(0.1, 0.1, 8)]) is None


def test_more_runs_decide_what_these_do_not() -> None:
    draw = random.Random(1)
    before = [math.exp(draw.gauss(0, 0.15)) for _ in range(20)]
    now = [math.exp(draw.gauss(0, 0.15)) for _ in range(4)]
    more = runs_to_decide(before, now, 1.15)
    assert more is not None
    assert 0 < more < 40
    assert runs_to_decide(before, now, 3.0) == 0
    assert runs_to_decide(before[:2], now, 1.0001) is None
    assert runs_to_decide(before, now[:1], 1.1) is None


@pytest.mark.parametrize(
    ("planned", "early"), [(1, ()), (2, ()), (3, ()), (4, (3,)), (5, (3, 4)), (10, (5, 8)), (11, (6, 9))]
)
def test_there_are_two_looks_before_the_end(planned: int, early: tuple[int, ...]) -> None:
    assert looks(planned) == early
    for number in range(2, planned + 1):
        surely = LiveRuns((1.0, 1.01, 0.99), (2.0, 2.01, 1.99, *[2.0] * 8)[:number], ALLOWED)
        assert may_stop(surely, planned, 10) == (number in early)
        assert not may_stop(LiveRuns(surely.baseline, surely.baseline, ALLOWED), planned, 10)


def drawn(draw: random.Random, before: int, now: int, factor: float, spread: float) -> LiveRuns:
    def costs(number: int, size: float) -> tuple[float, ...]:
        return tuple(size * math.exp(draw.gauss(0, spread)) for _ in range(number))

    return LiveRuns(costs(before, 1.0), costs(now, factor), ALLOWED)


TIMES = examples(2000)


def bound(share: float) -> float:
    """How often what has this probability happens in TIMES tries at most, but in one of 10,000 tests."""
    return share + 3.7 * math.sqrt(share * (1 - share) / TIMES)


@pytest.mark.parametrize(("before", "now"), [(5, 3), (5, 5), (10, 3), (10, 10)])
def test_false_alarms_of_a_scenario_stay_below_their_level(before: int, now: int) -> None:
    """The table of docs/live.md is of benchmarks/live_statistics.py, which takes more of them."""
    draw = random.Random(before * now)
    over = sum(bool(judge_live({"": drawn(draw, before, now, 1.0, 0.15)}).over) for _ in range(TIMES))
    assert over / TIMES <= bound(ALPHA)


@pytest.mark.parametrize(("before", "now", "spread"), [(10, 10, 0.15), (5, 5, 0.10)])
def test_a_growth_by_a_fifth_is_found(before: int, now: int, spread: float) -> None:
    draw = random.Random(before)
    over = sum(bool(judge_live({"": drawn(draw, before, now, 1.2, spread)}).over) for _ in range(TIMES))
    assert over / TIMES >= 1 - bound(1 - 0.8)
