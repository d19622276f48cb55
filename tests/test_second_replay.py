"""What a second replay repeats of a run, and how far it moves the clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.run.stability import ahead, repeatable


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--token-budget", "--token-budget-report=json:r.json"], []),
        (["tests", "tests/test_a.py::test_b", "-k", "not slow"], ["-k", "not slow"]),
        (["--junitxml=r.xml", "--junitxml", "r.xml", "--html", "r.html", "-q"], ["-q"]),
        (["-x", "--maxfail", "1", "--maxfail=2", "--lf", "-p", "no:randomly"], ["-p", "no:randomly"]),
        (["-c", "other.ini", "--env=staging"], ["-c", "other.ini", "--env=staging"]),
    ],
)
def test_what_is_repeated(tmp_path: Path, given: list[str], kept: list[str]) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").touch()
    assert list(repeatable(given, tmp_path)) == kept


@given(st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2040, 1, 1)))
def test_the_clock_moves_within_the_day(now: datetime) -> None:
    moved = now + ahead(now)
    assert moved.date() == now.date()
    assert timedelta(minutes=1) < abs(moved - now) < timedelta(minutes=10)
    assert (moved.minute, moved.second) != (now.minute, now.second)
