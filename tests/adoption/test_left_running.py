"""An agent that does not wait for a call, asks something else, and lets the call go on: by its own timers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from support.budgeted import Project
from support.messages_api import MessagesApi

AGENT = """
import asyncio
import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, TimeoutError, wait

import httpx2

RULES = "Be brief." + os.environ.get("MORE", "")


def ask(words):
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "system": RULES,
        "messages": [{"role": "user", "content": words}],
    }
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    answer = httpx2.post(f"{url}/v1/messages", json=body, headers=headers, timeout=600)
    return answer.raise_for_status().json()["content"][0]["text"]


def with_a_fallback():
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(ask, "Think long.")
        try:
            return slow.result(timeout=0.3)
        except TimeoutError:
            return ask("What now? You took too long.")


def hedged():
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(ask, "Think long.")]
        if not wait(calls, timeout=0.3).done:
            calls.append(pool.submit(ask, "Be quick."))
        first = wait(calls, return_when=FIRST_COMPLETED).done.pop().result()
        return ask(f"What now? {first}")


async def in_a_thread_of_asyncio():
    slow = asyncio.create_task(asyncio.to_thread(ask, "Think long."))
    done, _ = await asyncio.wait({slow}, timeout=0.3)
    heard = "" if done else await asyncio.to_thread(ask, "What now? You took too long.")
    return heard or await slow
"""
TESTS = """
import asyncio

import agent
import pytest


@pytest.mark.token_budget
def test_fallback():
    assert agent.with_a_fallback() == "You said: What now? You took too long."


@pytest.mark.token_budget
def test_hedged():
    assert agent.hedged() == "You said: What now? You said: Be quick."


@pytest.mark.token_budget
def test_thread_of_asyncio():
    assert asyncio.run(agent.in_a_thread_of_asyncio()) == "You said: What now? You took too long."
"""


def test_who_was_too_slow_when_it_was_recorded_is_so_in_replay(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent.py").write_text(AGENT, "utf-8")
    (tmp_path / "test_agent.py").write_text(TESTS, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n", "utf-8")
    project = Project(tmp_path, pytester)
    goes_on = threading.Semaphore(0)

    def script(asked: dict[str, object]) -> str:
        """Answer the slow call when what the agent asks after it is answered."""
        (message,) = asked["messages"]  # type: ignore[misc]
        if message["content"] == "Think long.":
            assert goes_on.acquire(timeout=600)
        elif message["content"].startswith("What now?"):
            goes_on.release()
        return f"You said: {message['content']}"

    with MessagesApi(script) as api:
        recorded = project.run("--token-budget-record=once", url=api.url)
        assert recorded.status == 0, recorded.output
        assert len(api.charges) == 7
    assert project.judge("--token-budget-update").verdicts == {"within"}
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (0, {"within"}), judged.output
    assert [entry["turns"] and len(entry["turns"]) for entry in judged.document["scenarios"]] == [2, 3, 2]
    monkeypatch.setenv("MORE", " Say where the parcel is, and since when it has been there." * 9)
    changed = project.judge()
    assert (changed.status, changed.verdicts) == (1, {"over"}), changed.output
