"""A request that the recording cannot answer fails the test, however the agent takes it."""

from __future__ import annotations

import pytest

from support.scratch_suites import Suite

SUITE = """
import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx2
import pytest
from agent import ask

pytestmark = pytest.mark.token_budget
MORE = "MISS" in os.environ


async def ask_async(words):
    body = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": words}]}
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    async with httpx2.AsyncClient(headers=headers, timeout=600) as client:
        return (await client.post(f"{url}/v1/messages", json=body)).json()["content"][0]["text"]


def test_except_exception():
    ask("One")
    if MORE:
        try:
            ask("Two")
        except Exception:
            pass


def test_except_base_exception():
    ask("One")
    if MORE:
        try:
            ask("Two")
        except BaseException:
            pass


def test_gather_with_exceptions():
    async def both():
        asked = [ask_async("One"), ask_async("Two")] if MORE else [ask_async("One")]
        await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(both())


def test_task_that_nobody_awaits():
    async def leave_it():
        await ask_async("One")
        if MORE:
            task = asyncio.create_task(ask_async("Two"))
            await asyncio.wait([task])

    asyncio.run(leave_it())


def test_anyio_task_group():
    async def group():
        await ask_async("One")
        if MORE:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask_async, "Two")

    anyio.run(group)


def test_thread():
    ask("One")
    if MORE:
        thread = threading.Thread(target=ask, args=["Two"])
        thread.start()
        thread.join()


def test_executor():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ask, "One").result()
        if MORE:
            pool.submit(ask, "Two")


def test_finally():
    try:
        ask("One")
    finally:
        if MORE:
            ask("Two")
"""
SUBTESTS = """

def test_subtests(subtests):
    ask("One")
    with subtests.test():
        if MORE:
            ask("Two")
"""
HAS_SUBTESTS = pytest.version_tuple >= (9,)
COUNT = 9 if HAS_SUBTESTS else 8
FAILURES = COUNT + 1 if HAS_SUBTESTS else COUNT  # a subtest counts for itself


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_every_test_fails_and_says_what_was_missing(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    project = suite(SUITE + SUBTESTS if HAS_SUBTESTS else SUITE, COUNT)
    monkeypatch.setenv("MISS", "1")
    judged = project.judge()
    assert judged.status == 1
    assert f"{COUNT} failed" in judged.output, "a placeholder lets the subtest pass, and its test fails"
    assert judged.verdicts == {"stale"}
    assert len(judged.scenarios) == COUNT

    plain = project.run()
    assert plain.status == 1
    assert f"{FAILURES} failed" in plain.output, plain.output
    assert '"Two"' in plain.output
