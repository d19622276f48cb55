"""HTTP without an SDK."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import pytest
from asking import KEY, URL, Row, deltas, echo, host, text

pytestmark = pytest.mark.token_budget
HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
MESSAGES = f"{URL}/v1/messages"


def check(answer: Any, lines: list[str]) -> None:
    assert text(answer) == echo()
    assert deltas(lines) == echo("Bye")


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
def test_httpx(row: Row, name: str) -> None:
    httpx = pytest.importorskip(name)
    with httpx.Client(headers=HEADERS, timeout=600) as client:
        answer = client.post(MESSAGES, json=row.request()).json()
        with client.stream("POST", MESSAGES, json=row.request("Bye", stream=True)) as stream:
            check(answer, list(stream.iter_lines()))


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
def test_httpx_async(row: Row, name: str) -> None:
    httpx = pytest.importorskip(name)

    async def ask() -> None:
        async with httpx.AsyncClient(headers=HEADERS, timeout=600) as client:
            answer = (await client.post(MESSAGES, json=row.request())).json()
            async with client.stream("POST", MESSAGES, json=row.request("Bye", stream=True)) as stream:
                check(answer, [line async for line in stream.aiter_lines()])

    asyncio.run(ask())


def test_requests(row: Row) -> None:
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        session.headers.update(HEADERS)
        answer = session.post(MESSAGES, json=row.request()).json()
        with session.post(MESSAGES, json=row.request("Bye", stream=True), stream=True) as stream:
            check(answer, [line.decode() for line in stream.iter_lines()])


def test_urllib3(row: Row) -> None:
    urllib3 = pytest.importorskip("urllib3")
    with urllib3.PoolManager(headers=HEADERS) as pool:
        answer = pool.request("POST", MESSAGES, json=row.request(), headers=HEADERS)
        stream = pool.request("POST", MESSAGES, json=row.request("Bye", stream=True), headers=HEADERS)
        check(json.loads(answer.data), stream.data.decode().splitlines())


def test_aiohttp(row: Row) -> None:
    aiohttp = pytest.importorskip("aiohttp")

    async def ask() -> None:
        async with aiohttp.ClientSession(headers=HEADERS) as session:
            async with session.post(MESSAGES, json=row.request()) as response:
                answer = await response.json()
            async with session.post(MESSAGES, json=row.request("Bye", stream=True)) as stream:
                check(answer, [line.decode().rstrip() async for line in stream.content])

    asyncio.run(ask())


def test_urllib(row: Row) -> None:
    def ask(**more: Any) -> bytes:
        body = json.dumps(row.request(**more)).encode()
        headers = {**HEADERS, "content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(MESSAGES, body, headers)) as answer:
            return answer.read()

    check(json.loads(ask()), ask(words="Bye", stream=True).decode().splitlines())


def test_gateway(row: Row) -> None:
    """Another host, and a path in front of the API's."""
    requests = pytest.importorskip("requests")
    url = f"{host('gateway.example')}/team-a/anthropic/v1/messages"
    assert text(requests.post(url, json=row.request(), headers=HEADERS).json()) == echo()
