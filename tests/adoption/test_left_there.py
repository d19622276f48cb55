"""Calls that an agent left in a cassette of the suite's own, which keeps nothing of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from support.budgeted import Project
from support.messages_api import MessagesApi

AGENT = """
import asyncio
import os

import httpx2
import pytest
import vcr


async def post(client, words):
    body = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": words}]}
    headers = {"x-api-key": "sk-ant-test", "anthropic-version": "2023-06-01"}
    answer = await client.post(os.environ["URL"] + "/v1/messages", json=body, headers=headers)
    return answer.json()["content"][0]["text"]


async def agent(slow, fast):
    sent = asyncio.Event()

    async def note(_):
        sent.set()

    async with httpx2.AsyncClient(event_hooks={"request": [note]}) as client:
        first = asyncio.create_task(post(client, slow))
        await sent.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        first.cancel()
        heard = await asyncio.gather(first, return_exceptions=True)
        return type(heard[0]).__name__, await post(client, fast)


@pytest.mark.parametrize("slow", ["Think long.", "Hello"])
def test_it(slow):
    with vcr.use_cassette(f"{slow[:5]}.yaml", match_on=["method", "path"], filter_headers=["x-api-key"]):
        how, said = asyncio.run(agent(slow, "Hello"))
    assert (how, said) == ("CancelledError", "You said: Hello")
"""


def test_a_call_that_was_left_in_a_cassette_of_the_suites_own_is_stale_as_vcrpy_fails_without_us(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vcrpy keeps nothing of it: in replay the call gets the answer of another, which then has none."""
    over = threading.Event()
    asked: list[Any] = []

    def script(body: Any) -> str:
        asked.append(body)
        assert len(asked) % 2 == 0 or over.wait(600), "each first call waits, and is cancelled"
        return f"You said: {body['messages'][0]['content']}"

    (tmp_path / "test_it.py").write_text(AGENT)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    project = Project(tmp_path, pytester)
    with MessagesApi(script) as api:
        monkeypatch.setenv("URL", api.url)
        recorded = project.run("-p", "no:tokenbudget")
        over.set()
    assert recorded.status == 0, recorded.output
    assert [path.read_text().count("uri:") for path in tmp_path.glob("*.yaml")] == [1, 1]
    plain = project.run("-p", "no:tokenbudget")
    assert plain.status == 1
    assert plain.words.count("it matches 1 recorded interaction, but that has already been played") == 2
    judged = project.judge()
    assert (judged.status, judged.verdicts) == (1, {"stale"})
    told = judged.words
    assert "the agent starts 1 conversation more than recorded: user text 'Think long.'" in told
    assert "the agent loops: the same request is sent 2 times (user text 'Hello')" in told
    assert len(asked) == 4, "nothing was sent in replay"
