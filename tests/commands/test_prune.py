"""`tokenbudget prune`: what belongs to no test is listed, and deleted only where that is known."""

from __future__ import annotations

import pytest

from support.scratch import Scratch

OWN, BASELINES = "tests/cassettes/test_agent/test_first.yaml", "tests/token_budgets/test_agent.yaml"
LISTED = f"no test: baseline of tests/test_agent.py::test_first\nno test: {OWN}\n"
NUMBER = "1 baseline and 1 cassette"


@pytest.fixture
def renamed(repo: Scratch) -> Scratch:
    """A suite with a test that was renamed, and cassettes that others wrote."""
    path = repo.top / "tests" / "test_agent.py"
    path.write_text(path.read_text("utf-8").replace("test_first", "test_other"), "utf-8")
    repo.write("tests/cassettes/test_agent/test_vcr.yaml", "interactions: []\nversion: 1\n")
    repo.write("elsewhere/token_budgets/test_b.yaml", (repo.top / BASELINES).read_text("utf-8"))
    repo.write("elsewhere/test_b.py", "def test_first(): ...\ndef test_second(): ...\n")
    repo.write("pytest.ini", "[pytest]\naddopts = -p tokenbudget\ntestpaths = tests\npythonpath = src\n")
    return repo


def files(repo: Scratch) -> set[str]:
    return {path.relative_to(repo.top).as_posix() for path in repo.top.rglob("*.yaml")}


def test_what_has_no_test_is_listed_then_deleted(renamed: Scratch) -> None:
    before = files(renamed)
    done = renamed.run("prune")
    more = "without a test; `tokenbudget prune --delete` deletes them"
    assert (done.returncode, done.stdout) == (0, f"{LISTED}{NUMBER} {more}\n"), done.stderr
    assert files(renamed) == before
    done = renamed.run("prune", "--delete")
    assert (done.returncode, done.stdout) == (0, f"{LISTED}deleted {NUMBER}\n")
    assert files(renamed) == before - {OWN}
    assert "test_first" not in (renamed.top / BASELINES).read_text("utf-8")
    assert "test_second" in (renamed.top / BASELINES).read_text("utf-8")
    assert "test_first" in (renamed.top / "elsewhere/token_budgets/test_b.yaml").read_text("utf-8")
    assert renamed.run("prune").stdout == "0 baselines and 0 cassettes without a test\n"


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
    renamed: Scratch, arguments: list[str], module: str, why: str
) -> None:
    before = files(renamed)
    if module:
        renamed.write("tests/test_more.py", module)
    done = renamed.run("prune", "--delete", *arguments)
    assert (done.returncode, done.stdout) == (2, LISTED), "what was deselected is not listed"
    assert why in done.stderr
    assert files(renamed) == before
