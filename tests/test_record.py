"""Recording by `changed` and by the command: what is said before and after, and what it comes to."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.cli import main
from pytest_tokenbudget.commands.suite import Plan
from pytest_tokenbudget.metering.pricing import Prices
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.run.reporting import LiveLine
from support.apart import warm_python
from support.blocks import text
from support.budgeted import KEY, Done, Project
from support.messages_api import MessagesApi, tool_use
from support.sample import tenth

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
    assert f"cassettes/test_agent/test_agent.yaml: {said}{called}, $0.0" in done.words
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
    assert "kept cassettes/test_agent/test_agent.yaml: 4 turns, $0.0" in done.words
    assert "the answers are the same" in done.words
    assert cassette.read_bytes() == before


# --- what is said before ----------------------------------------------------------------------------------


def bill(api: MessagesApi) -> Decimal:
    """What the server's ledger comes to."""
    prices, total = Prices(), Decimal(0)
    for charge in api.charges:
        usage = charge.usage
        tokens = Tokens(
            usage.input_tokens,
            usage.ephemeral_5m_input_tokens,
            usage.ephemeral_1h_input_tokens,
            usage.cache_read_input_tokens,
            usage.output_tokens,
        )
        total += prices.cost(Usage.of(Rate(charge.model), tokens)) or Decimal(0)
    return total


def plan(project: Project, mode: str = "changed") -> Plan:
    path = project.path / "plan.jsonl"
    path.unlink(missing_ok=True)
    project.run("--token-budget", f"--token-budget-plan={mode}:{path}")
    return Plan.of([json.loads(line) for line in path.read_text("utf-8").splitlines()])


def test_a_plan_says_what_a_recording_calls(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    unchanged = plan(project)
    assert (unchanged.scenarios, unchanged.unchanged, unchanged.calls) == (0, 1, 0)
    everything = plan(project, "all")
    assert (everything.scenarios, everything.calls) == (1, 4)
    assert float(everything.usd) == pytest.approx(cost(project), rel=0.01)
    monkeypatch.setenv("CHANGED", "3")
    changed = plan(project)
    assert (changed.scenarios, changed.calls, changed.unknown) == (1, 2, ())
    assert changed.most is not None
    assert changed.limit(None) > changed.most > changed.usd > 0
    assert next(changed.sentences(changed.limit(None))).startswith("1 scenario, 2 calls, about $0.0")


def test_what_no_recording_tells_is_said(project: Project) -> None:
    (cassette,) = project.path.rglob("cassettes/**/*.yaml")
    cassette.unlink()
    lost = plan(project)
    assert (lost.scenarios, lost.calls, lost.unknown) == (1, 0, ("test_agent.py::test_agent",))
    assert list(lost.sentences(lost.limit(None))) == [
        "1 scenario, at least 0 calls, at least about $0.00",
        "Nobody knows what test_agent.py::test_agent will call: no recording and no baseline tells.",
        "Nobody knows what it costs at most: --token-budget-max-spend=USD sets a limit.",
    ]


def test_a_baseline_tells_what_a_lost_recording_held(project: Project) -> None:
    assert project.run("--token-budget", "--token-budget-update").status == 0
    (cassette,) = project.path.rglob("cassettes/**/*.yaml")
    cassette.unlink()
    known = plan(project)
    shutil.rmtree(project.path / "token_budgets")
    assert (known.scenarios, known.calls, known.unknown, known.most) == (1, 4, (), None)
    assert known.usd > 0


def run_record(project: Project, monkeypatch: pytest.MonkeyPatch, url: str, *arguments: str) -> int:
    monkeypatch.chdir(project.path)
    for name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setattr(sys, "executable", warm_python())  # of the runs that the command starts
    return main(["record", *arguments, "-p", "no:cacheprovider"])


def test_nothing_is_called_without_a_yes_and_all_is_told_with_one(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHANGED", "2")
    with MessagesApi(model) as api:
        assert run_record(project, monkeypatch, api.url) == 2
        said = capfd.readouterr().err
        assert said.startswith("1 scenario, 3 calls, about $0.0")
        assert ", at most $0.0" in said
        assert "--yes goes on without asking" in said
        assert api.requests == []
        assert run_record(project, monkeypatch, api.url, "--yes") == 0
        said = capfd.readouterr().out
        assert len(api.charges) == 3
        assert f"paid: 3 real calls, ${bill(api):.4f}" in said
        assert "test_agent.py::test_agent: 3 real calls, $0.0" in said
        assert run_record(project, monkeypatch, api.url, "--yes") == 0
        assert "Nothing to record: 1 scenario is unchanged." in capfd.readouterr().err
        assert len(api.charges) == 3


# --- what is said before, against what is billed ----------------------------------------------------------

GENERATED = """
import os

import httpx2
import pytest

CHANGE = int(os.environ.get("CHANGE", "0"))


def ask(system, messages, caches):
    system = [{"type": "text", "text": system}]
    if caches:
        system[0]["cache_control"] = {"type": "ephemeral"}
    body = {"model": "claude-sonnet-4-5", "max_tokens": 300, "system": system, "messages": messages}
    headers = {"x-api-key": os.environ.get("ANTHROPIC_API_KEY", "sk"), "content-type": "application/json"}
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    answer = httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600)
    return answer.raise_for_status().json()["content"]
"""
SCENARIO = """

@pytest.mark.token_budget
def test_{number}():
    system = "{rule} " * {times}
    if CHANGE and {changes_system}:
        system += "Never promise a date that you have not looked up. " * 4
    messages = []
    for turn in range({turns}):
        words = "The parcel stands in the hall. " * {words} if turn % 2 else "Where is my parcel? " * {words}
        if CHANGE and turn == {changed_turn}:
            words += "Answer in one line, and name the day on which it comes. " * 3
        messages.append({{"role": "user", "content": words}})
        messages.append({{"role": "assistant", "content": ask(system, messages, {caches})}})
"""
RULES = ("You are a clerk who finds parcels.", "You answer the customers of a shop.")


def generated(seed: int) -> str:
    """A suite of one to four scenarios, some of which share a prompt, some of which change."""
    draw = random.Random(seed)
    suite = GENERATED
    for number in range(draw.randint(1, 4)):
        turns = draw.randint(1, 4)
        suite += SCENARIO.format(
            number=number,
            rule=draw.choice(RULES),
            times=draw.choice([40, 160, 200]),
            changes_system=draw.random() < 0.3,
            turns=turns,
            words=draw.choice([2, 12]),
            changed_turn=draw.choice([None, draw.randrange(turns)]),
            caches=draw.random() < 0.6,
        )
    return suite


def answers(body: Mapping[str, Any]) -> str:
    """Say as much as the turn has, whatever was changed: the shape holds."""
    return "It comes tomorrow, in the morning. " * (1 + len(body["messages"]) // 2)


SEEDS = range(10)


@pytest.mark.parametrize("mode", ["changed", "all"])
@pytest.mark.parametrize("seed", tenth(SEEDS, of="plans"))
def test_what_is_said_before_is_what_is_billed(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, seed: int, mode: str
) -> None:
    """Of ten projects, nine must be within 15 %; all of those drawn here are."""
    (tmp_path / "test_made.py").write_text(generated(seed), "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    project = Project(tmp_path, pytester)
    with MessagesApi(answers) as api:
        assert project.run("--token-budget-record=once", url=api.url).status == 0
    monkeypatch.setenv("CHANGE", "1")
    told = plan(project, mode)
    limit = told.limit(None)
    assert limit is not None
    with MessagesApi(answers) as api:
        done = project.run(f"--token-budget-record={mode}", f"--token-budget-max-spend={limit}", url=api.url)
        assert done.status == 0, done.output
        assert len(api.charges) == told.calls
        billed = bill(api)
    assert billed <= limit
    assert float(told.usd) == pytest.approx(float(billed), rel=0.15)
    if billed:
        assert f"paid: {len(api.charges)} real call" in done.output


# --- what is said meanwhile -------------------------------------------------------------------------------


class Screen:
    """A terminal as far as it is needed: what each line shows, and where the cursor is."""

    fullwidth = 30

    def __init__(self) -> None:
        self.lines, self.row, self.column = [""], 0, 0

    @property
    def width_of_current_line(self) -> int:
        return len(self.lines[self.row])

    def write(self, text: str) -> None:
        for piece in re.findall(r"\x1b\[(?:\d*[AC]|K)|[^\x1b]", text):
            if piece == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row == len(self.lines))
            elif piece == "\r":
                self.column = 0
            elif piece == "\x1b[K":
                self.lines[self.row] = self.lines[self.row][: self.column]
            elif piece == "\x1b[A":
                self.row -= 1
            elif piece.startswith("\x1b"):
                self.column += int(piece[2:-1])
            else:
                line = self.lines[self.row]
                self.lines[self.row] = line[: self.column] + piece + line[self.column + 1 :]
                self.column += 1

    def flush(self) -> None:
        """Nothing is held back."""


def test_one_line_of_a_terminal_is_written_anew() -> None:
    screen: Any = Screen()
    live = LiveLine(screen, screen)
    live.show("")
    screen.write("test_a.py .")
    live.show("test_a.py::test_one: 1 real call, $0.01 so far")
    assert screen.lines == ["test_a.py .", "test_a.py::test_one: 1 rea..."]
    live.show("test_two: 2 calls")
    with live.aside():
        assert screen.lines == ["test_a.py .", ""]
        screen.write(".")
    assert screen.lines == ["test_a.py ..", "test_two: 2 calls"]
    live.show("")
    screen.write("\ntest_b.py")
    assert screen.lines == ["test_a.py ..", "test_b.py"]
