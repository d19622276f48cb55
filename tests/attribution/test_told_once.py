"""One change is told once, however many scenarios it fails; a failure says what it is and where to look."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from support.budgeted import Project
from support.scratch_suites import Suite

SUITE = """
import pytest
from agent import ask
from rules import RULES


@pytest.mark.token_budget
@pytest.mark.parametrize("number", range({}))
def test_it(number):
    assert ask("One", RULES)
"""
RULES = "RULES = 'Be brief.'\n"
MORE = (
    "RULES = '''Be brief.\n"
    + "Look the order up before you answer, and say when it will arrive.\n" * 9
    + "'''\n"
)


def grown(suite: Suite, number: int) -> Project:
    project = suite(SUITE.format(number), number, rules=RULES)
    (project.path / "rules.py").write_text(MORE, "utf-8")
    return project


def test_forty_five_failures_of_one_cause_are_sixty_lines(suite: Suite) -> None:
    done = grown(suite, 45).run("--token-budget", "-q")
    lines = done.output.rstrip().splitlines()
    assert done.status == 1
    assert len(lines) <= 60, done.output
    assert sum("the system prompt (system[0])" in line for line in lines) == 1
    assert sum(line.startswith("FAILED test_it.py::test_it[") for line in lines) == 45
    assert "of the same cause" not in done.output, "no failure stands outside of the section"
    assert sum("--token-budget-update" in line for line in lines) == 1


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_failure_says_what_it_is_and_where_to_look(
    columns: int, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("CI", "1")
    project = grown(suite, 3)
    done = project.run("--token-budget", "--junitxml=junit.xml")
    (block,) = re.findall(r"(?ms)^_+ test_it\[0\] _+\n(.*?)^(?:[=_]{5}|-+ gen)", done.output)
    assert len(block.splitlines()) == (4 if columns == 60 else 2), "two lines, where they fit"
    assert all(len(line) <= columns for line in block.splitlines())
    what, where = " ".join(block.split()).split(" rules.py")
    assert what == "Over budget: prompt tokens (2 more tests of the same cause, below)"
    assert where.startswith(":2: the system prompt (system[0]) +")
    assert where.endswith(" tokens in this test")
    assert "%" not in block, "the table has it"
    assert re.findall(r"(?m)^FAILED .* - (.*)$", done.output) == ["Over budget: prompt tokens"] * 3
    assert done.output.count("--token-budget-update") == 1
    section = done.output.partition(" token budgets =")[2].partition("= short test summary")[0]
    assert all(len(line) <= columns for line in section.splitlines()[1:])
    for word in ("paired", "lineage", " counted", "+0.0%"):
        assert word not in done.output
    for case in ET.parse(Path(project.path, "junit.xml")).iter("testcase"):
        (failure,) = case.iter("failure")
        assert failure.get("message") == "Over budget: prompt tokens"
        assert re.match(r"Over budget: prompt tokens ~?\+[\d,.]+%", failure.text or "")
        assert "rules.py:2" in (failure.text or "")
        command = "pytest --token-budget --token-budget-update 'test_it.py::test_it["
        assert f"\n  {command}" in (failure.text or "")


def test_every_failure_is_told_with_v(suite: Suite) -> None:
    done = grown(suite, 2).run("--token-budget", "-v")
    assert len(re.findall(r"(?m)^_+ test_it\[[01]\] _+$", done.output)) == 2
    assert "answered by the most similar" in done.output
    assert "of the same cause" not in done.output, "each has its own failure"


def test_an_error_of_several_tests_is_told_once_with_commands_that_can_be_pasted(suite: Suite) -> None:
    project = suite(SUITE.format(3), 3, rules=RULES)
    (path,) = project.path.glob("**/token_budgets/*.yaml")
    path.write_text(f"<<<<<<< HEAD\n{path.read_text('utf-8')}=======\n>>>>>>> theirs\n", "utf-8")
    name = path.relative_to(project.path).as_posix()
    commands = ["pytest --token-budget --token-budget-update", f"git checkout --ours -- {name}"]
    judged = project.run("--token-budget")
    failures, _, section = judged.output.partition(" token budgets =")
    for told in (failures, section.partition("short test summary")[0]):
        assert " ".join(told.split()).count(f"{name}: holds conflict marks of a merge") == 1
        assert [
            line.strip() for line in told.splitlines() if line.startswith("  ") and "--" in line
        ] == commands
    assert judged.output.count("FAILED test_it.py::test_it[") == 3
    quiet = project.run("--token-budget", "-q").output
    assert quiet.count(commands[0]) == quiet.count(commands[1]) == 1
    assert "FAILURES" not in quiet
