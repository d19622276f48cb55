"""Committed baselines that a run should have measured and did not: their tests are gone, or never ran."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx2
import pytest
from vcr.cassette import Cassette

from pytest_tokenbudget.reports.document import merge
from pytest_tokenbudget.run.results import Collected, asked_for, unmeasured
from support.budgeted import Judged, Project
from support.scratch_suites import TWO, Suite

LETTER = "test_it.py::test_letter"
PARCEL = "test_it.py::test_parcel"
GONE = f"{LETTER}: has a baseline, and no test any more. Bring the test back"


def edit(project: Project, was: str, now: str) -> None:
    test = project.path / "test_it.py"
    text = test.read_text("utf-8")
    assert was in text
    test.write_text(text.replace(was, now), "utf-8")


def lost(judged: Judged) -> list[tuple[str, str]]:
    return [(entry["id"], entry["why"]) for entry in judged.document["unmeasured"]]


def test_a_test_that_is_gone_fails_the_run(suite: Suite) -> None:
    project = suite(TWO, 2)
    edit(project, "def test_letter", "def not_test_letter")
    judged = project.judge()
    assert (judged.status, lost(judged)) == (1, [(LETTER, "gone")])
    assert GONE in judged.words
    assert "token budgets: 1 within; " in judged.words
    assert judged.words.count("; 1 unmeasured") == 1
    assert judged.document["committed"] == [LETTER, "test_it.py::test_parcel"]
    assert project.judge("-n", "2").document == judged.document
    chosen = project.judge("test_it.py::test_parcel")  # who chooses claims nothing of the others
    assert (chosen.status, lost(chosen)) == (0, [])
    assert chosen.document["committed"] == judged.document["committed"]
    assert project.run("--token-budget", "--collect-only").status == 0
    assert "unmeasured" not in project.run("--token-budget", "--token-budget-disable").output
    merged = merge({"one": chosen.document, "two": chosen.document}).document  # type: ignore[dict-item]
    assert merged["unmeasured"] == [{"id": LETTER, "why": "gone"}]  # no shard has measured it
    assert merge({"one": chosen.document}).document["unmeasured"] == []  # type: ignore[dict-item]


def test_a_file_that_is_gone_fails_the_run(suite: Suite) -> None:
    project = suite(TWO, 2, test_other="def test_other(): pass\n")
    shutil.move(project.path / "test_it.py", project.path / "it.py")
    judged = project.judge()
    assert judged.status == 1
    assert [why for _, why in lost(judged)] == ["gone", "gone"]
    assert "token budgets: 0 scenarios; 2 unmeasured" in judged.words
    assert project.judge("test_other.py").status == 0


FIXTURE = """
import os

import pytest
from agent import ask


@pytest.fixture(scope="module")
def answer():
    return ask("One")


@pytest.mark.token_budget
def test_parcel(answer):
    assert ask("Two") and answer


@pytest.mark.token_budget
def test_letter():
    if os.environ.get("SKIPS"):
        pytest.skip("not today")
    assert ask("Two")
"""


def test_a_fixture_that_is_gone_fails_a_whole_run(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(FIXTURE, 3)
    fixture = "test_it.py::fixture answer"
    assert project.judge().status == 0
    edit(project, '@pytest.fixture(scope="module")\ndef answer', "def no_answer")
    edit(project, "test_parcel(answer)", "test_parcel(answer=1)")
    (project.path / "cassettes" / "test_it" / "fixture_answer.yaml").unlink()
    judged = project.judge()
    assert (judged.status, lost(judged)) == (1, [(fixture, "gone")])
    assert (project.judge("-k", "parcel").status, project.judge("test_it.py::test_letter").status) == (0, 0)
    monkeypatch.setenv("SKIPS", "1")  # whoever skips may have been the one that asks for it
    assert lost(project.judge()) == []


def test_a_module_that_is_skipped_is_told_and_fails_nothing(suite: Suite) -> None:
    project = suite(TWO, 2)
    edit(project, "import pytest\n", "import pytest\npytest.importorskip('nowhere_at_all')\n")
    judged = project.judge()
    assert judged.status in (0, 5)  # no test ran
    assert [why for _, why in lost(judged)] == ["skipped", "skipped"]
    assert "its module is skipped" in judged.words


def test_an_end_before_the_tests_is_no_success(suite: Suite) -> None:
    project = suite(TWO, 2)
    edit(project, "def test_parcel():\n", "def test_parcel():\n    pytest.exit('enough', returncode=0)\n")
    own = vars(Cassette)["load"], httpx2.HTTPTransport.handle_request
    judged = project.judge()
    assert (vars(Cassette)["load"], httpx2.HTTPTransport.handle_request) == own, (
        "the libraries are given back"
    )
    assert (judged.status, lost(judged)) == (1, [(LETTER, "not_run"), (PARCEL, "not_run")])
    assert "was to run, and the run ended before it" in judged.words


def test_an_exit_status_that_is_reset_is_set_again(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(TWO, 2)
    reset = "def pytest_sessionfinish(session):\n    session.exitstatus = 0\n"
    (project.path / "conftest.py").write_text(reset, "utf-8")
    assert project.judge().status == 0
    monkeypatch.setenv("MORE", " Say so in full sentences, and never promise a date." * 5)
    assert project.judge().status == 1


IDS = ["a/test_a.py::test_one", "a/test_a.py::test_two", "b/test_b.py::test_b"]


@pytest.mark.parametrize(
    ("changes", "known", "claims"),
    [
        ({}, IDS, {}),
        ({}, IDS[:2], {}),  # it ran, and is judged by what it asks
        ({"tests": IDS[:2]}, IDS[:2], {IDS[2]: "gone"}),
        ({"tests": IDS[:2], "asked": ["a"]}, IDS[:2], {}),
        ({"tests": IDS[1:], "partly": ["a/test_a.py"]}, IDS[1:], {}),
        ({"tests": IDS[1:], "is_partial": True}, IDS[1:], {}),
        ({"tests": [], "unfinished": ["a/test_a.py", "b/test_b.py"]}, [], {}),
        ({"tests": IDS[:2], "skipped": ["b/test_b.py"]}, IDS[:2], {IDS[2]: "skipped"}),
        ({"tests": IDS[:2], "skipped": ["b"]}, IDS[:2], {IDS[2]: "gone"}),
        ({"ran": IDS[:1]}, IDS[:1], {IDS[1]: "not_run", IDS[2]: "not_run"}),
        ({"ran": None}, IDS[:1], {}),
    ],
)
def test_what_a_run_claims(changes: dict[str, Any], known: list[str], claims: dict[str, str]) -> None:
    ran = changes.pop("ran", IDS)
    collected: Collected = {
        "root": "/suite",
        "tests": IDS,
        "selected": IDS,
        "fixtures": [],
        "cassettes": [],
        "modules": ["a/test_a.py", "b/test_b.py"],
        "folders": ["a", "b"],
        "asked": ["."],
        "partly": [],
        "unfinished": [],
        "skipped": [],
        "is_named": False,
        "is_partial": False,
    }
    collected |= changes  # type: ignore[typeddict-item]
    found = unmeasured(asked_for(IDS, collected), collected, known, ran)
    assert {entry["id"]: entry["why"] for entry in found} == claims


def test_the_command_that_merges_fails_for_what_no_shard_measured(suite: Suite, tmp_path: Path) -> None:
    from pytest_tokenbudget.commands.documents import write_merged

    project = suite(TWO, 2)
    edit(project, "def test_letter", "def not_test_letter")
    shards = [tmp_path / "1.json", tmp_path / "2.json"]
    for shard in shards:
        shard.write_text(json.dumps(project.judge("test_it.py::test_parcel").document), "utf-8")
    assert write_merged(shards, tmp_path / "merged.json", 2) == 1
