"""Numbers as they are printed: by table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.wording import apart, count, money, percent, plural, points, signed, signed_range


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        (0, "0.0%"),
        (0.39, "39.0%"),
        (-0.12, "−12.0%"),
        (1, "100.0%"),
        (-1, "−100.0%"),
        (0.99999, "99.999%"),
        (0.9996, "99.96%"),
        (-0.99999, "−99.999%"),
        (1.0000001, "100.00001%"),
        (0.0001, "0.01%"),
        (0.0000002, "0.00002%"),
        (0.1 + 0.2 - 0.3, "0.0%"),
        (12.3, "1,230.0%"),
    ],
)
def test_percent(ratio: float, shown: str) -> None:
    assert percent(ratio) == shown


@given(st.fractions(-2, 2, max_denominator=10**6))
def test_nothing_is_0_or_100_percent_unless_it_is(ratio: float) -> None:
    number = percent(float(ratio)).strip("%−").replace(",", "")
    assert (float(number) == 0) == (ratio == 0)
    assert (float(number) == 100) == (abs(ratio) == 1)


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [
        (0, "$0.00"),
        (0.0312, "$0.0312"),
        (0.5, "$0.5000"),
        (0.00071, "$0.00071"),
        (0.00000512, "$0.0000051"),
        (1.5, "$1.50"),
        (1234.5, "$1,234.50"),
        (-0.0031, "−$0.0031"),
        (-12, "−$12.00"),
    ],
)
def test_money(dollars: float, shown: str) -> None:
    assert money(dollars) == shown


@given(st.floats(1e-12, 1e9))
def test_no_dollars_only_when_there_are_none(dollars: float) -> None:
    assert float(money(dollars).strip("$").replace(",", "")) > 0


def test_counts_and_signs() -> None:
    assert count(1234567) == "1,234,567"
    assert count(-5) == "−5"
    assert signed(5, count(5)) == "+5"
    assert signed(-5, count(-5)) == "−5"
    assert signed(0, count(0)) == "0"
    ranges = {(2, 5): "+2 to +5", (-5, -2): "−5 to −2", (-2, 5): "2 less to 5 more", (0, 5): "+0 to +5"}
    ranges |= {(2, 2): "+2", (-2, -2): "−2", (0, 0): "0"}
    assert {ends: signed_range(*ends, count) for ends in ranges} == ranges
    assert points(-0.739) == "−73.9 pts"
    assert points(0.0004) == "+0.04 pts"
    assert (plural(1, "turn"), plural(0, "turn"), plural(1200, "turn")) == (
        "1 turn",
        "0 turns",
        "1,200 turns",
    )


@pytest.mark.parametrize(
    ("value", "other", "digits", "found"),
    [(76.04, 76.0, 1, 2), (76.0, 76.0, 1, 1), (5053, 5053.4, 0, 1), (0.02531, 0.02529, 4, 5)],
)
def test_apart(value: float, other: float, digits: int, found: int) -> None:
    assert apart(value, other, digits) == found
