"""What a failing test names resolves it: each command is run from exactly the state that names it."""

from __future__ import annotations

import multiprocessing
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_tokenbudget.replay import playback
from support.budgeted import Judged, Project, run_apart
from support.messages_api import MessagesApi
from support.scratch import Scratch as Repo
from support.scratch_suites import make, settings

SUITE = """
import contextlib
import multiprocessing
import os

import pytest
from agent import ask

CASE = os.environ.get("CASE", "")


{mark}
def test_it():
    if CASE == "cached":
        return
    if CASE == "swallows":
        with contextlib.suppress(Exception):
            ask("One")
            ask("Two")
        return
    if CASE == "fork":
        process = multiprocessing.get_context("fork").Process(target=ask, args=("One",))
        process.start()
        process.join(600)
        return
    ask("One")
    if CASE != "fewer":
        ask("Two")
    if CASE == "more":
        ask("Three")
"""
MARK = "@pytest.mark.token_budget"


@dataclass(frozen=True)
class Scratch:
    """A project with one scenario, and the server that it is recorded from."""

    project: Project
    api: MessagesApi

    def write(self, mark: str = MARK) -> None:
        (self.project.path / "test_it.py").write_text(SUITE.format(mark=mark), "utf-8")

    def record(self) -> None:
        done = self.project.judge("--token-budget-record=once", "--token-budget-update", url=self.api.url)
        assert done.status == 0, done.output

    @property
    def cassette(self) -> Path:
        return self.project.path / "cassettes" / "test_it" / "test_it.yaml"


@pytest.fixture
def scratch(tmp_path: Path, pytester: pytest.Pytester, api: MessagesApi) -> Scratch:
    scratch = Scratch(make(tmp_path / "suite", pytester, ""), api)
    scratch.write()
    return scratch


def commands(judged: Judged) -> list[list[str]]:
    """The arguments of each command that the report of the run names, in order."""
    text = judged.output.partition("token budgets ==")[2]
    return [shlex.split(found) for found in re.findall(r"(?m)^  pytest (--token-budget .*)", text)]


def verdict(judged: Judged) -> str:
    return str(judged.scenarios["test_it"]["verdict"])


def resolved(scratch: Scratch, judged: Judged, url: str | None = None) -> Judged:
    """Run the one command that is named, then judge again, offline."""
    (command,) = commands(judged)
    done = scratch.project.run(*command, url=url)
    assert "ERROR" not in done.output, done.output
    return scratch.project.judge()


def test_what_was_never_recorded_is_recorded_and_accepted_by_one_command(scratch: Scratch) -> None:
    judged = scratch.project.judge()
    assert (judged.status, verdict(judged)) == (1, "unrecorded"), judged.output
    assert "Unrecorded: it asks, and has no cassette" in judged.output
    assert "Without a key: " in judged.output
    assert "skip the test until then" in judged.words
    scratch.write("@pytest.mark.skip\n" + MARK)
    assert scratch.project.judge().status == 0
    scratch.write()
    assert verdict(resolved(scratch, judged, scratch.api.url)) == "within"


def test_a_recording_that_failed_is_made_again_by_the_same_command(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent swallows that the host is dead: nothing is written, and nothing is called stale."""
    monkeypatch.setenv("CASE", "swallows")
    judged = scratch.project.judge("--token-budget-record=once", url="http://127.0.0.1:9")
    assert (judged.status, verdict(judged)) == (1, "unrecorded"), judged.output
    assert "did not end" in judged.output
    assert not scratch.cassette.exists()
    assert verdict(resolved(scratch, judged, scratch.api.url)) == "within"


def test_a_recording_that_fails_leaves_the_one_that_is_there(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.record()
    before = scratch.cassette.read_bytes()
    monkeypatch.setenv("CASE", "swallows")
    judged = scratch.project.judge("--token-budget-record=all", url="http://127.0.0.1:9")
    assert (judged.status, verdict(judged)) == (1, "stale"), judged.output
    assert scratch.cassette.read_bytes() == before
    assert verdict(resolved(scratch, judged)) == "within", "nothing had changed, so no key is needed"


def test_turns_that_are_gone_are_accepted_without_a_key(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.record()
    monkeypatch.setenv("CASE", "fewer")
    judged = scratch.project.judge()
    assert (judged.status, verdict(judged)) == (1, "stale"), judged.output
    assert verdict(resolved(scratch, judged)) == "within"


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_fork_is_mended_by_an_edit(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch.record()
    monkeypatch.setenv("CASE", "fork")
    done = run_apart(scratch.project.path, "--token-budget")
    assert done.status == 1
    assert 'Start it anew (as a command, or with the start method "spawn")' in done.words
    assert "--token-budget-record" not in done.output


def test_turns_that_are_new_are_recorded(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch.record()
    monkeypatch.setenv("CASE", "more")
    judged = scratch.project.judge()
    assert (judged.status, verdict(judged)) == (1, "stale"), judged.output
    assert verdict(resolved(scratch, judged, scratch.api.url)) == "over", "and held against the baseline"


def test_a_forgotten_marker_is_called_that(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch.record()
    scratch.write(mark="")
    monkeypatch.setenv("CASE", "cached")  # an unmarked test that asks is another matter: a closed run
    judged = scratch.project.judge()
    assert (judged.status, verdict(judged)) == (1, "stale"), judged.output
    (told,) = judged.scenarios["test_it"]["findings"]
    assert "its marker is gone: put @pytest.mark.token_budget back" in told["text"]
    assert commands(judged) == []
    scratch.write()
    monkeypatch.delenv("CASE")
    assert verdict(scratch.project.judge()) == "within"


def test_an_agent_that_asks_nothing_is_no_recording(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache of its own answers: to record that would end the scenario for good."""
    scratch.record()
    before = scratch.cassette.read_bytes()
    monkeypatch.setenv("CASE", "cached")
    judged = scratch.project.judge()
    assert (judged.status, verdict(judged)) == (1, "stale"), judged.output
    assert "the agent asked nothing at all. If a cache of its own answered" in judged.words
    assert commands(judged) == []
    for how in ("changed", "all"):
        again = scratch.project.judge(f"--token-budget-record={how}", url=scratch.api.url)
        assert again.status == 1, again.output
        assert scratch.cassette.read_bytes() == before
    monkeypatch.delenv("CASE")
    assert verdict(scratch.project.judge()) == "within"


LONGER = " Say so in full sentences, and never promise a date of delivery to anybody." * 4


def named(judged: Judged) -> list[list[str]]:
    """The arguments of each command that a run names anywhere, once."""
    found = re.findall(r"^(?:.*: |  )pytest (--token-budget .*)$", judged.output, re.MULTILINE)
    return [shlex.split(text) for text in dict.fromkeys(found)]


def test_what_is_over_new_or_improved_is_accepted_by_the_command_that_is_named(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.record()

    def check(expected: str, status: int) -> None:
        judged = scratch.project.judge()
        assert (judged.status, verdict(judged)) == (status, expected), judged.output
        (command,) = named(judged)
        assert scratch.project.run(*command).status == 0
        judged = scratch.project.judge()
        assert (judged.status, verdict(judged), named(judged)) == (0, "within", [])

    monkeypatch.setenv("MORE", LONGER)
    check("over", 1)
    monkeypatch.delenv("MORE")
    check("improved", 0)
    (scratch.project.path / "token_budgets" / "test_it.yaml").unlink()
    check("new", 1)


def test_a_cap_is_raised_by_hand(scratch: Scratch) -> None:
    scratch.record()
    settings(scratch.project, "max_prompt_tokens = 2")
    judged = scratch.project.judge()
    assert (judged.status, verdict(judged), named(judged)) == (1, "over", [])
    assert (
        "A cap is raised by hand: max_prompt_tokens in the marker of test_it.py::test_it or" in judged.words
    )
    settings(scratch.project, "max_prompt_tokens = 2_000")
    assert verdict(scratch.project.judge()) == "within"


def test_usage_that_cannot_be_is_recorded_anew_or_trusted(scratch: Scratch) -> None:
    """What its message names, each from the same state: a cassette whose usage says 900 times as much."""
    scratch.record()
    honest = scratch.cassette.read_text("utf-8")
    forged = re.sub(r"usage: \{input_tokens: \d+", "usage: {input_tokens: 9000", honest)
    assert forged != honest
    for trusts in (False, True):
        scratch.cassette.write_text(forged, "utf-8")
        judged = scratch.project.judge()
        assert judged.status == 1
        assert "usage does not fit its prompt" in judged.words
        if trusts:
            (line,) = set(re.findall(r"set (trusted_usage = \[.*?\]) in \[tool", judged.words))
            settings(scratch.project, line)
            judged = scratch.project.judge()
            assert "does not fit" not in judged.words
            assert verdict(judged) == "over", "it is held against what was accepted"
            (command,) = named(judged)
            assert scratch.project.run(*command).status == 0
        else:
            (command,) = named(judged)
            assert command[1] == "--token-budget-record=all"
            assert scratch.project.run(*command, url=scratch.api.url).status == 0
        assert verdict(scratch.project.judge()) == "within"


def test_a_call_that_nothing_meters_is_let_through_by_the_line_that_is_named(scratch: Scratch) -> None:
    scratch.record()
    scratch.write(mark="")
    (scratch.project.path / "test_other.py").write_text(
        "from agent import ask\n\n\ndef test_other():\n    ask('One')\n", "utf-8"
    )
    judged = scratch.project.judge()
    assert judged.status == 1
    told = said_of_files(judged)
    assert "put @pytest.mark.token_budget" in told + judged.words
    scratch.write()
    (line,) = set(re.findall(r"allow_unmetered = \[.*?\]", judged.words)) - {
        'allow_unmetered = ["test_it.py::test_it"]'
    }
    settings(scratch.project, line)
    judged = scratch.project.judge(url=scratch.api.url)
    assert (judged.status, verdict(judged)) == (0, "within"), judged.output


UNCOUNTABLE = """
import os

import httpx2

URL = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")


def ask(words):
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "stop_sequences": ["said"] if os.environ.get("CASE") == "stops" else [],
        "messages": [{"role": "user", "content": words}],
    }
    answer = httpx2.post(f"{URL}/v1/messages", json=body, headers={"x-api-key": "k"}, timeout=600)
    return answer.raise_for_status().json()["content"][0]["text"]
"""


def test_turns_that_nobody_can_count_are_recorded_anew(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scratch.project.path / "agent.py").write_text(UNCOUNTABLE, "utf-8")
    scratch.record()
    monkeypatch.setenv("CASE", "stops")
    judged = scratch.project.judge()
    assert (judged.status, verdict(judged)) == (1, "unknown"), judged.output
    assert "goes on after 'said', which is a stop sequence now" in judged.words
    assert 'the first difference is stop_sequences[0]: now "said"' in judged.words
    assert verdict(scratch.project.judge("--token-budget-update")) == "unknown", "nothing unknown is accepted"
    (line,) = set(re.findall(r"set (exclude = \[.*?\]) in \[tool.tokenbudget\]", judged.words))
    settings(scratch.project, line)
    excluded = scratch.project.judge()
    assert (excluded.status, excluded.document["scenarios"]) == (0, []), excluded.output
    (scratch.project.path / "pyproject.toml").unlink()
    assert verdict(resolved(scratch, judged, scratch.api.url)) == "within"


def said_of_files(judged: Judged) -> str:
    """What the document tells of files that cannot be read, never wrapped."""
    return " ".join(error["text"] for error in judged.document["errors"])


def damage(path: Path) -> None:
    path.write_text("version: [\n", "utf-8")


@pytest.mark.parametrize("name", ["token_budgets/test_it.yaml", "cassettes/test_it/test_it.yaml"])
def test_what_a_merge_left_is_taken_from_one_side_or_restored(scratch: Scratch, name: str) -> None:
    """In the middle of a merge: a file with conflict marks, and one that was damaged beside it."""
    scratch.record()
    repo, path = Repo.create(scratch.project.path), scratch.project.path / name
    was = path.read_text("utf-8")
    repo.commit("Begin")
    for branch, comment in (("theirs", "# theirs\n"), ("main", "# ours\n")):
        repo.git("checkout", "-q", *(["-b"] if branch == "theirs" else []), branch)
        path.write_text(comment + was, "utf-8")
        repo.commit(f"Say {branch}")
    merged = subprocess.run(["git", "-C", str(repo.top), "merge", "-q", "theirs"], capture_output=True)
    assert merged.returncode == 1
    for spoil, wanted in ((None, "git checkout --ours -- "), (damage, "git checkout HEAD -- ")):
        if spoil is not None:
            spoil(path)
        judged = scratch.project.judge()
        assert judged.status == 1, judged.output
        (command, *_) = re.findall(r"(?m)^  (git checkout .*)$", judged.output)
        assert command.startswith(wanted)
        done = subprocess.run(shlex.split(command), cwd=scratch.project.path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert verdict(scratch.project.judge()) == "within"
        subprocess.run(["git", "-C", str(repo.top), "checkout", "-q", "--merge", "--", name], check=True)


CANCELS = """
import asyncio
import contextlib
import os

import httpx2

URL = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com") + "/v1/messages"
BODY = {"model": "claude-haiku-4-5", "max_tokens": 50}


async def main(words):
    body = BODY | {"messages": [{"role": "user", "content": words}]}
    content = httpx2.Request("POST", URL, json=body).read()
    sent = asyncio.Event()

    async def stream():
        yield content
        sent.set()

    headers = {"x-api-key": "k", "content-length": str(len(content))}
    async with httpx2.AsyncClient(timeout=600) as client:
        call = asyncio.create_task(client.post(URL, content=stream(), headers=headers))
        await sent.wait()
        if words == "One" and os.environ.get("CASE") != "waits":
            call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await call).raise_for_status()


def ask(words):
    asyncio.run(main(words))
"""


def test_a_call_that_was_cancelled_and_is_waited_for_now_is_recorded_anew(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playback, "PATIENCE", 0.0)
    (scratch.project.path / "agent.py").write_text(CANCELS, "utf-8")
    scratch.record()
    assert verdict(scratch.project.judge()) == "within"
    monkeypatch.setenv("CASE", "waits")
    judged = scratch.project.judge()
    assert (judged.status, verdict(judged)) == (1, "stale"), judged.output
    assert "was cancelled by the agent when it was recorded, and the agent waits" in judged.words
    assert verdict(resolved(scratch, judged, scratch.api.url)) in ("over", "within")
