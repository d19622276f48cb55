"""What becomes of a budget where a test is expected to fail, runs again, has subtests, or is skipped."""

from __future__ import annotations

import pytest

from support.scratch_suites import Suite

MORE = " Never promise a date that nobody has confirmed, and sign with your name." * 4

XFAIL = """
import pytest
from agent import ask


@pytest.mark.token_budget
@pytest.mark.xfail(reason="not yet")
def test_fails_as_expected():
    assert ask("One") == "Something else"


@pytest.mark.token_budget
@pytest.mark.xfail(reason="not yet", strict=False)
def test_passes_unexpectedly():
    assert ask("Two") == "You said Two"
"""


def test_a_body_that_fails_as_expected_is_not_judged(suite: Suite) -> None:
    project = suite(XFAIL, 2)
    judged = project.judge()
    assert judged.status == 0
    assert "1 xfailed, 1 xpassed" in judged.output
    assert set(judged.scenarios) == {"test_passes_unexpectedly"}


def test_xfail_never_hides_a_budget(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(XFAIL, 2)
    monkeypatch.setenv("MORE", MORE)
    judged = project.judge()
    assert judged.status == 1
    assert "1 failed, 1 xfailed" in judged.output
    assert judged.verdicts == {"over"}


SUBTESTS = """
import os

import pytest
from agent import ask


@pytest.mark.token_budget
def test_with_subtests(subtests):
    for words in ("One", "Two", "Three"):
        with subtests.test(words=words):
            said = ask(words)
            assert said != f"You said {os.environ.get('FAILS')}"
"""


needs_subtests = pytest.mark.skipif(pytest.version_tuple < (9,), reason="subtests came with pytest 9")


@needs_subtests
def test_subtests_are_one_scenario(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(SUBTESTS, 3)
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert judged.scenarios["test_with_subtests"]["measured"]["turns"] == 3
    monkeypatch.setenv("MORE", MORE)
    grown = project.judge()
    assert (grown.status, grown.verdicts) == (1, {"over"})
    assert grown.output.count("FAILED test_it.py::test_with_subtests") == 1
    assert "SUBFAILED" not in grown.output


@needs_subtests
def test_a_failed_subtest_and_the_budget_are_told_beside_each_other(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = suite(SUBTESTS, 3)
    monkeypatch.setenv("FAILS", "Two")
    judged = project.judge()
    assert judged.status == 1
    assert judged.output.count("SUBFAILED") >= 1
    assert judged.scenarios["test_with_subtests"]["verdict"] == "within"


RERUN = """
import os
from pathlib import Path

import pytest
from agent import ask


@pytest.fixture(scope="module")
def index():
    return ask("Index the letters.")


@pytest.fixture
def letter():
    return ask("Fetch a letter.")


@pytest.mark.token_budget
def test_flaky(index, letter):
    assert ask("Read it.")
    if "FLAKY" in os.environ:
        seen = Path(os.environ["FLAKY"])
        seen.write_text(seen.read_text() + "x" if seen.exists() else "x")
        assert len(seen.read_text()) == 2
"""


def test_a_test_that_runs_again_is_counted_once(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = suite(RERUN, 3)
    monkeypatch.setenv("FLAKY", str(tmp_path_factory.mktemp("flaky") / "seen"))
    judged = project.judge("--reruns", "2", f"--junitxml={project.path / 'junit.xml'}")
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert "1 passed, 1 rerun" in judged.output
    assert {name: entry["measured"]["turns"] for name, entry in judged.scenarios.items()} == {
        "test_flaky": 1,
        "fixture letter of test_flaky": 1,
        "fixture index": 1,
    }
    assert (project.path / "junit.xml").read_text("utf-8").count("token_budget.verdict") == 1


def test_a_budget_that_fails_is_the_same_when_it_runs_again(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In vain: a replay is deterministic. It is not hidden, and it is not counted twice."""
    project = suite(RERUN, 3)
    monkeypatch.setenv("MORE", MORE)
    judged = project.judge("--reruns", "1")
    assert judged.status == 1
    assert "3 failed, 1 rerun" in judged.output
    assert judged.scenarios["test_flaky"]["measured"]["turns"] == 1


SKIP = """
import os

import pytest
from agent import ask


@pytest.mark.token_budget
def test_skips():
    ask("One")
    if "SKIP" in os.environ:
        pytest.skip("not today")


@pytest.mark.token_budget
@pytest.mark.skipif("SKIP" in os.environ, reason="not today")
def test_is_skipped():
    ask("Two")
"""


def test_what_is_skipped_is_not_judged_and_keeps_its_baseline(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = suite(SKIP, 2)
    baselines = next((project.path / "token_budgets").iterdir())
    before = baselines.read_text("utf-8")
    monkeypatch.setenv("SKIP", "1")
    judged = project.judge("--token-budget-update")
    assert judged.status == 0
    assert "2 skipped" in judged.output
    assert judged.scenarios == {}
    assert baselines.read_text("utf-8") == before


FAILS = """
import os

import pytest
from agent import ask


@pytest.mark.token_budget
def test_it():
    ask("One")
    assert "FAILS" not in os.environ, "its own reason"
"""


def test_a_test_that_fails_is_not_judged(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished run has unfinished numbers."""
    project = suite(FAILS, 1)
    monkeypatch.setenv("FAILS", "1")
    monkeypatch.setenv("MORE", MORE)
    judged = project.judge()
    assert judged.status == 1
    assert "its own reason" in judged.output
    assert judged.scenarios == {}
