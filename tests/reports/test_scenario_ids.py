"""What pytest is given to run a scenario."""

from __future__ import annotations

import pytest

from pytest_tokenbudget.model import argument, is_beside_a_test


@pytest.mark.parametrize(
    ("scenario", "runs", "beside"),
    [
        ("tests/test_a.py::test_x[1 of 2]", "tests/test_a.py::test_x[1 of 2]", False),
        ("tests/test_a.py::teardown of test_x[a]", "tests/test_a.py::test_x[a]", True),
        ("tests/test_a.py::fixture index", "tests/test_a.py", True),
        ("tests/test_a.py::fixture index[0] of TestB", "tests/test_a.py::TestB", True),
        ("tests/test_a.py::fixture index of TestB::test_c", "tests/test_a.py::TestB::test_c", True),
        ("tests/agents.py::fixture index of tests/test_a.py", "tests/test_a.py", True),
        ("tests/conftest.py::fixture index", "tests", True),
        ("conftest.py::fixture index", ".", True),
        ("conftest.py::fixture index of tests/test_a.py::test_x", "tests/test_a.py::test_x", True),
        ("conftest.py::fixture index of tests/unit", "tests/unit", True),
    ],
)
def test_the_argument(scenario: str, runs: str, beside: bool) -> None:
    assert argument(scenario) == runs
    assert is_beside_a_test(scenario) is beside
