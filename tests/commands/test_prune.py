"""`tokenbudget prune`: what belongs to no test is listed, and deleted only where that is known."""

from __future__ import annotations

import pytest

from support.scratch import Scratch

OWN, BASELINES = "tests/cassettes/test_agent/test_first.yaml", "tests/token_budgets/test_agent.yaml"
LISTED = f"no test: baseline of tests/test_agent.py::test_first\nno test: {OWN}\n"
NUMBER = "1 baseline and 1 cassette"


TEST = '@pytest.mark.token_budget\ndef test_first():\n    assert ask("first")\n'


def instead(repo: Scratch, text: str) -> None:
    """Write something else in place of the test that has a baseline and a cassette."""
    path = repo.top / "tests" / "test_agent.py"
    was = path.read_text("utf-8")
    assert TEST in was
    path.write_text(was.replace(TEST, text), "utf-8")


@pytest.fixture
def suite(repo: Scratch) -> Scratch:
    """A suite with baselines and cassettes that others wrote."""
    repo.write("tests/cassettes/test_agent/test_vcr.yaml", "interactions: []\nversion: 1\n")
    repo.write("elsewhere/token_budgets/test_b.yaml", (repo.top / BASELINES).read_text("utf-8"))
    repo.write("elsewhere/test_b.py", "def test_first(): ...\ndef test_second(): ...\n")
    repo.write("pytest.ini", "[pytest]\naddopts = -p tokenbudget\ntestpaths = tests\npythonpath = src\n")
    return repo


@pytest.fixture
def deleted(suite: Scratch) -> Scratch:
    """A suite with a test that is gone."""
    instead(suite, "def test_other(): ...\n")
    return suite


def files(repo: Scratch) -> set[str]:
    return {path.relative_to(repo.top).as_posix() for path in repo.top.rglob("*.yaml")}


def test_what_has_no_test_is_listed_then_deleted(deleted: Scratch) -> None:
    before = files(deleted)
    done = deleted.run("prune")
    more = "without a test; `tokenbudget prune --delete` deletes them"
    assert (done.returncode, done.stdout) == (0, f"{LISTED}{NUMBER} {more}\n"), done.stderr
    assert files(deleted) == before
    done = deleted.run("prune", "--delete")
    assert (done.returncode, done.stdout) == (0, f"{LISTED}deleted {NUMBER}\n")
    assert files(deleted) == before - {OWN}
    assert "test_first" not in (deleted.top / BASELINES).read_text("utf-8")
    assert "test_second" in (deleted.top / BASELINES).read_text("utf-8")
    assert "test_first" in (deleted.top / "elsewhere/token_budgets/test_b.yaml").read_text("utf-8")
    assert deleted.run("prune").stdout == "0 baselines and 0 cassettes without a test\n"


@pytest.mark.parametrize(
    ("arguments", "module", "why"),
    [
        (["-k", "second"], "", "tests were deselected"),
        (["tests/test_agent.py"], "", "not all of the suite was named"),
        ([], "import pytest\npytest.skip('no', allow_module_level=True)\n", "tests/test_more.py was skipped"),
        ([], "import no_such_module\n", "tests/test_more.py was not collected"),
    ],
    ids=["deselected", "named", "skipped", "not collected"],
)
def test_nothing_is_deleted_after_a_partial_collection(
    deleted: Scratch, arguments: list[str], module: str, why: str
) -> None:
    before = files(deleted)
    if module:
        deleted.write("tests/test_more.py", module)
    done = deleted.run("prune", "--delete", *arguments)
    assert (done.returncode, done.stdout) == (2, LISTED), "what was deselected is not listed"
    assert why in done.stderr
    assert files(deleted) == before


def test_what_a_test_under_another_name_asks_is_kept_and_the_rest_deleted(suite: Scratch) -> None:
    instead(suite, TEST.replace("test_first", "test_other"))
    suite.write(
        "tests/cassettes/test_agent/test_old.yaml",
        (suite.top / OWN).read_text("utf-8").replace("first", "old"),
    )
    before = files(suite)
    done = suite.run("prune", "--delete")
    assert done.returncode == 0, done.stderr
    way = f"git mv {OWN} tests/cassettes/test_agent/test_other.yaml"
    assert done.stdout.startswith(
        "no test: tests/cassettes/test_agent/test_old.yaml\nkept for tests/test_agent.py::test_other: "
    )
    assert (
        f"{OWN} asks the same, and its test is gone; its baseline is test_first in {BASELINES}" in done.stdout
    )
    assert f"If test_other was renamed or moved, take the files along:\n  {way}\n  pytest " in done.stdout
    assert done.stdout.endswith("deleted 0 baselines and 1 cassette\n")
    assert files(suite) == before - {"tests/cassettes/test_agent/test_old.yaml"}
    suite.git("mv", *way.split()[2:])
    done = suite.run("prune", "--delete")
    assert (done.returncode, files(suite)) == (
        0,
        {*before} - {OWN, "tests/cassettes/test_agent/test_old.yaml"} | {way.split()[-1]},
    )
    assert "kept for tests/test_agent.py::test_other: the baseline of test_first in" in done.stdout
    assert "test_first" in (suite.top / BASELINES).read_text("utf-8"), "moved, and not updated yet"


@pytest.mark.parametrize(
    ("test", "why"),
    [
        (TEST.replace("first", "other"), "tests/test_agent.py::test_other has no recording"),
        (
            TEST.replace("test_first", "test_other").replace("assert ask", "raise OSError"),
            "tests/test_agent.py::test_other was not judged (failed)",
        ),
    ],
    ids=["renamed and changed", "failed"],
)
def test_nothing_is_deleted_while_a_test_may_own_it(suite: Scratch, test: str, why: str) -> None:
    instead(suite, test)
    before = files(suite)
    done = suite.run("prune", "--delete")
    assert (done.returncode, done.stdout, files(suite)) == (2, LISTED, before)
    assert why in done.stderr
