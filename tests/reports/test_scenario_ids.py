"""What pytest is given to run a scenario."""

from __future__ import annotations

import pytest

from pytest_tokenbudget.model import ScenarioId


@pytest.mark.parametrize(
    ("text", "runs", "kind"),
    [
        ("tests/test_a.py::test_x[1 of 2]", "tests/test_a.py::test_x[1 of 2]", "test"),
        ("tests/test_a.py::teardown of test_x[a]", "tests/test_a.py::test_x[a]", "teardown"),
        ("tests/test_a.py::fixture index", "tests/test_a.py", "fixture"),
        ("tests/test_a.py::fixture index[0] of TestB", "tests/test_a.py::TestB", "fixture"),
        ("tests/test_a.py::fixture index of TestB::test_c", "tests/test_a.py::TestB::test_c", "fixture"),
        ("tests/agents.py::fixture index of tests/test_a.py", "tests/test_a.py", "fixture"),
        ("tests/conftest.py::fixture index", "tests", "fixture"),
        ("conftest.py::fixture index", ".", "fixture"),
        ("conftest.py::fixture index of tests/test_a.py::test_x", "tests/test_a.py::test_x", "fixture"),
        ("conftest.py::fixture index of tests/unit", "tests/unit", "fixture"),
    ],
)
def test_the_argument_and_the_kind(text: str, runs: str, kind: str) -> None:
    scenario = ScenarioId(text)
    assert scenario.argument == runs
    assert scenario.kind == kind
    assert f"{scenario.file}::{scenario.name}" == str(scenario) == text


def test_an_owner_is_named_with_its_file_only_where_that_is_another() -> None:
    assert str(ScenarioId.of_fixture("tests/test_a.py", "index")) == "tests/test_a.py::fixture index"
    beside = ScenarioId.of_fixture("tests/test_a.py", "index", "tests/test_a.py::TestB")
    assert str(beside) == "tests/test_a.py::fixture index of TestB"
    away = ScenarioId.of_fixture("conftest.py", "index", "tests/test_a.py::TestB")
    assert str(away) == "conftest.py::fixture index of tests/test_a.py::TestB"
    assert str(ScenarioId.of_teardown("tests/test_a.py", "test_x")) == "tests/test_a.py::teardown of test_x"
