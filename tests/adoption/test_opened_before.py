"""Cassettes that a suite opens before pytest sets up its first test, or around each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.messages_api import MessagesApi
from support.recorded_suites import MORE, RecordedSuite, by_id, charged, measured

HEAD = """
import os

import pytest
import vcr

OPENED = vcr.use_cassette("cassettes/early.yaml", record_mode=os.environ.get("MODE", "none"))
"""
BEGINS_AND_ENDS = """
def {begin}:
    OPENED.__enter__()


def {end}:
    OPENED.__exit__(None, None, None)
"""
AT_IMPORT = """
OPENED.__enter__()


def pytest_unconfigure(config):
    OPENED.__exit__(None, None, None)
"""
AROUND_EACH = """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    with vcr.use_cassette(f"cassettes/{item.name}.yaml", record_mode=os.environ.get("MODE", "none")):
        return (yield)
"""
CONFTESTS = {
    "import": AT_IMPORT,
    "configure": BEGINS_AND_ENDS.format(begin="pytest_configure(config)", end="pytest_unconfigure(config)"),
    "session": BEGINS_AND_ENDS.format(
        begin="pytest_sessionstart(session)", end="pytest_sessionfinish(session)"
    ),
    "protocol": AROUND_EACH,
}
TESTS = """
from agent import ask


def test_one():
    assert ask("One")


def test_two():
    assert ask("Two")
    assert ask("Three")


def test_nothing():
    pass
"""


@pytest.fixture(params=CONFTESTS)
def suite(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    pytester: pytest.Pytester,
    api: MessagesApi,
    monkeypatch: pytest.MonkeyPatch,
) -> RecordedSuite:
    """Recorded without the plugin."""
    files = {"conftest": HEAD + CONFTESTS[request.param], "test_it": TESTS}
    suite = RecordedSuite.write(tmp_path / "suite", pytester, api, files)
    with monkeypatch.context() as recording:
        recording.setenv("MODE", "all")
        assert suite.plain().status == 0
    return suite


def test_each_test_is_metered_and_judged(
    suite: RecordedSuite, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, expected = suite.plain(), charged(api)
    judged, ran = suite.judge("--token-budget-update")
    assert (ran.outcomes, ran.cassettes) == (plain.outcomes, plain.cassettes), ran.output
    assert measured(judged) == expected == ran.answered
    assert {entry["basis"] for entry in by_id(judged).values()} == {"recorded"}
    assert "not metered" not in ran.output

    monkeypatch.setenv("GROWN", MORE)
    grown, ran = suite.judge("-k", "test_two")
    assert {name: entry["verdict"] for name, entry in by_id(grown).items()} == {
        "test_it.py::test_two": "over"
    }
    assert ran.cassettes == plain.cassettes


def test_what_is_answered_before_a_test_is_told(
    tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = AT_IMPORT + "\nfrom agent import post\npost('Early', system='Be quick.')\n"
    conftest = HEAD + early.replace(
        "\npost(", "\nos.environ.setdefault('PYTEST_CURRENT_TEST', 'x (call)')\npost("
    )
    suite = RecordedSuite.write(tmp_path / "suite", pytester, api, {"conftest": conftest, "test_it": TESTS})
    with monkeypatch.context() as recording:
        recording.setenv("MODE", "all")
        assert suite.plain().status == 0
    judged, ran = suite.judge("--token-budget-update")
    assert ran.status == 0
    assert "cassettes/early.yaml answered model calls before a test began: they are not metered" in " ".join(
        ran.output.split()
    )
    assert set(measured(judged)) == {"test_it.py::test_one", "test_it.py::test_two"}
