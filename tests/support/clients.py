"""Real clients, and what a metered test is to vcr: shared by the tests of replay and recording."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import aiohttp
import anthropic
import httpx
import httpx2
import requests
import urllib3

from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.playback import Ledger, Ledgers, Rules
from pytest_tokenbudget.replay.vcr_bridge import route
from support.blocks import body, text
from support.messages_api import tool_use

MODEL = "claude-haiku-4-5"
COMMAND = "pytest test_it.py::test_it --token-budget-record=changed"
CALLS = Rules(calls=True)


def script(body: Mapping[str, Any]) -> Any:
    """Looks an order up once, then answers; repeats what is said to it otherwise."""
    last = body["messages"][-1]["content"]
    if body.get("tools") and isinstance(last, str):
        return [text("Let me see."), tool_use("look_up", order=17)]
    return f"You said: {last}" if isinstance(last, str) else "It left on Monday."


@contextlib.contextmanager
def running(ledger: Ledger) -> Iterator[Ledger]:
    """What a metered test is to vcr."""
    ledgers = Ledgers()
    with route(ledgers), ledgers.using(ledger):
        yield ledger
        ledger.end()


def record(play: Callable[[], object], **rules: Any) -> list[Interaction]:
    with running(Ledger("test_it", COMMAND, (), replace(CALLS, **rules))) as ledger:
        play()
    return ledger.interactions()


def replay(interactions: Sequence[Interaction], play: Callable[[], object], **rules: Any) -> Ledger:
    with running(Ledger("test_it", COMMAND, interactions, Rules(**rules))) as ledger:
        play()
    return ledger


@contextlib.contextmanager
def replaying(interactions: Sequence[Interaction], **rules: Any) -> Iterator[Ledger]:
    with running(Ledger("test_it", COMMAND, interactions, Rules(**rules))) as ledger:
        yield ledger


def is_faithful(ledger: Ledger) -> bool:
    recording = ledger.recording
    return not (recording.misses or recording.unplayed or recording.reshaped or ledger.problems)


Say = Callable[[str, str, str], str]
"""Of a URL, a question and a system prompt: what was answered."""

TOOL: Any = {"name": "look_up", "description": "Look an order up.", "input_schema": {"type": "object"}}


def client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="sk-ant-test")


def sdk(url: str, words: str, system: str) -> str:
    with client(url) as sync:
        answer = sync.messages.create(**body(words, system=system))
    return answer.content[0].text


def sdk_stream(url: str, words: str, system: str) -> str:
    with client(url) as sync, sync.messages.stream(**body(words, system=system)) as stream:
        return "".join(stream.text_stream)


def sdk_events(url: str, words: str, system: str) -> str:
    with client(url) as sync:
        events = list(sync.messages.create(**body(words, system=system), stream=True))
    return "".join(event.delta.text for event in events if event.type == "content_block_delta")


def sdk_raw(url: str, words: str, system: str) -> str:
    with client(url) as sync:
        return sync.messages.with_raw_response.create(**body(words, system=system)).parse().content[0].text


def sdk_async(url: str, words: str, system: str) -> str:
    async def ask() -> str:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="sk-ant-test") as client:
            answer = await client.messages.create(**body(words, system=system))
            return answer.content[0].text

    return asyncio.run(ask())


def sdk_async_stream(url: str, words: str, system: str) -> str:
    async def ask() -> str:
        async with (
            anthropic.AsyncAnthropic(base_url=url, api_key="sk-ant-test") as client,
            client.messages.stream(**body(words, system=system)) as stream,
        ):
            return "".join([piece async for piece in stream.text_stream])

    return asyncio.run(ask())


def raw(post: Callable[..., Any]) -> Say:
    def ask(url: str, words: str, system: str) -> str:
        answer = post(
            f"{url}/v1/messages", json=body(words, system=system), headers={"x-api-key": "sk-ant-test"}
        )
        return answer.json()["content"][0]["text"]

    return ask


def over_aiohttp(url: str, words: str, system: str) -> str:
    async def ask() -> str:
        async with (
            aiohttp.ClientSession(headers={"x-api-key": "sk-ant-test"}) as session,
            session.post(f"{url}/v1/messages", json=body(words, system=system)) as answer,
        ):
            return (await answer.json())["content"][0]["text"]

    return asyncio.run(ask())


CLIENTS: dict[str, Say] = {
    "sdk": sdk,
    "sdk stream": sdk_stream,
    "sdk create(stream=True)": sdk_events,
    "sdk raw response": sdk_raw,
    "sdk async": sdk_async,
    "sdk async stream": sdk_async_stream,
    "httpx2": raw(httpx2.post),
    "httpx": raw(httpx.post),
    "requests": raw(requests.post),
    "aiohttp": over_aiohttp,
}


def agent(url: str, system: str = "Be brief.", **more: Any) -> Callable[[], str]:
    """Asks, looks up what it is asked to, and asks again."""

    def run() -> str:
        messages: list[Any] = [{"role": "user", "content": "Hello"}]
        with client(url) as sync:
            while True:
                answer = sync.messages.create(
                    **{**body(), "messages": messages, "tools": [TOOL], "system": system}, **more
                )
                messages.append({"role": "assistant", "content": answer.content})
                uses = [block for block in answer.content if block.type == "tool_use"]
                if not uses:
                    return str(answer.content[0].text)
                results = [{"type": "tool_result", "tool_use_id": use.id, "content": "Hello"} for use in uses]
                messages.append({"role": "user", "content": results})

    return run


HEADERS = {"x-api-key": "sk-ant-test", "content-type": "application/json"}


def by_requests(url: str, asked: Mapping[str, Any]) -> str:
    answer = requests.post(f"{url}/v1/messages", json=asked, headers=HEADERS, timeout=600)
    return str(answer.json()["content"][0]["text"])


def by_urllib3(url: str, asked: Mapping[str, Any]) -> str:
    with urllib3.PoolManager() as pool:
        answer = pool.request("POST", f"{url}/v1/messages", json=asked, headers=HEADERS, retries=False)
        return str(answer.json()["content"][0]["text"])


def by_urllib(url: str, asked: Mapping[str, Any]) -> str:
    sent = urllib.request.Request(f"{url}/v1/messages", json.dumps(asked).encode(), HEADERS)
    with urllib.request.urlopen(sent, timeout=600) as answer:
        return str(json.load(answer)["content"][0]["text"])
