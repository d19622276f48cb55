"""Scenarios whose agents run in other processes: one account with the test's own calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pytest_tokenbudget.replay.credentials import STAND_IN
from support.blocks import text
from support.budgeted import KEY, Judged, Project
from support.messages_api import ApiError, MessagesApi, tool_use

pytestmark = pytest.mark.newest

EXACT = find_spec("ctok") is not None
AGENT = '''
"""A small agent. Arguments: its name, its question, and how many rounds it makes more than it needs."""
import json
import os
import sys
import urllib.request

NAME, QUESTION, MORE = sys.argv[1], sys.argv[2], int(sys.argv[3])
RULES = "You file letters by their date. " * int(os.environ.get("TIMES", "20"))
SYSTEM = [{"type": "text", "text": f"You are the clerk {NAME}. {RULES}"}]
SCHEMA = {"type": "object", "properties": {}}
TOOLS = [{"name": "look_up", "description": "Look a letter up.", "input_schema": SCHEMA}]


def ask(messages, stream):
    body = {"model": "claude-haiku-4-5", "max_tokens": 99, "system": SYSTEM, "tools": TOOLS}
    body |= {"messages": messages, "stream": stream, "metadata": {"user_id": os.urandom(8).hex()}}
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "content-type": "application/json"}
    headers |= {"x-claude-code-session-id": os.urandom(8).hex(), "x-claude-code-agent-id": NAME}
    url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages?beta=true"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
        if not stream:
            return json.load(answer)["content"]
        return assembled([json.loads(line[6:]) for line in answer if line.startswith(b"data: ")])


def assembled(events):
    blocks = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    for event in events:
        if event["type"] == "content_block_delta":
            delta, block = event["delta"], blocks[event["index"]]
            if delta["type"] == "text_delta":
                block["text"] += delta["text"]
            else:
                block["json"] = block.get("json", "") + delta["partial_json"]
    for block in blocks:
        if "json" in block:
            block["input"] = json.loads(block.pop("json") or "{}")
    return blocks


messages = [{"role": "user", "content": QUESTION}]
while True:
    content = ask(messages, stream=len(messages) == 1)
    messages.append({"role": "assistant", "content": content})
    calls = [block for block in content if block["type"] == "tool_use"]
    if not calls and not MORE:
        break
    MORE -= not calls
    found = {"type": "tool_result", "content": "Filed on Monday."}
    results = [{**found, "tool_use_id": call["id"]} for call in calls]
    messages.append({"role": "user", "content": results or "Look again."})
print(content[0]["text"])
'''
SUITE = """
import os
import subprocess
import sys

import anthropic
import pytest

def start(proxy, name, question, more="0"):
    assert os.environ.get("SHOWN") or "sk-ant-api03" not in str(proxy.environment), "the child has the key"
    command = [sys.executable, "agent.py", name, question, more]
    return subprocess.Popen(command, env=proxy.environment, stdout=subprocess.PIPE, text=True)

def output_of(child):
    with child:
        said = child.communicate(timeout=600)[0]
    assert child.returncode == 0
    return said.strip()

@pytest.mark.token_budget
def test_one(token_budget_proxy):
    more = os.environ.get("MORE", "0")
    assert output_of(start(token_budget_proxy, "Ann", "Where is it?", more)) == "Ann has found it."

@pytest.mark.token_budget
def test_with_the_test_itself(token_budget_proxy):
    assert output_of(start(token_budget_proxy, "Ann", "Where is it?")) == "Ann has found it."
    words = [{"role": "user", "content": "And now?"}]
    system = "You file letters by their date. " * int(os.environ.get("TIMES", "20"))
    with anthropic.Anthropic() as client:
        answer = client.messages.create(
            model="claude-haiku-4-5", max_tokens=99, system=system, messages=words
        )
    assert answer.content[0].text == "Nobody has found it."

@pytest.mark.token_budget
def test_three_at_once(token_budget_proxy):
    names = ["Ann", "Bob", "Cid"]
    if os.environ.get("REVERSED"):
        names.reverse()
    children = {name: start(token_budget_proxy, name, "Where is it?") for name in names}
    for name, child in children.items():
        assert output_of(child) == f"{name} has found it."
"""
TURNS = {"test_one": 2, "test_with_the_test_itself": 3, "test_three_at_once": 6}


def clerk(body: Mapping[str, Any]) -> Any:
    """Looks up once, then says who has found it."""
    system = body["system"]
    name = (
        system[0]["text"].split(".")[0].removeprefix("You are the clerk ") if body.get("tools") else "Nobody"
    )
    if body.get("tools") and body["messages"][-1]["content"] == "Where is it?":
        return [text(f"{name} is looking."), tool_use("look_up", letter=name)]
    return f"{name} has found it."


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("children")
    (folder / "agent.py").write_text(AGENT, "utf-8")
    (folder / "test_clerks.py").write_text(SUITE, "utf-8")
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = --strict-markers\nasyncio_default_fixture_loop_scope = function\n", "utf-8"
    )
    return folder


@pytest.fixture
def suite(recorded: Path, pytester: pytest.Pytester) -> Project:
    """A suite of children that was recorded once and has its baselines."""
    project = Project(recorded, pytester)
    if not (recorded / "charged.json").exists():
        with MessagesApi(clerk) as api:
            done = project.run("--token-budget-record=once", url=api.url)
        assert done.status == 0, done.output
        keys = {r.headers.get("x-api-key") or r.headers["authorization"].split()[1] for r in api.requests}
        assert keys == {KEY}
        (recorded / "charged.json").write_text(json.dumps([c.usage.prompt_tokens for c in api.charges]))
        done = project.run("--token-budget", "--token-budget-update")
        assert done.status == 0, done.output
    return project


def prompt_tokens(result: Judged) -> dict[str, int]:
    return {name: entry["measured"]["prompt_tokens"] for name, entry in result.scenarios.items()}


def test_replayed_as_recorded_it_is_what_the_server_charged(suite: Project) -> None:
    charged = json.loads((suite.path / "charged.json").read_text())
    result = suite.judge()
    assert (result.status, result.verdicts) == (0, {"within"}), result.output
    assert {entry["basis"] for entry in result.document["scenarios"]} == {"recorded"}
    assert {name: entry["measured"]["turns"] for name, entry in result.scenarios.items()} == TURNS
    assert sum(prompt_tokens(result).values()) == sum(charged)


def test_a_longer_prompt_is_counted_as_the_server_charges_it(
    suite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMES", "40")
    monkeypatch.setenv("SHOWN", "1")
    with MessagesApi(clerk) as api:  # the children call it themselves, with the key
        done = suite.run("--token-budget-disable", url=api.url)
    assert done.status == 0, done.output
    result = suite.judge()
    assert (result.status, result.verdicts) == (1, {"over"}), result.output
    if EXACT:
        assert {entry["basis"] for entry in result.document["scenarios"]} == {"counted"}
        assert sum(prompt_tokens(result).values()) == sum(c.usage.prompt_tokens for c in api.charges)


def test_agents_at_once_are_told_apart_in_any_order(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVERSED", "1")
    result = suite.judge("-k", "three")
    assert (result.status, result.verdicts) == (0, {"within"}), result.output


def test_nothing_secret_is_recorded(suite: Project) -> None:
    written = "".join(path.read_text("utf-8") for path in (suite.path / "cassettes").rglob("*.yaml"))
    assert "has found it." in written
    assert KEY not in written
    assert STAND_IN not in written


def test_a_miss_fails_the_test_with_the_command_that_records_it(
    suite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORE", "1")
    result = suite.judge("-k", "one")
    assert (result.status, result.verdicts) == (1, {"stale"}), result.output
    assert "asks 1 turn that the recording does not have: user text 'Look again.'" in result.words
    assert "--token-budget-record=changed test_clerks.py::test_one" in result.output
    done = suite.run("-k", "one")
    assert done.status == 1
    assert "Look again." in done.words, "a miss fails the test, judged or not"


def test_live_the_calls_of_children_are_measured_and_not_recorded(suite: Project) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (suite.path / "cassettes").rglob("*"))
    with MessagesApi(clerk) as api:
        report = suite.path / "live.json"
        done = suite.run("--token-budget-live", f"--token-budget-report=json:{report}", url=api.url)
    assert done.status == 0, done.output
    measured = Judged(done.status, done.output, json.loads(report.read_text("utf-8")))
    assert sum(prompt_tokens(measured).values()) == sum(c.usage.prompt_tokens for c in api.charges)
    after = sorted((path, path.stat().st_mtime_ns) for path in (suite.path / "cassettes").rglob("*"))
    assert after == before


def test_the_spend_limit_stops_a_child(suite: Project) -> None:
    with MessagesApi(clerk) as api:
        done = suite.run(
            "--token-budget-record=all", "--token-budget-max-spend=0.0001", "-k", "one", url=api.url
        )
    assert done.status == 1
    assert "past --token-budget-max-spend=0.0001" in done.words
    assert api.requests == []


def test_a_recording_needs_a_key(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    done = suite.run("--token-budget-record=all", "-k", "one")
    assert done.status == 1
    assert "Set ANTHROPIC_API_KEY" in done.output


def test_an_answer_that_did_not_end_is_not_recorded(suite: Project) -> None:
    path = suite.path / "cassettes/test_clerks/test_one.yaml"
    before = path.read_bytes()
    with MessagesApi(clerk) as api:
        api.fail_next(ApiError(529, "overloaded_error", in_stream=True))
        done = suite.run("--token-budget-record=all", "-k", "one", url=api.url)
    assert done.status == 1, done.output
    assert path.read_bytes() == before


UNMARKED = """
def test_it(token_budget_proxy):
    raise AssertionError("it began")
"""


@pytest.mark.parametrize("arguments", [[], ["--token-budget"]], ids=["plain", "judged"])
def test_without_a_marker_it_says_which(pytester: pytest.Pytester, arguments: list[str]) -> None:
    pytester.makepyfile(UNMARKED)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    done = pytester.runpytest_inprocess(*arguments)
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*test_it: token_budget_proxy answers*@pytest.mark.token_budget*"])
    assert "it began" not in str(done.stdout)


def test_a_cloud_would_go_past_it(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_CODE_USE_BEDROCK", "1")
    done = suite.run("-k", "one")
    assert done.status == 1
    assert "Unset it for this test." in done.output
