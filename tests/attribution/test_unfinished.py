"""Tests that end before they are done: not judged, but no skip hides a request that nothing answers."""

from __future__ import annotations

import pytest

from support.messages_api import MessagesApi
from support.scratch_suites import Suite

UNITTEST = """
import os
import unittest

import pytest
from agent import ask


@pytest.mark.token_budget
class TestEnds(unittest.TestCase):
    def test_passes(self):
        ask("One")

    def test_skips(self):
        ask("Two")
        if "UNFINISHED" in os.environ:
            self.skipTest("not today")
        ask("Three")

    def test_fails(self):
        ask("Four")
        self.assertNotIn("UNFINISHED", os.environ, "its own reason")
        ask("Five")

    @unittest.expectedFailure
    def test_fails_as_expected(self):
        ask("Six")
        self.fail("not yet")
"""


def test_an_unfinished_unittest_is_not_judged(
    suite: Suite, api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = suite(UNITTEST, 6)
    kept = [next(project.path.glob("token_budgets/*")), *sorted(project.path.glob("cassettes/*/*"))]
    before = [file.read_bytes() for file in kept]
    monkeypatch.setenv("UNFINISHED", "1")
    judged = project.judge("--token-budget-update")
    assert judged.status == 1
    assert "its own reason" in judged.output
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed" in judged.output
    assert set(judged.scenarios) == {"TestEnds::test_passes"}
    project.run("--token-budget-record=all", "-k", "test_fails and not expected", url=api.url)
    assert [file.read_bytes() for file in kept] == before


def test_an_unittest_that_grew_fails(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(UNITTEST, 6)
    monkeypatch.setenv("MORE", " Never promise a date that nobody has confirmed." * 9)
    judged = project.judge()
    assert "3 failed, 1 xfailed" in judged.output
    assert judged.verdicts == {"over"}
    assert "Over budget: prompt tokens" in judged.output


MISSES = """
import os
import unittest

import pytest
from agent import ask

pytestmark = pytest.mark.token_budget


def asked():  # whether every question got its answer; where MISSES is set, there is one more than recorded
    try:
        for words in ("One", "Two", *(["Three"] if "MISSES" in os.environ else [])):
            ask(words)
    except BaseException:
        return False
    return True


def test_skips():
    if not asked():
        pytest.skip("the API is down")


@pytest.mark.xfail(reason="not yet")
def test_fails_as_expected():
    assert asked()


def test_fails():
    assert asked(), "its own reason"


class TestEnds(unittest.TestCase):
    def test_skips(self):
        if not asked():
            self.skipTest("the API is down")

    def test_skips_at_once(self):
        try:
            assert asked()
        except BaseException:
            self.skipTest("the API is down")

    def test_fails(self):
        self.assertTrue(asked(), "its own reason")
"""


def test_nothing_hides_a_request_without_an_answer(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(MISSES, 12)
    monkeypatch.setenv("MISSES", "1")
    judged = project.judge()
    assert judged.status == 1
    assert "6 failed" in judged.output
    assert (len(judged.scenarios), judged.verdicts) == (6, {"stale"})
    for name in judged.scenarios:
        assert f"FAILED test_it.py::{name} - Stale\n" in judged.output
    assert "(needs an API key): pytest --token-budget --token-budget-record=changed" in " ".join(
        judged.output.split()
    )
    plain = project.run()
    assert plain.status == 1
    assert "6 failed" in plain.output
