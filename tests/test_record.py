"""Recording by `changed` and by the command: what is said before and after, and what it comes to."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.budgeted import Done, Project, preload
from support.messages_api import MessagesApi, text, tool_use

SUITE = """
import os

import httpx2
import pytest

TOOLS = [{"name": "look_up", "description": "Looks a parcel up.", "input_schema": {"type": "object"}}]
SYSTEM = "You are a clerk who finds parcels. " * 160


def said(turn):
    where = "It stands in the hall. " * 12 if os.environ.get("CHANGED") == str(turn) else "It is on its way. "
    return where + ("Ask the neighbour." if os.environ.get("LONGER") and "hall" in where else "")


def ask(messages):
    system = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    body = {"model": "claude-sonnet-4-5", "max_tokens": 100, "system": system, "tools": TOOLS}
    *earlier, last = messages
    content = [{**last["content"][0], "cache_control": {"type": "ephemeral"}}]
    body["messages"] = [*earlier, {**last, "content": content}]
    headers = {"x-api-key": os.environ.get("ANTHROPIC_API_KEY", "sk"), "content-type": "application/json"}
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    answer = httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600)
    return answer.raise_for_status().json()["content"]


@pytest.mark.token_budget
def test_agent():
    messages = [{"role": "user", "content": [{"type": "text", "text": said(1)}]}]
    for turn in range(2, 10):
        answer = ask(messages)
        if answer[0]["type"] != "tool_use":
            return
        result = {"type": "tool_result", "tool_use_id": answer[0]["id"], "content": said(turn)}
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": [result]}]
"""


def model(body: Mapping[str, Any]) -> Any:
    """Look the parcel up three times, once more where the neighbour is to be asked, and answer."""
    turns = 4 if "neighbour" in str(body["messages"]) else 3
    if len(body["messages"]) // 2 < turns:
        return [tool_use("look_up", parcel=17)]
    return [text("It comes tomorrow.")]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    preload()
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "test_agent.py").write_text(SUITE, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    return folder


@pytest.fixture
def project(recorded: Path, pytester: pytest.Pytester) -> Project:
    """A project of one scenario of four turns, recorded anew for each test."""
    shutil.rmtree(recorded / "cassettes", ignore_errors=True)
    made = Project(recorded, pytester)
    record(made, "once")
    return made


def record(project: Project, mode: str) -> Done:
    with MessagesApi(model) as api:
        done = project.run(f"--token-budget-record={mode}", url=api.url)
    assert done.status == 0, done.output
    return done


def cost(project: Project) -> float:
    entry = project.judge().scenarios["test_agent"]
    assert entry["basis"] == "recorded"
    return float(entry["measured"]["cost_usd"])


@pytest.mark.parametrize("longer", ["", "1"])
@pytest.mark.parametrize("turn", [1, 2, 3, 4])
def test_what_is_changed_in_one_turn_costs_what_a_recording_of_all_costs(
    project: Project, monkeypatch: pytest.MonkeyPatch, turn: int, longer: str
) -> None:
    monkeypatch.setenv("CHANGED", str(turn))
    monkeypatch.setenv("LONGER", longer)
    done = record(project, "changed")
    turns = 5 if longer else 4
    said = f"{turns} turns instead of 4" if longer else "4 turns"
    called = f", {turns - turn + 1} called" if turn > 1 else ""
    assert f"cassettes/test_agent/test_agent.yaml: {said}{called}, $0.0" in done.output
    mixed = cost(project)
    record(project, "all")
    assert mixed == pytest.approx(cost(project), rel=0.02)


def test_equal_answers_rewrite_nothing(project: Project) -> None:
    (cassette,) = project.path.rglob("cassettes/**/*.yaml")
    with MessagesApi(model) as api:  # with a cold cache, at another address
        assert project.run("--token-budget-record=all", url=api.url).status == 0
    before, port = cassette.read_bytes(), int(api.url.rpartition(":")[2])
    with MessagesApi(model, port=port) as api:
        done = project.run("--token-budget-record=all", url=api.url)
    assert "kept cassettes/test_agent/test_agent.yaml: 4 turns, $0.0" in done.output
    assert "the answers are the same" in done.output
    assert cassette.read_bytes() == before
