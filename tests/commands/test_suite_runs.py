"""`tokenbudget update` and `advise`: pytest in a process of its own, and what it is given."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from pytest_tokenbudget.commands.suite import junit_name
from support.agent_suite import PROMPT, RULE, TESTS
from support.scratch import Scratch

Captured = pytest.CaptureFixture[str]


def test_update_writes_what_changed_and_hands_everything_on(repo: Scratch, capfd: Captured) -> None:
    repo.write("src/agent/prompt.md", PROMPT + RULE)
    done = repo.run("update", "-q", "-k", "first", "tests/test_agent.py", "--color=no")
    assert done.returncode == 0
    assert "1 passed, 1 deselected" in capfd.readouterr().out
    (changed,) = repo.json("diff", "HEAD")["scenarios"]
    assert (changed["id"], changed["change"]) == ("tests/test_agent.py::test_first", "raised")


@pytest.mark.parametrize("dashes", [[], ["--"]], ids=["plain", "after --"])
def test_the_status_is_that_of_pytest(repo: Scratch, capfd: Captured, dashes: list[str]) -> None:
    assert repo.run("update", *dashes, "--no-such-option").returncode == 4
    assert "--no-such-option" in capfd.readouterr().err
    assert repo.run("update", *dashes, "-k", "nothing").returncode == 5


def test_advise(repo: Scratch) -> None:
    found = repo.json("advise")
    assert found["scenarios"] == 2
    assert found["totals"]["turns"] == 2
    assert found["levers"] == sorted(found["levers"], key=lambda one: one["cost_usd"] or 0)
    text = repo.run("advise", "-k", "first").stdout
    assert text.startswith("1 scenario: ")


def test_a_month_is_that_of_each_marker(repo: Scratch) -> None:
    marker = "@pytest.mark.token_budget"
    marked = TESTS.replace(marker, f"{marker}(runs_per_month=1000)", 1)
    repo.write("tests/test_agent.py", marked)
    assert repo.json("advise")["cost_usd_a_month"] is None, "of the second nobody said"
    repo.write("tests/test_agent.py", marked.replace(f"{marker}\n", f"{marker}(runs_per_month=3000)\n"))
    first, second = (repo.json("advise", "-k", name)["totals"]["cost_usd"] for name in ("first", "second"))
    assert repo.json("advise")["cost_usd_a_month"] == pytest.approx(1000 * first + 3000 * second)


def test_advise_on_a_suite_that_cannot_run(repo: Scratch) -> None:
    repo.write("tests/test_agent.py", "def (:\n")
    done = repo.run("advise", "--", "--no-such-option")
    assert (done.returncode, done.stdout) == (4, "")
    assert "--no-such-option" in done.stderr


def test_advise_on_no_scenario(repo: Scratch) -> None:
    done = repo.run("advise", "-k", "nothing")
    assert (done.returncode, done.stdout) == (5, "")
    assert "No scenario was measured, so there is nothing to advise on." in done.stderr


CONFTEST = """
def pytest_collection_finish(session):
    with open("ids", "w") as file:
        print(*(item.nodeid for item in session.items), sep="\\n", file=file)
"""
NAMES = """
import pytest


class TestA:
    class TestB:
        def test_c(self):
            pass


@pytest.mark.parametrize("x", ["a::b", "[c]", "d/e.py"])
def test_d(x):
    pass
"""


def test_names_as_junit_has_them(repo: Scratch) -> None:
    """Held against what pytest itself writes."""
    repo.write("conftest.py", CONFTEST)
    repo.write("tests/deep/test_names.py", NAMES)
    repo.pytest("tests/deep", "--junitxml=junit.xml")
    cases = ElementTree.parse(repo.top / "junit.xml").iter("testcase")
    ids = (repo.top / "ids").read_text("utf-8").splitlines()
    assert len(ids) == 4
    assert [junit_name(one) for one in ids] == [(case.get("classname"), case.get("name")) for case in cases]
