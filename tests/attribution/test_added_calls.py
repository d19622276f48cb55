"""Calls that the recording does not have: counted behind placeholders, between bounds that hold the truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.budgeted import Judged, Project
from support.messages_api import MessagesApi
from support.scratch_suites import echo, make

AGENT = """
import os

import httpx2

URL = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")


def call(messages, **options):
    body = {"model": "claude-haiku-4-5", "max_tokens": 60, "messages": messages, **options}
    answer = httpx2.post(f"{URL}/v1/messages", json=body, headers={"x-api-key": "k"}, timeout=600)
    return answer.raise_for_status().json()["content"][0]["text"]


def ask(words, **options):
    return call([{"role": "user", "content": words}], **options)
"""
SUITE = """
import os

import pytest
from agent import ask, call

CASE = os.environ.get("CASE", "")
TOOL = {"name": "grade", "input_schema": {"type": "object"}}


@pytest.mark.token_budget
def test_it():
    messages, note = [], ""
    for words in ("One", "Two", "Three"):
        messages.append({"role": "user", "content": words + note})
        said = call(messages)
        messages.append({"role": "assistant", "content": said})
        if CASE in ("reflects", "feeds back"):
            told = ask(f"Is it right to say {words}?")
            note = f" Mind that {told}" if CASE == "feeds back" else ""
        if CASE == "stops early" and words == "Two":
            break
    if CASE == "loops":
        while "OK" not in ask("Say OK.") and len(messages) < 10:
            messages.append(None)
    if CASE == "forced":
        ask("Is it right?", tools=[TOOL], tool_choice={"type": "any"})
    if CASE == "stops early":
        ask("Is it over?")
    assert CASE == "" or "never" in said
"""


class Scratch(Project):
    """A project with one scenario of three turns, recorded."""

    def __init__(self, path: Path, pytester: pytest.Pytester, api: MessagesApi) -> None:
        made = make(path / "suite", pytester, SUITE, agent=AGENT)
        super().__init__(made.path, pytester)
        self.api = api
        done = self.run("--token-budget", "--token-budget-record=once", "--token-budget-update", url=api.url)
        assert done.status == 0, done.output

    def live(self) -> tuple[int, int]:
        """Return the prompt and output tokens that the changed agent really bills."""
        before = len(self.api.charges)
        self.run("--token-budget-disable", url=self.api.url)
        spent = [charge.usage for charge in self.api.charges[before:]]
        return sum(usage.prompt_tokens for usage in spent), sum(usage.output_tokens for usage in spent)


@pytest.fixture
def scratch(tmp_path: Path, pytester: pytest.Pytester) -> Iterator[Scratch]:
    with MessagesApi(echo) as api:
        yield Scratch(tmp_path, pytester, api)


def texts(judged: Judged) -> dict[str, Any]:
    """Return the findings of the one scenario by their places."""
    return {finding["where"]: finding for finding in judged.scenarios["test_it"]["findings"]}


@pytest.mark.parametrize("case", ["reflects", "feeds back", "stops early"])
def test_the_truth_lies_between_the_bounds(
    scratch: Scratch, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASE", case)
    judged = scratch.judge()
    entry = judged.scenarios["test_it"]
    assert (judged.status, entry["verdict"]) == (1, "stale"), judged.output
    assert "AssertionError" not in judged.output, "what the test makes of a placeholder says nothing"
    least, most = entry["bounds"]["least"], entry["bounds"]["most"]
    prompt, output = scratch.live()
    assert least["prompt_tokens"] <= prompt <= most["prompt_tokens"]
    assert least["output_tokens"] <= output <= most["output_tokens"]
    assert least["cost_usd"] <= (prompt + 5 * output) / 1e6 <= most["cost_usd"]


def test_added_calls_are_counted_and_never_a_saving(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CASE", "reflects")
    judged = scratch.judge()
    found = texts(judged)
    assert "starts 3 subagents or conversations more than recorded" in found["added"]["text"]
    first = 'the first difference is messages[0] user text: was "One", now "Is it right to say One?"'
    assert found["added"]["text"].endswith(first)
    assert "removed" not in found
    entry = judged.scenarios["test_it"]
    added = entry["bounds"]["least"]["prompt_tokens"] - entry["baseline"]["prompt_tokens"]
    assert 0 < added < 60
    assert found["bounds"]["text"].startswith(f"as far as it can be told without recording: +{added}")


@pytest.mark.parametrize("case", ["loops", "forced"])
def test_where_no_placeholder_stands_in_nobody_knows_the_most(
    scratch: Scratch, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop gets three, and a tool or a schema that is forced gets none; what repeats is counted once."""
    monkeypatch.setenv("CASE", case)
    judged = scratch.judge()
    entry = judged.scenarios["test_it"]
    assert (judged.status, entry["verdict"]) == (1, "stale"), judged.output
    assert entry["bounds"]["most"] is None
    assert entry["bounds"]["least"]["turns"] == 4
    assert "count at least " in texts(judged)["bounds"]["text"]


def test_the_settings_switch_placeholders_off(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    (scratch.path / "pyproject.toml").write_text("[tool.tokenbudget]\nplaceholder = false\n", "utf-8")
    monkeypatch.setenv("CASE", "reflects")
    judged = scratch.judge()
    found = texts(judged)
    assert "starts 1 subagent or conversation more than recorded" in found["added"]["text"]
    assert (found["removed"]["tokens"], found["removed"]["cost_usd"]) == (None, None)
    assert "(as recorded: " in found["removed"]["text"]
    assert judged.scenarios["test_it"]["bounds"]["most"] is None


def test_a_plain_run_gets_no_placeholder(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASE", "reflects")
    plain = scratch.run()
    assert plain.status == 1
    assert "starts 1 subagent or conversation more than recorded" in plain.words


def test_turns_that_are_gone_and_nothing_else_are_a_saving(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scratch.path / "test_it.py"
    path.write_text(path.read_text("utf-8").replace('("One", "Two", "Three")', '("One",)'), "utf-8")
    judged = scratch.judge()
    gone = texts(judged)["removed"]
    assert gone["tokens"] < 0
    assert "bounds" not in judged.scenarios["test_it"]
