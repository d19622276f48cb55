"""What is not judged, and why, stands in the document and in every headline."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest

from pytest_tokenbudget.reports.document import schema
from pytest_tokenbudget.reports.exports import workflow_commands
from support.scratch_suites import Suite

pytestmark = pytest.mark.newest

TWO = """
import os

import pytest
from agent import ask


@pytest.fixture
def broken():
    if os.environ.get("SETUP"):
        raise ValueError("sk-secret")


@pytest.mark.token_budget
def test_parcel():
    assert ask("One") == "You said One"


@pytest.mark.token_budget
def test_letter(broken):
    if os.environ.get("SKIPS"):
        pytest.skip("not today")
    said = ask("Two")
    if os.environ.get("XFAILS"):
        pytest.xfail("known")
    assert said == os.environ.get("WANTED", "You said Two")


def test_that_asks_nothing():
    assert not os.environ.get("PLAIN")
"""
QUIET = "nothing changed"


def texts(folder: Path, *names: str) -> list[str]:
    return [(folder / name).read_text("utf-8") for name in names]


@pytest.mark.parametrize(
    ("name", "outcome", "status", "text"),
    [
        ("WANTED", "failed", 1, "ended before it was measured: AssertionError"),
        ("SETUP", "failed", 1, "ended before it was measured: ValueError"),
        ("SKIPS", "skipped", 0, None),
        ("XFAILS", "xfailed", 0, None),
    ],
)
def test_a_test_that_ends_before_it_is_measured_is_told_everywhere(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, name: str, outcome: str, status: int, text: str | None
) -> None:
    project = suite(TWO, 2)
    monkeypatch.setenv(name, "another answer")
    reports = ("--token-budget-report=markdown:report.md", "--token-budget-report=html:report.html")
    judged = project.judge("-q", *reports)
    assert judged.status == status
    letter = "test_it.py::test_letter"
    assert judged.document["not_judged"] == [{"id": letter, "outcome": outcome}]
    assert judged.document["errors"] == ([{"id": letter, "text": text}] if text else [])
    jsonschema.Draft202012Validator(schema()).validate(judged.document)
    reported = texts(project.path, "report.md", "report.html")
    for told in (judged.output, *reported):
        assert QUIET not in told
        assert "letter" in told
    assert all("1 of 2 scenarios is not judged, 1 is within budget" in told for told in reported)
    assert "token budgets: 1 within; " in judged.output
    assert "; 1 not judged\n" in re.sub(r";\n +", "; ", judged.output)
    assert "sk-secret" not in json.dumps(judged.document)
    assert len(workflow_commands(judged.document)) == (1 if text else 0)


def test_a_baseline_file_that_cannot_be_read_is_told_everywhere(suite: Suite) -> None:
    project = suite(TWO, 2)
    (project.path / "token_budgets" / "test_it.yaml").write_text("version: 1\nscenarios: [broken\n", "utf-8")
    judged = project.judge("--token-budget-report=markdown:report.md")
    assert judged.status == 1
    assert [test["outcome"] for test in judged.document["not_judged"]] == ["failed"] * 3
    (markdown,) = texts(project.path, "report.md")
    report = markdown.replace("\\_", "_")
    assert "3 of 3 scenarios are not judged" in report
    for told in (judged.output, report):
        assert QUIET not in told
        assert "test_it.yaml" in told
    assert "test_letter" in report
    assert "token budgets: 0 scenarios; 3 not judged" in judged.output


def test_a_file_that_cannot_be_collected_is_an_error(suite: Suite) -> None:
    project = suite(TWO, 2)
    (project.path / "test_broken.py").write_text("import nowhere_at_all\n", "utf-8")
    judged = project.judge("--continue-on-collection-errors")
    assert judged.status == 1
    assert judged.document["errors"] == [{"id": "test_broken.py", "text": "its tests cannot be collected"}]
    assert QUIET not in judged.output
    assert "; 1 error\n" in re.sub(r";\n +", "; ", judged.output)


def test_what_is_no_scenario_is_not_missed(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(TWO, 2)
    monkeypatch.setenv("PLAIN", "1")
    judged = project.judge()
    assert judged.status == 1
    assert (judged.document["not_judged"], judged.document["errors"]) == ([], [])
    assert "token budgets: 2 within; " in judged.output


@pytest.mark.parametrize("arguments", [(), ("-q",), ("-qq",), ("-v",)])
def test_every_judging_run_ends_with_the_line(suite: Suite, arguments: tuple[str, ...]) -> None:
    project = suite(TWO, 2)
    judged = project.judge(*arguments)
    (line,) = [line for line in judged.output.splitlines() if line.startswith("token budgets: ")]
    assert line.startswith("token budgets: 2 within; ")
    assert re.search(r"; together \d+ prompt tokens, \$\S+ a run$", line), (
        "unchanged, so without a percentage"
    )
    nothing = project.judge(*arguments, "-k", "asks_nothing")
    assert "token budgets: 0 scenarios" in nothing.output.splitlines()
    assert "token budgets: " not in project.run(*arguments).output


def test_another_ini_file_names_the_tests_by_where_they_are(suite: Suite) -> None:
    project = suite(TWO, 2)
    (project.path / "other").mkdir()
    (project.path / "other" / "file.ini").write_text("[pytest]\npythonpath = ..\n", "utf-8")
    judged = project.judge("-c", "other/file.ini", "test_it.py")
    assert judged.status == 0, judged.output
    assert [entry["id"] for entry in judged.document["scenarios"]] == [
        "../test_it.py::test_letter",
        "../test_it.py::test_parcel",
    ]


def test_two_processes_tell_the_same(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(TWO, 2)
    monkeypatch.setenv("WANTED", "another answer")
    one, two = project.judge(), project.judge("-n", "2")
    assert one.document == two.document
    assert one.document["errors"]


LISTING = """
import os
import pathlib

from agent import ask as asked


def ask(words):
    names = sorted(str(path) for path in pathlib.Path().rglob("*") if "pyc" not in path.name)
    return asked(words, f"Your files: {' '.join(names)}" + " Be brief, and never promise a date." * 500)
"""


@pytest.mark.skipif(find_spec("ctok") is None, reason="only exact counts are kept: ctok needs Python 3.12")
def test_the_files_of_this_tool_are_few(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that lists its folder in its prompt is green right after recording."""
    project = suite(TWO.replace("from agent", "from listing"), 2, listing=LISTING)
    for _ in range(2):  # the first leaves pytest's cache, and in it what was counted
        judged = project.judge("-p", "cacheprovider")
        assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    kept = project.path / ".pytest_cache" / "v" / "tokenbudget"
    assert [path.name.partition("-")[0] for path in kept.iterdir()] == ["ctok"]
