"""Cassettes that hold more than one test asks: nobody's loss, until a test asks less than it did."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.budgeted import Judged
from support.messages_api import MessagesApi
from support.recorded_suites import RecordedSuite, by_id, measured

SUITE = """
import os

import pytest
import vcr
from agent import ask, post

shared = pytest.mark.vcr(match_on=["body"], record_mode="new_episodes")
FEWER = "FEWER" in os.environ
ANSWER = "It left the warehouse on Monday, and it is expected at your door on Thursday."


@pytest.mark.default_cassette("shared.yaml")
@shared
@pytest.mark.parametrize("words", ["One", "Two", "Three"])
def test_shared(words):
    assert ask(words)


@pytest.mark.default_cassette("shared.yaml")
@shared
def test_two_of_them():
    assert ask("Four")
    if not FEWER:
        assert ask("Five")


@pytest.mark.default_cassette("shared.yaml")
@shared
def test_goes_on():
    # With a turn that continues what another test has asked.
    said = [
        {"role": "user", "content": "One. Asked by test_it.py::test_shared[One] (call)"},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "And then? Asked by test_it.py::test_goes_on (call)"},
    ]
    assert post("", messages=said).status_code == 200


def test_the_same_file_twice():
    for words in ("Six", "Seven"):
        with vcr.use_cassette("cassettes/twice.yaml", record_mode="new_episodes", match_on=["body"]):
            assert ask(words)


@pytest.mark.vcr
def test_leftover():
    if "RECORD" in os.environ:
        assert ask("Eight")
"""
ANSWER = "It left the warehouse on Monday, and it is expected at your door on Thursday."
ASKING = {
    **{f"test_it.py::test_shared[{words}]": 1 for words in ("One", "Two", "Three")},
    "test_it.py::test_two_of_them": 2,
    "test_it.py::test_goes_on": 1,
    "test_it.py::test_the_same_file_twice": 2,
}
"""Tests by their turns; what asks nothing has no line."""


@pytest.fixture
def suite(tmp_path: Path, pytester: pytest.Pytester) -> RecordedSuite:
    """Recorded, with its baselines."""
    with MessagesApi(lambda body: ANSWER) as api, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECORD", "1")
        made = RecordedSuite.write(tmp_path / "suite", pytester, api, {"test_it": SUITE})
        recorded = made.plain("--record-mode=once")
    assert recorded.status == 0, recorded.output
    assert [text.count(b"uri: ") for text in recorded.cassettes.values()] == [6, 1, 2]
    updated, _ = made.judge("--token-budget-update")
    assert updated.status == 0, updated.output
    return made


def turns(judged: Judged) -> dict[str, int]:
    return {name: entry["measured"]["turns"] for name, entry in by_id(judged).items()}


@pytest.mark.parametrize("selection", [(), ("-k", "Two or two or goes_on")], ids=["all", "some"])
def test_what_other_tests_ask_is_missed_by_nobody(selection: tuple[str, ...], suite: RecordedSuite) -> None:
    judged, ran = suite.judge(*selection)
    assert judged.status == 0, judged.output
    assert judged.verdicts == {"within"}
    assert turns(judged).items() <= ASKING.items()
    assert measured(judged) == ran.answered


def test_who_asks_less_than_the_baseline_has_is_stale(
    suite: RecordedSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under replay an agent that breaks off only gets cheaper; --token-budget-update accepts it."""
    monkeypatch.setenv("FEWER", "1")
    assert suite.plain().status == 0
    judged, _ = suite.judge()
    assert {name for name, entry in by_id(judged).items() if entry["verdict"] == "stale"} == {
        "test_it.py::test_two_of_them"
    }
    assert "not asked for any more" in judged.words
    updated, _ = suite.judge("--token-budget-update")
    assert (updated.status, updated.verdicts) == (0, {"within"})
    assert suite.judge()[0].status == 0


def test_who_asks_nothing_any_more_is_stale(suite: RecordedSuite) -> None:
    path = suite.folder / "test_it.py"
    path.write_text(path.read_text().replace('assert ask("Four")', "return"))
    judged, _ = suite.judge()
    entry = by_id(judged)["test_it.py::test_two_of_them"]
    assert entry["verdict"] == "stale"
    assert "the agent asked nothing at all" in entry["findings"][0]["text"]
    assert "--token-budget-record" not in judged.output, "nothing that is asked can be recorded"
