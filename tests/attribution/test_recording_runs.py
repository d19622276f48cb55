"""What a recording run tells: what it has written, what that cost, and what it could not record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.budget.baselines import UPDATE
from pytest_tokenbudget.reports.terminal import RecordedEntry, Recordings
from support.budgeted import Project
from support.messages_api import ApiError, MessagesApi
from support.scratch_suites import make

TEXT = """
import contextlib
import os

import httpx2
import pytest
from agent import ask


@pytest.mark.token_budget
def test_one():
    ask("One")
    ask(os.environ.get("SECOND", "Two"))


@pytest.mark.token_budget
def test_gives_up():
    with contextlib.suppress(httpx2.HTTPStatusError):
        ask("Three")


@pytest.mark.token_budget
def test_tries_again():
    for _ in range(2):
        with contextlib.suppress(httpx2.HTTPStatusError):
            ask("Four")


@pytest.mark.token_budget
def test_fails():
    assert ask("Five") == os.environ.get("FIVE")
"""
CASSETTE = "cassettes/test_it/{}.yaml"


@pytest.fixture
def project(tmp_path: Path, pytester: pytest.Pytester) -> Project:
    return make(tmp_path / "suite", pytester, TEXT)


def told(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(("wrote", "recorded", "and "))]


def test_it_names_each_cassette_and_what_it_cost(project: Project, api: MessagesApi) -> None:
    done = project.run("--token-budget-record=once", "-k", "one or tries", url=api.url)
    assert len(api.charges) == 4
    one, both = told(done.output)[0], told(done.output)[-1]
    assert one.startswith(f"wrote {CASSETTE.format('test_one')}: 2 turns, $0.0")
    assert both.startswith("recorded 2 cassettes: 4 turns, $0.0")
    assert (
        f"Next, write what it costs; then commit cassettes/ and token_budgets/:\n  {UPDATE}\n" in done.output
    )
    spent = [charge.usage for charge in api.charges]
    dollars = sum(usage.input_tokens + 5 * usage.output_tokens for usage in spent) / 1e6
    assert float(both.partition("$")[2]) == pytest.approx(dollars, rel=0.05)
    again = project.run("--token-budget-record=once", "-k", "one or tries", url=api.url)
    assert (told(again.output), "Next, " in again.output) == ([], False)
    assert told(project.run("-k", "one or tries").output) == []


def test_what_was_played_is_not_paid_for(
    project: Project, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run("--token-budget-record=once", "-k", "one", url=api.url)
    monkeypatch.setenv("SECOND", "Five")
    done = project.run("--token-budget-record=changed", "-k", "one", url=api.url)
    (line,) = told(done.output)
    assert line.startswith(f"wrote {CASSETTE.format('test_one')}: 2 turns, 1 called, $0.0")


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two"])
def test_quiet_and_several_processes(project: Project, api: MessagesApi, arguments: tuple[str, ...]) -> None:
    done = project.run("--token-budget-record=all", "-q", "-k", "one or tries", *arguments, url=api.url)
    (line,) = told(done.output)
    assert line.startswith("recorded 2 cassettes: 4 turns, $0.0")


def test_a_call_that_failed_for_good_is_told(project: Project, api: MessagesApi) -> None:
    """An agent may ignore it, and would be measured without it for ever."""
    api.fail_next(ApiError(529))
    done = project.run("--token-budget-record=once", "-k", "gives_up", url=api.url)
    assert done.status == 0, done.output
    assert 'test_gives_up: POST /v1/messages (claude-haiku-4-5): "Three" was answered with 529' in done.output
    assert "record the test once more with --token-budget-record=all" in done.output
    assert told(done.output) == [f"wrote {CASSETTE.format('test_gives_up')}: 0 turns, $0.00"]
    assert "was answered with" not in project.run("-k", "gives_up").output


def test_one_that_was_tried_again_is_not(project: Project, api: MessagesApi) -> None:
    api.fail_next(ApiError(529))
    done = project.run("--token-budget-record=once", "-k", "tries", url=api.url)
    assert done.status == 0, done.output
    assert "was answered with" not in done.output
    assert told(done.output)[0].startswith(f"wrote {CASSETTE.format('test_tries_again')}: 1 turn, $0.0")


def test_a_test_that_fails_says_that_it_keeps_nothing(project: Project, api: MessagesApi) -> None:
    done = project.run("--token-budget-record=once", "-k", "fails", url=api.url)
    assert done.status == 1
    assert "The test failed: nothing of what it called is recorded." in done.output
    assert not (project.path / CASSETTE.format("test_fails")).exists()
    live = project.run("--token-budget-live", "-k", "fails", url=api.url)
    assert live.status == 1
    assert "is recorded" not in live.output


def entry(number: int, cost: float | None, **more: Any) -> RecordedEntry:
    made: Any = {"cassette": f"/c/{number}.yaml", "turns": 1, "called": 1, "cost_usd": cost}
    return {**made, "turns_before": None, "is_rewritten": True, **more}


def test_what_nobody_can_price_is_no_sum() -> None:
    recordings = Recordings()
    for number, cost in enumerate([0.25, None, 0.5]):
        recordings.add(entry(number, cost))
    *_, unknown, _, total = recordings.lines(lambda path: path.name)
    assert unknown == "wrote 1.yaml: 1 turn, cost unknown"
    assert total == "recorded 3 cassettes: 3 turns, at least $0.7500"


def test_a_test_that_runs_again_has_paid_twice() -> None:
    recordings = Recordings()
    recordings.add(entry(0, 0.25, turns=2, called=2))
    recordings.add(entry(0, 0.25, turns=2, called=1))
    assert list(recordings.lines(lambda path: path.name)) == ["wrote 0.yaml: 2 turns, 3 called, $0.5000"]


def test_another_number_of_turns_is_told() -> None:
    recordings = Recordings()
    recordings.add(entry(0, 0.25, turns=5, called=2, turns_before=4))
    recordings.add(entry(1, 0.25, turns_before=1, is_rewritten=False))
    assert list(recordings.lines(lambda path: path.name)) == [
        "wrote 0.yaml: 5 turns instead of 4, 2 called, $0.2500",
        "kept 1.yaml: 1 turn, $0.2500, the answers are the same",
        "recorded 2 cassettes: 6 turns instead of 5, 3 called, $0.5000",
    ]


@pytest.mark.parametrize(("verbosity", "lines"), [(-1, 1), (0, 22), (1, 31)])
def test_a_long_list_is_cut(verbosity: int, lines: int) -> None:
    recordings = Recordings()
    for number in range(30):
        recordings.add(entry(number, 0.01))
    found = list(recordings.lines(lambda path: path.name, verbosity))
    assert len(found) == lines
    assert found[-1] == "recorded 30 cassettes: 30 turns, $0.3000"
    assert ("and 10 cassettes more: -v shows them all" in found) == (verbosity == 0)
