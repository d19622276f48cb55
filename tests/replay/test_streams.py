"""Streams reach the agent while they are recorded, and are recorded whole, whatever it reads of them."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import anthropic
import httpx
import httpx2
import pytest
import requests

from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.playback import Ledger
from pytest_tokenbudget.replay.traffic import Traffic
from support.blocks import body
from support.budgeted import Project
from support.clients import CALLS, COMMAND, client, is_faithful, replaying, running
from support.messages_api import MessagesApi

PATIENCE = 600.0
"""Seconds after which a stream is taken to hang."""
LONG = "Your parcel comes tomorrow, in the morning. " * 4


class Withholding:
    """A server that keeps back the second event until its client has seen the first."""

    def __init__(self) -> None:
        self.seen = threading.Event()
        self.api = MessagesApi(lambda _: LONG, before_event=lambda _: self.seen.wait(PATIENCE))


@pytest.fixture
def server() -> Iterator[Withholding]:
    made = Withholding()
    with made.api:
        yield made


HEADERS = {"x-api-key": "sk-ant-test", "anthropic-version": "2026-10-21"}


def reads(library: ModuleType, url: str, seen: threading.Event) -> bytes:
    asked = {"json": body(stream=True), "headers": HEADERS, "timeout": PATIENCE}
    parts = []
    with library.stream("POST", f"{url}/v1/messages", **asked) as answer:
        for part in answer.iter_raw():
            seen.set()
            parts.append(part)
    return b"".join(parts)


def reads_async(library: ModuleType, url: str, seen: threading.Event) -> bytes:
    async def read() -> bytes:
        asked: Any = {"json": body(stream=True), "headers": HEADERS, "timeout": PATIENCE}
        parts = []
        async with (
            library.AsyncClient() as session,
            session.stream("POST", f"{url}/v1/messages", **asked) as answer,
        ):
            async for part in answer.aiter_raw():
                seen.set()
                parts.append(part)
        return b"".join(parts)

    return asyncio.run(read())


def reads_requests(library: ModuleType, url: str, seen: threading.Event) -> bytes:
    asked: Any = {"json": body(stream=True), "headers": HEADERS, "timeout": PATIENCE, "stream": True}
    parts = []
    with library.post(f"{url}/v1/messages", **asked) as answer:
        for part in answer.iter_content(None):
            seen.set()
            parts.append(part)
    return b"".join(parts)


def reads_urllib(library: ModuleType, url: str, seen: threading.Event) -> bytes:
    content, headers = json.dumps(body(stream=True)).encode(), {**HEADERS, "content-type": "application/json"}
    asked = library.Request(f"{url}/v1/messages", content, headers)
    parts = []
    with library.urlopen(asked, timeout=PATIENCE) as answer:
        for line in answer:
            seen.set()
            parts.append(line)
    return b"".join(parts)


def reads_aiohttp(library: ModuleType, url: str, seen: threading.Event) -> bytes:
    async def read() -> bytes:
        asked: Any = {"json": body(stream=True), "headers": HEADERS}
        parts = []
        async with library.ClientSession() as session, session.post(f"{url}/v1/messages", **asked) as answer:
            async for part in answer.content.iter_any():
                seen.set()
                parts.append(part)
        return b"".join(parts)

    return asyncio.run(read())


Reads = Callable[[ModuleType, str, threading.Event], bytes]


@pytest.mark.parametrize(
    ("library", "read"),
    [
        *itertools.product([httpx, httpx2], [reads, reads_async]),
        (requests, reads_requests),
        (urllib.request, reads_urllib),
        (aiohttp, reads_aiohttp),
    ],
)
def test_the_first_event_is_there_before_the_second_is_sent(
    server: Withholding, library: ModuleType, read: Reads
) -> None:
    with running(Ledger("test_it", COMMAND, (), CALLS)) as ledger:
        whole = read(library, server.api.url, server.seen)
    ((_, answer),) = ledger.interactions()
    assert answer["body"]["string"] == whole
    assert b"message_stop" in whole
    assert answer["timing"].keys() == {"started", "answered"}
    with replaying(ledger.interactions()) as replayed:
        assert read(library, "http://127.0.0.1:9", server.seen) == whole
    assert is_faithful(replayed)


def stops(url: str) -> str:
    with client(url).messages.stream(**body(), timeout=PATIENCE) as stream:
        return next(text for text in stream.text_stream if text)


def stops_async(url: str) -> str:
    async def read() -> str:
        agent = anthropic.AsyncAnthropic(base_url=url, api_key="sk-ant-test")
        async with agent, agent.messages.stream(**body(), timeout=PATIENCE) as stream:
            async for text in stream.text_stream:
                if text:
                    return text
        raise AssertionError

    return asyncio.run(read())


def stops_requests(url: str) -> str:
    asked: Any = {"json": body(stream=True), "headers": HEADERS, "timeout": PATIENCE, "stream": True}
    with requests.post(f"{url}/v1/messages", **asked) as answer:
        return str(next(answer.iter_lines()))


def stops_aiohttp(url: str) -> str:
    async def read() -> str:
        asked: Any = {"json": body(stream=True), "headers": HEADERS}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/messages", **asked) as answer,
        ):
            return (await answer.content.readline()).decode()

    return asyncio.run(read())


def whole_answer(interactions: list[Interaction]) -> bool:
    (exchange,) = Traffic(interactions).exchanges
    return exchange.answer.is_whole


@pytest.mark.parametrize("stop", [stops, stops_async, stops_requests, stops_aiohttp])
def test_an_agent_that_stops_reading_is_recorded_whole_and_as_such(stop: Callable[[str], str]) -> None:
    with MessagesApi(lambda _: LONG) as api, running(Ledger("test_it", COMMAND, (), CALLS)) as ledger:
        first = stop(api.url)
    interactions = ledger.interactions()
    assert whole_answer(interactions)
    assert ledger.called("test_it").half_read == ['POST /v1/messages (claude-haiku-4-5): "Hello"']
    with replaying(interactions) as replayed:
        assert stop("http://127.0.0.1:9") == first
    assert is_faithful(replayed)


def test_an_agent_that_reads_to_the_end_is_not_said_to_stop() -> None:
    with MessagesApi(lambda _: LONG) as api, running(Ledger("test_it", COMMAND, (), CALLS)) as ledger:
        with client(api.url).messages.stream(**body()) as stream:
            assert stream.get_final_text() == LONG
        for event in client(api.url).messages.create(**body("Bye"), stream=True):
            assert event.type
    assert ledger.called("test_it").half_read == []
    assert len(ledger.interactions()) == 2


def test_an_agent_that_is_cancelled_does_not_wait_for_the_rest(server: Withholding) -> None:
    async def cancelled() -> None:
        agent = anthropic.AsyncAnthropic(base_url=server.api.url, api_key="sk-ant-test", max_retries=0)
        begun = asyncio.Event()

        async def read() -> None:
            async with agent.messages.stream(**body(), timeout=PATIENCE) as stream:
                async for _ in stream:
                    begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await agent.close()

    with running(Ledger("test_it", COMMAND, (), CALLS)) as ledger:
        asyncio.run(cancelled())
    server.seen.set()
    assert ledger.called("test_it").abandoned
    assert not ledger.called("test_it").unanswered


SUITE = """
import os

import httpx2
import pytest


@pytest.mark.token_budget
def test_stream():
    body = {"model": "claude-haiku-4-5", "max_tokens": 100, "stream": True}
    body["messages"] = [{"role": "user", "content": "Hello"}]
    url = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com")
    headers = {"x-api-key": "sk-ant-test"}
    with httpx2.stream("POST", f"{url}/v1/messages", json=body, headers=headers, timeout=600) as answer:
        for _ in answer.iter_raw():
            httpx2.seen.set()
"""


@pytest.mark.parametrize("mode", ["--token-budget-record=all", "--token-budget-live"])
def test_runs_do_not_hold_a_stream_back(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, mode: str, server: Withholding
) -> None:
    (tmp_path / "test_it.py").write_text(SUITE, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    monkeypatch.setattr(httpx2, "seen", server.seen, raising=False)
    done = Project(tmp_path, pytester).run(mode, url=server.api.url)
    assert "paid: 1 real call, $0.0" in done.output, done.output
