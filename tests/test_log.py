"""The log: one line a metered scenario, whatever became of it, from all processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.cli import main
from pytest_tokenbudget.errors import ReportError
from pytest_tokenbudget.reports import build
from pytest_tokenbudget.reports.advice_report import advice
from pytest_tokenbudget.reports.history import LogEntry, log_lines, read_log
from support.budgeted import Project, run_apart
from support.messages_api import MessagesApi

SUITE = """
import contextlib
import os

import httpx2
import pytest


def ask(words):
    body = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": words}]}
    headers = {"x-api-key": os.environ.get("ANTHROPIC_API_KEY", "sk")}
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    return httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600).raise_for_status()


@pytest.mark.token_budget
def test_good():
    ask("Hello")


@pytest.mark.token_budget
def test_fails():
    ask("Hello")
    assert not os.environ.get("FAILS")


@pytest.mark.token_budget(max_turns=2)
def test_loops():
    for _ in range(int(os.environ.get("ROUNDS", "1"))):
        with contextlib.suppress(Exception):
            ask("Vote!")


@pytest.mark.token_budget
def test_skips():
    if os.environ.get("FAILS"):
        ask("Hello")
        pytest.skip("enough")


@pytest.fixture(scope="module")
def shared():
    return ask("Yes.").json()


@pytest.mark.token_budget
def test_shares(shared):
    assert shared
"""


@pytest.fixture
def project(tmp_path: Path, pytester: pytest.Pytester) -> Project:
    (tmp_path / "test_it.py").write_text(SUITE, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    return Project(tmp_path, pytester)


def logged(project: Project) -> dict[str, dict[str, Any]]:
    lines = (project.path / "runs.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert len({entry["id"] for entry in entries}) == len(entries)
    return {entry["id"].partition("::")[2]: entry for entry in entries}


def test_each_scenario_has_a_line_whatever_became_of_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAILS", "1")
    monkeypatch.setenv("ROUNDS", "3")
    path = project.path / "runs.jsonl"
    with MessagesApi(lambda _: "Yes.") as api:
        project.run("--token-budget-record=all", f"--token-budget-log={path}", url=api.url)
    entries = logged(project)
    outcomes = {name: (entry["outcome"], len(entry["turns"])) for name, entry in entries.items()}
    assert outcomes == {
        "test_good": ("passed", 1),
        "test_fails": ("failed", 1),
        "test_loops": ("stopped", 2),
        "test_skips": ("skipped", 1),
        "fixture shared": ("passed", 1),
    }
    charged = sum(charge.usage.input_tokens + 5 * charge.usage.output_tokens for charge in api.charges) / 1e6
    assert sum(entry["paid_usd"] for entry in entries.values()) == pytest.approx(charged)
    good = entries["test_good"]
    assert (good["mode"], good["turns"][0]["model"]) == ("record", "claude-haiku-4-5")
    assert good["measured"]["prompt_tokens"] == good["turns"][0]["tokens"]["prompt_tokens"] > 0
    assert good["measured"]["cost_usd"] == pytest.approx(good["paid_usd"])

    capsys.readouterr()
    assert main(["history", "--log", str(path)]) == 0
    told = capsys.readouterr().out
    assert "test_loops" in told
    assert "5 lines" in told
    monkeypatch.chdir(project.path)
    assert main(["history", "--log", str(path), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_log(path.read_text("utf-8"), "")


def test_a_replay_is_judged_and_paid_nothing(project: Project) -> None:
    with MessagesApi(lambda _: "Yes.") as api:
        assert project.run("--token-budget-record=once", "-k", "good", url=api.url).status == 0
    assert project.run("--token-budget", "--token-budget-update", "-k", "good").status == 0
    assert project.run("--token-budget", "--token-budget-log=runs.jsonl", "-k", "good").status == 0
    (entry,) = logged(project).values()
    assert (entry["mode"], entry["outcome"], entry["paid_usd"]) == ("replay", "within", 0)


def test_several_processes_write_whole_lines(project: Project) -> None:
    with MessagesApi(lambda _: "Yes.") as api:
        arguments = ("--token-budget-record=all", "--token-budget-log=runs.jsonl", "-n", "2")
        done = run_apart(project.path, *arguments, url=api.url)
    assert done.status == 0, done.output
    assert {"test_good", "test_fails", "test_loops", "fixture shared"} <= logged(project).keys()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "log, line 1 is not JSON"),
        ('{"version": 2}', "log, line 1 was written by a newer"),
        ('{"version": 1}', "log, line 1: time is missing"),
        ("[]", "log, line 1: it must be an object"),
    ],
)
def test_what_is_no_line_is_named(line: str, problem: str) -> None:
    with pytest.raises(ReportError, match=problem):
        read_log(line, "log")


def paid(name: str, outcome: str, usd: float, unknown: int = 0) -> LogEntry:
    return {
        "version": 1,
        "time": "2026-11-29T03:40:00.000+00:00",
        "id": name,
        "commit": None,
        "mode": "live",
        "outcome": outcome,
        "measured": None,
        "turns": [],
        "paid_usd": usd,
        "paid_unknown": unknown,
    }


def test_advice_says_what_was_paid_for() -> None:
    nothing = build.document([], mode="replay", prices=("a list", "1"), commit=None)
    logged = [paid("test_a", "within", 0.25), paid("test_b", "failed", 0.5, 1), paid("test_c", "within", 0)]
    assert advice(nothing, None, logged)["spend"] == [
        "By the log, 2 runs of a scenario made real calls, for at least $0.7500",
        "at least $0.5000 of it went to 1 run that ended early",
        "test_b was paid most for: at least $0.5000 in 1 run",
    ]
    assert advice(nothing, None)["spend"] == []


def test_an_empty_log_says_how_it_is_filled() -> None:
    (line,) = log_lines([], columns=80)
    assert "--token-budget-log=FILE" in line.text


def test_a_log_needs_a_folder(project: Project) -> None:
    done = project.run("--token-budget", "--token-budget-log=nowhere/runs.jsonl")
    assert done.status == 4
    assert "--token-budget-log=nowhere/runs.jsonl" in done.output
