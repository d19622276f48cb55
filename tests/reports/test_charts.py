"""Charts: what is drawn is what was given, whatever was given."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isclose, log10
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_tokenbudget.reports.dashboard import charts
from pytest_tokenbudget.reports.dashboard.charts import (
    HEIGHT,
    KINDS,
    Axis,
    Bar,
    axis_from_zero,
    compact,
    steps,
)
from pytest_tokenbudget.reports.text import plain
from support.strategies import hostile

amounts = st.integers(0, 10**9)
numbers = st.floats(0, 1e9, allow_subnormal=False)
lines = st.lists(st.none() | numbers, max_size=60)
parts = st.tuples(amounts, amounts, amounts, amounts)
TENTHS = Axis(0, 10, (0, 5, 10))
ENDS = ("2026-01-03", "2026-06-03")


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def paths(svg: str, name: str) -> list[str]:
    return [one.get("d", "") for one in drawn(svg).iter("path") if name in (one.get("class") or "").split()]


@pytest.mark.parametrize(
    ("most", "ticks", "high"),
    [
        (0, (0, 1), 1),
        (1, (0, 1), 1),
        (3, (0, 1, 2, 3), 3),
        (100, (0, 50, 100), 100),
        (6427, (0, 2000, 4000, 6000), 6427),
        (1_000_000, (0, 500_000, 1_000_000), 1_000_000),
    ],
)
def test_axes_of_counts_have_round_ticks(most: float, ticks: tuple[float, ...], high: float) -> None:
    axis = axis_from_zero(most, 1)
    assert (axis.low, axis.high, axis.ticks) == (0, high, ticks)


@given(st.floats(1e-7, 1e12), st.sampled_from([0.0, 1.0]))
def test_an_axis_from_zero_holds_its_values(most: float, least: float) -> None:
    axis = axis_from_zero(most, least)
    assert axis.low == 0
    assert axis.high >= most
    assert_round(axis, least)
    assert 2 <= len(axis.ticks) <= 6


def assert_round(axis: Axis, least: float) -> None:
    assert all(axis.low * (1 - 1e-9) <= tick <= axis.high * (1 + 1e-9) for tick in axis.ticks)
    for lower, upper in pairwise(axis.ticks):
        step = upper - lower
        leading = step / 10 ** int(f"{log10(step):.9f}".partition(".")[0])
        rounds = [factor * 10**power for factor in (1, 2, 5) for power in (-1, 0, 1)]
        assert any(isclose(leading, one, rel_tol=1e-6) for one in rounds), f"a step of {step}"
        assert step >= least * (1 - 1e-9)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1, "1"), (500, "500"), (2500, "2.5k"), (20_000, "20k"), (1_500_000, "1.5M"), (2e9, "2G")],
)
def test_ticks_are_written_short(number: float, text: str) -> None:
    assert compact(number) == text


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ([], ""),
        ([None, None], ""),
        ([5], "M0 100h1"),
        ([5, 5, 5], "M0 100h3"),
        ([5, 10, 10, 0], "M0 100h1v-100h2v200h1"),
        ([None, 5, None, 10, 10], "M1 100h1M3 0h2"),
    ],
)
def test_steps_hold_until_the_next_value(values: list[float | None], path: str) -> None:
    assert steps(values, TENTHS) == path


@given(lines)
def test_a_line_of_steps_is_at_every_value(values: list[float | None]) -> None:
    axis = axis_from_zero(max([1, *(value for value in values if value is not None)]))
    assert columns(steps(values, axis), len(values)) == [None if v is None else axis.y(v) for v in values]


def columns(path: str, number: int) -> list[int | None]:
    """The height of a path of steps in every column."""
    heights: list[int | None] = [None] * number
    x = y = 0
    for command, first, second in re.findall(r"([Mhv])(-?\d+)(?: (-?\d+))?", path):
        if command == "M":
            x, y = int(first), int(second)
        elif command == "v":
            y += int(first)
        else:
            for place in range(x, x + int(first)):
                heights[place] = y
            x += int(first)
    return heights


@given(st.lists(parts, min_size=1, max_size=12))
def test_bars_of_a_stack_end_where_their_sums_do(listed: list[tuple[int, ...]]) -> None:
    svg = charts.stacked_bars([Bar(one) for one in listed], "turns", compact)
    axis = axis_from_zero(max(map(sum, listed)), 1)
    for index, kind in enumerate(KINDS):
        tops = {place: axis.y(sum(one[: index + 1])) for place, one in enumerate(listed) if one[index]}
        found = re.findall(rf"M(\d+) (\d+)h8V{HEIGHT}h-8z", "".join(paths(svg, kind)))
        assert {int(x) // 10: int(y) for x, y in found} == tops


@given(st.lists(parts, min_size=1, max_size=12))
def test_areas_of_a_trend_end_where_their_sums_do(listed: list[tuple[int, ...]]) -> None:
    svg = charts.stacked_trend(listed, "suite", compact, ENDS)
    axis = axis_from_zero(max(map(sum, listed)), 1)
    for index, kind in enumerate(KINDS):
        if not any(one[index] for one in listed):
            assert paths(svg, kind) == []
            continue
        (path,) = paths(svg, kind)
        top, _, closed = path.partition("V")
        assert closed == f"{HEIGHT}H0Z"
        assert columns(top, len(listed)) == [axis.y(sum(one[: index + 1])) for one in listed]


def test_lower_parts_are_drawn_over_higher_ones() -> None:
    svg = charts.stacked_bars([Bar((1, 1, 1, 1))], "turns", compact)
    kinds = [one.get("class") for one in drawn(svg).iter("path") if one.get("class") in KINDS]
    assert kinds == ["output", "uncached", "written", "read"]


def test_a_bar_says_what_it_was_where_it_changed() -> None:
    bars = [Bar((50, 0, 0, 50), was=100), Bar((50, 0, 0, 50), was=80), Bar((50, 0, 0, 50), was=None)]
    assert paths(charts.stacked_bars(bars, "turns", compact), "was") == [f"M10 {HEIGHT // 5}h10"]


def test_an_unknown_turn_is_a_frame_and_no_bar() -> None:
    svg = charts.stacked_bars([Bar((10, 0, 0, 0)), Bar(None, was=5)], "turns", compact)
    assert paths(svg, "unknown") == [f"M11 {HEIGHT // 2}h8V{HEIGHT}h-8z"]
    assert paths(svg, "read") == [f"M1 0h8V{HEIGHT}h-8z"]
    assert paths(svg, "was") == []


@pytest.mark.parametrize(
    ("turns", "numbers"), [(1, [1]), (12, list(range(1, 13))), (30, list(range(1, 31, 3)))]
)
def test_turns_are_numbered_below_their_bars(turns: int, numbers: list[int]) -> None:
    svg = charts.stacked_bars([Bar((1, 0, 0, 0))] * turns, "turns", compact)
    found = re.findall(r'<text x="([\d.]+)%">(\d+)</text>', svg)
    assert [int(number) for _, number in found] == numbers
    assert all(isclose(float(x), (int(n) - 0.5) / turns * 100, abs_tol=0.01) for x, n in found)


@given(parts, st.integers(1, 10**9))
def test_a_lying_stack_is_as_wide_as_its_share(listed: tuple[int, ...], rest: int) -> None:
    most = sum(listed) + rest
    rectangles = list(drawn(charts.stack(listed, most, "all")).iter("rect"))
    kept = [(kind, part) for kind, part in zip(KINDS, listed, strict=True) if part]
    assert [one.get("class") for one in rectangles] == [kind for kind, _ in kept]
    end = 0.0
    for rectangle, (_, part) in zip(rectangles, kept, strict=True):
        start, width = (float(rectangle.get(name, "").rstrip("%")) for name in ("x", "width"))
        assert isclose(start, end, abs_tol=0.03)
        assert isclose(width, part / most * 100, abs_tol=0.006)
        end = start + width


@pytest.mark.parametrize(("part", "end"), [(-1, "0"), (0, "0"), (0.5, "32"), (1, "64"), (7, "64")])
def test_a_share_stays_within_its_cell(part: float, end: str) -> None:
    assert f'd="M0 2.5h{end}"' in charts.share(part)


def test_the_large_trend_draws_the_path_of_the_small_one() -> None:
    values = [5.0, None, 10.0]
    small = charts.sparkline("s7t", values, TENTHS, "5 to 10", "over")
    large = charts.trend_again("s7t", values, TENTHS, "again", compact, ENDS, dots=[0, 1, 2])
    assert '<path id="s7t"' in small
    assert paths(small, "line") == ["M0 100h1M2 0h1"]
    assert paths(small, "over") == ["M3 0h0"], "the newest value is dotted in the colour of the verdict"
    assert '<use href="#s7t"/>' in large
    assert paths(large, "dot") == ["M0 100h0M2 0h0"], "none where there is no value"


def test_ticks_and_ends_are_written_outside_of_what_is_stretched() -> None:
    svg = drawn(charts.trend([0.0, 10.0], TENTHS, "label", compact, ENDS))
    stretched = next(svg.iter("svg")).find("svg")
    assert stretched is not None
    assert not list(stretched.iter("text"))
    assert [one.text for one in svg.iter("text")] == ["0", "5", "10", *ENDS]


def test_what_is_pointed_at_says_its_commit() -> None:
    svg = drawn(charts.trend([1.0, 2.0], TENTHS, "label", compact, ENDS, notes=["first", "<second>"]))
    assert [one.text for one in svg.iter("title")] == ["first", "<second>"]


CHARTS: dict[str, Callable[[str, Sequence[float | None]], str]] = {
    "sparkline": lambda text, values: charts.sparkline("a", values, TENTHS, text, "over"),
    "trend": lambda text, values: charts.trend(
        values, TENTHS, text, lambda _: text, (text, text), notes=[text] * len(values)
    ),
    "trend_again": lambda text, values: charts.trend_again(
        "a", values, TENTHS, text, lambda _: text, (text, text), dots=range(len(values))
    ),
    "stacked_trend": lambda text, values: charts.stacked_trend(
        [(int(value or 0), 0, 1, 2) for value in values], text, lambda _: text, (text, text)
    ),
    "stacked_bars": lambda text, values: charts.stacked_bars(
        [Bar(None if value is None else (int(value), 0, 1, 2), 7) for value in values], text, lambda _: text
    ),
    "stack": lambda text, values: charts.stack((1, 0, 2, 3), 6, text),
}


@pytest.mark.parametrize("name", CHARTS)
@given(text=hostile, values=lines)
def test_charts_are_well_formed_and_hold_nothing_but_pictures(
    name: str, text: str, values: list[float | None]
) -> None:
    text = plain(text)
    assume(text.isascii() or text.isprintable())
    root = drawn(CHARTS[name](text, values))
    assert root.get("role") == "img"
    assert root.get("aria-label") == text
    for one in root.iter():
        assert one.tag in {"svg", "g", "path", "rect", "text", "title", "use"}
        assert not {key for key in one.attrib if key == "style" or key.startswith("on")}
        assert one.get("href", "#a") == "#a"
        assert "nan" not in str(one.attrib)
        assert "inf" not in str({key: value for key, value in one.attrib.items() if key != "aria-label"})
