"""A fixture that rests on one with parameters is set up for each of them: each time is a scenario."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.budgeted import Project
from support.messages_api import MessagesApi
from support.scratch_suites import echo, make, record

SUITE = """
import pytest
from agent import ask

pytestmark = pytest.mark.token_budget


@pytest.fixture(scope="session", params=["red", "blue"])
def ink(request):
    return ask(f"Mix {request.param}.")


@pytest.fixture(scope="module", params=["a pen", "a brush"])
def tool(request, ink):
    return ask(f"Fill {request.param}: {ink}")


@pytest.fixture(scope="class")
def hand(tool):
    return ask(f"Take up: {tool}")


class TestDesk:
    def test_writes(self, hand):
        assert ask(f"Write: {hand}")
"""
INKS, TOOLS = ("red", "blue"), ("a pen", "a brush")
LINES = {
    *(f"fixture ink[{ink}]" for ink in (0, 1)),
    *(f"fixture tool[{tool}-{ink}]" for ink in (0, 1) for tool in (0, 1)),
    *(f"fixture hand[{tool}-{ink}] of TestDesk" for ink in (0, 1) for tool in (0, 1)),
    *(f"TestDesk::test_writes[{ink}-{tool}]" for ink in INKS for tool in TOOLS),
}


def test_each_parameter_has_its_line_and_its_answers(tmp_path: Path, pytester: pytest.Pytester) -> None:
    project = make(tmp_path / "suite", pytester, SUITE)
    with MessagesApi(echo) as api:
        record(project, api, len(LINES))
    whole = project.judge()
    assert {name: entry["measured"]["turns"] for name, entry in whole.scenarios.items()} == dict.fromkeys(
        LINES, 1
    )
    assert (whole.status, whole.verdicts) == (0, {"within"}), whole.output
    assert {entry["basis"] for entry in whole.document["scenarios"]} == {"recorded"}

    part = _of_one(project)
    assert part <= LINES
    assert len(part) == 4


def _of_one(project: Project) -> set[str]:
    """The lines of a run of one test alone, all as recorded."""
    judged = project.judge("test_it.py::TestDesk::test_writes[blue-a brush]")
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert {entry["basis"] for entry in judged.document["scenarios"]} == {"recorded"}
    return set(judged.scenarios)
