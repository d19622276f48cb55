"""Calls in fixtures and in teardown: each has its own cassette and its own line, however the suite is run."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from support.budgeted import Judged, Project
from support.messages_api import MessagesApi
from support.scratch_suites import echo, make, record

SUITE = """
import os

import pytest
from agent import ask


@pytest.fixture(scope="session")
def index():
    if "SWALLOW" in os.environ:
        try:
            ask("Another index")
        except Exception:
            pass
    return ask("Index the letters.")


@pytest.fixture(scope="module")
def clerk():
    yield ask("Hire a clerk.")
    ask("Dismiss the clerk.")


@pytest.fixture(scope="class")
def desk():
    return ask("Clear a desk.")


@pytest.fixture
def letter():
    yield ask("Fetch a letter.")
    ask("File the letter.")


@pytest.mark.token_budget
class TestDesk:
    def setup_method(self):
        ask("Sit down.")

    def test_reads(self, index, clerk, desk, letter):
        assert ask("Read it.") == "You said Read it."

    def test_writes(self, index, desk):
        assert ask("Write it.")


@pytest.mark.token_budget
@pytest.mark.parametrize("stamp", ["red", "blue"])
def test_stamps(stamp, clerk, request):
    request.addfinalizer(lambda: ask("Wash your hands."))
    assert ask(f"Stamp it {stamp}.")
"""
CALLS = 16
LINES = {
    "fixture index": 1,
    "fixture clerk": 2,
    "fixture desk of TestDesk": 1,
    "fixture letter of TestDesk::test_reads": 2,
    "fixture setup_method of TestDesk::test_reads": 1,
    "fixture setup_method of TestDesk::test_writes": 1,
    "TestDesk::test_reads": 1,
    "TestDesk::test_writes": 1,
    "test_stamps[red]": 1,
    "test_stamps[blue]": 1,
    "teardown of test_stamps[red]": 1,
    "teardown of test_stamps[blue]": 1,
}
"""Turns by scenario."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fixtures") / "suite"


@pytest.fixture
def project(folder: Path, pytester: pytest.Pytester) -> Project:
    """Recorded once."""
    if folder.exists():
        return Project(folder, pytester)
    made = make(folder, pytester, SUITE)
    with MessagesApi(echo) as api:
        record(made, api, CALLS - 2)
    return made


def turns(judged: Judged) -> dict[str, int]:
    return {name: entry["measured"]["turns"] for name, entry in judged.scenarios.items()}


def test_every_fixture_and_teardown_has_its_line(project: Project) -> None:
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert turns(judged) == LINES
    assert {entry["basis"] for entry in judged.document["scenarios"]} == {"recorded"}


def test_every_line_has_its_cassette_and_its_baseline(project: Project) -> None:
    names = {path.name for path in Path(project.path, "cassettes/test_it").iterdir()}
    assert {
        "fixture_index.yaml",
        "fixture_desk_of_TestDesk.yaml",
        "fixture_letter_of_TestDesk--test_reads.yaml",
        "TestDesk.test_reads.yaml",
        "test_stamps[red].yaml",
        "test_stamps[red].teardown.yaml",
    } <= names
    assert len(names) == len(LINES)
    text = Path(project.path, "token_budgets/test_it.yaml").read_text("utf-8")
    assert all(name in text for name in LINES)


READS = ("test_it.py::TestDesk::test_reads",)
BACKWARDS = (
    "test_it.py::test_stamps[blue]",
    "test_it.py::TestDesk::test_writes",
    "test_it.py::TestDesk::test_reads",
)


@pytest.mark.parametrize(
    ("arguments", "left_out"),
    [
        (("-k", "writes"), {"clerk", "letter", "test_reads", "test_stamps"}),
        (("-k", "stamps"), {"index", "desk", "letter", "TestDesk"}),
        (READS, {"test_writes", "test_stamps"}),
        (BACKWARDS, {"red"}),
        (("-n", "2"), set()),
        (("--reruns", "1"), set()),
        (("-p", "no:randomly", "--maxfail=1"), set()),
    ],
    ids=["-k", "-k other", "one test", "backwards", "-n 2", "reruns", "maxfail"],
)
def test_however_the_suite_is_run(project: Project, arguments: tuple[str, ...], left_out: set[str]) -> None:
    """A test that is not run takes away its own lines, and none of the numbers of the others."""
    judged = project.judge(*arguments)
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert turns(judged) == {
        name: count for name, count in LINES.items() if not any(word in name for word in left_out)
    }


def test_growth_fails_each_line_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "MORE", " Never promise a date that nobody has confirmed, and sign with your name." * 4
    )
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (1, {"over"}), judged.output
    assert turns(judged) == LINES
    assert f"{len(LINES)} failed" in judged.output
    assert " error" not in judged.output.splitlines()[-1]
    for name in LINES:
        # pytest 8 leaves out the reason where the line is full
        assert len(re.findall(rf"^FAILED test_it\.py::{re.escape(name)}(?: - |$)", judged.output, re.M)) == 1


def test_a_miss_that_a_fixture_swallows(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWALLOW", "1")
    judged = project.judge("-k", "writes")
    assert judged.status == 1
    assert judged.scenarios["fixture index"]["verdict"] == "stale"
    plain = project.run("-k", "writes")
    assert plain.status == 1
    assert "Stale: the recording does not answer what the agent asks" in plain.output
    assert "user text 'Another index'" in plain.words, "it had the answer of what the fixture asks next"
    assert "Traceback" not in plain.output


def test_the_way_out_is_a_command_that_runs(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no such test as a fixture or a teardown."""
    monkeypatch.setenv(
        "MORE", " Never promise a date that nobody has confirmed, and sign with your name." * 4
    )
    judged = project.judge("-k", "red", "--junitxml=junit.xml")
    each = html.unescape((project.path / "junit.xml").read_text("utf-8"))
    for argument in ("'test_it.py::test_stamps[red]'", "test_it.py"):
        assert f"\n  pytest --token-budget --token-budget-update {argument}</failure>" in each
    assert "\n  pytest --token-budget --token-budget-update\n" in judged.output, "of all three"
    assert "::fixture clerk</failure>" not in each
