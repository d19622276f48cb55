"""Agents that cancel: what was left before its answer is recorded as that, and replayed the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent import futures
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import anthropic
import anyio
import httpx2
import pytest
import requests
import trio
import urllib3

from pytest_tokenbudget.errors import ReplayMiss
from pytest_tokenbudget.replay import playback
from pytest_tokenbudget.replay.playback import Ledger
from pytest_tokenbudget.replay.traffic import Left, Traffic, how_left, left_answer
from support.clients import CALLS, COMMAND, MODEL, is_faithful, replaying, running
from support.messages_api import MessagesApi

SLOW = "Think long."
ASKED: Any = {"model": MODEL, "max_tokens": 64}


@pytest.fixture
def slow_api() -> Iterator[MessagesApi]:
    """A server that answers everything but what begins with `SLOW`, until the test is over."""
    over = threading.Event()

    def script(asked: Any) -> str:
        if str(asked["messages"][0]["content"]).startswith(SLOW):
            assert over.wait(600)
        return f"You said: {asked['messages'][0]['content']}"

    with MessagesApi(script) as server:
        yield server
        over.set()


class Asking:
    """A client that tells when a request is on its way."""

    def __init__(self, client: anthropic.AsyncAnthropic) -> None:
        self._client = client

    @classmethod
    async def on(cls, url: str, sent: asyncio.Event, stack: AsyncExitStack) -> Asking:
        async def note(_: httpx2.Request) -> None:
            sent.set()

        http = httpx2.AsyncClient(event_hooks={"request": [note]})
        client = anthropic.AsyncAnthropic(
            base_url=url, api_key="sk-ant-test", max_retries=0, http_client=http
        )
        return cls(await stack.enter_async_context(client))

    async def read(self, words: str, seen: asyncio.Event) -> None:
        """Read a stream, and stop at its first event until the task is cancelled."""
        said: Any = [{"role": "user", "content": words}]
        async with self._client.messages.stream(model=MODEL, max_tokens=64, messages=said) as stream:
            async for _ in stream:
                seen.set()
                await asyncio.Event().wait()

    async def __call__(self, words: str) -> str:
        message = {"role": "user", "content": words}
        answer = await self._client.messages.create(model=MODEL, max_tokens=64, messages=[message])  # type: ignore[list-item]
        return str(getattr(answer.content[0], "text", ""))


Agent = Callable[[Asking, asyncio.Event], Awaitable[list[str]]]


async def hedged(ask: Asking, sent: asyncio.Event) -> list[str]:
    """Two calls at once: the first answer wins, the other call is cancelled."""
    slow = asyncio.create_task(ask(SLOW))
    await sent.wait()
    fast = asyncio.create_task(ask("Hello"))
    done, pending = await asyncio.wait({slow, fast}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return [task.result() for task in done]


async def hedged_with_the_same(ask: Asking, sent: asyncio.Event) -> list[str]:
    """The same call is sent again while the first one hangs, and the second one hangs as well."""
    first = asyncio.create_task(ask(SLOW))
    await sent.wait()
    sent.clear()
    second = asyncio.create_task(ask(SLOW))
    await sent.wait()
    for task in (first, second):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    return [await ask("Hello")]


async def with_a_fallback(ask: Asking, sent: asyncio.Event) -> list[str]:
    """What `wait_for` does, without a clock: time is up as soon as the request is sent."""
    try:
        async with asyncio.timeout(None) as limit:
            call = asyncio.create_task(ask(SLOW))
            await sent.wait()
            limit.reschedule(asyncio.get_running_loop().time())
            await call
    except TimeoutError:
        return [await ask("Be quick.")]
    raise AssertionError("the slow call was answered")


async def in_a_task_group(ask: Asking, sent: asyncio.Event) -> list[str]:
    """A sibling fails, so that the group cancels the call."""

    async def fail() -> None:
        await sent.wait()
        raise LookupError("no such parcel")

    heard = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(ask(SLOW))
            group.create_task(fail())
    except* LookupError:
        heard.append(await ask("What then?"))
    return heard


AGENTS = [hedged, hedged_with_the_same, with_a_fallback, in_a_task_group]


def run(agent: Agent, url: str) -> list[str]:
    async def main() -> list[str]:
        sent = asyncio.Event()
        async with AsyncExitStack() as stack:
            return await agent(await Asking.on(url, sent, stack), sent)

    return asyncio.run(main())


@pytest.mark.parametrize("agent", AGENTS)
def test_cancelled_calls_are_recorded_and_replayed_as_they_were(slow_api: MessagesApi, agent: Agent) -> None:
    with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
        heard = run(agent, slow_api.url)
    interactions = recording.interactions()
    left = [how_left(answer) for _, answer in interactions]
    assert {how for how, _ in filter(None, left)} == {Left.CANCELLED}
    assert len(left) == len(heard) + sum(one is not None for one in left)
    assert recording.called("test_it").abandoned == [
        f'POST /v1/messages ({MODEL}): "{SLOW}" was cancelled by the agent'
    ]
    assert not recording.called("test_it").failed

    with replaying(interactions) as ledger:
        assert run(agent, slow_api.url) == heard
    assert not ledger.problems
    assert not ledger.recording.misses
    assert not ledger.recording.unplayed
    billed = [pair for pair in ledger.recording.pairs if pair.answer.billed]
    assert len(ledger.recording.pairs) == len(interactions)
    assert len(billed) == len(heard), "what was left is no turn"


class Waiting:
    """A client of a task of trio, or of anyio on it, that tells when a request is on its way."""

    def __init__(self, url: str) -> None:
        self.sent = trio.Event()

        async def note(_: httpx2.Request) -> None:
            self.sent.set()

        self.client = httpx2.AsyncClient(base_url=url, event_hooks={"request": [note]})

    async def ask(self, words: str) -> str:
        body = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": words}]}
        answer = await self.client.post("/v1/messages", json=body, headers={"x-api-key": "sk-ant-test"})
        return str(answer.json()["content"][0]["text"])

    async def read(self, words: str, seen: trio.Event) -> None:
        """Read a stream, and stop at its first line until the task is cancelled."""
        body = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": words}]}
        headers = {"x-api-key": "sk-ant-test"}
        stream = self.client.stream("POST", "/v1/messages", json={**body, "stream": True}, headers=headers)
        async with stream as answer:
            async for _ in answer.aiter_lines():
                seen.set()
                await trio.sleep_forever()


async def moved_on(waiting: Waiting, _: bool) -> list[str]:
    """What `trio.move_on_after` does, without a clock: time is up as soon as the request is sent."""
    async with trio.open_nursery() as nursery:

        async def slow() -> None:
            with scope:
                await waiting.ask(SLOW)

        scope = trio.CancelScope()
        nursery.start_soon(slow)
        await waiting.sent.wait()
        scope.cancel()
    assert scope.cancelled_caught
    return [await waiting.ask("Be quick.")]


async def hedged_in_a_group(waiting: Waiting, _: bool) -> list[str]:
    """anyio's task group on trio: the first answer cancels the other call."""
    heard = []
    async with anyio.create_task_group() as group:
        group.start_soon(waiting.ask, SLOW)
        await waiting.sent.wait()
        heard.append(await waiting.ask("Hello"))
        group.cancel_scope.cancel()
    return heard


async def left_while_read(waiting: Waiting, replays: bool) -> list[str]:
    """A stream is cancelled at its first line; in replay nothing of it comes."""
    seen = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.read, "Hello", seen)
        await (waiting.sent if replays else seen).wait()
        nursery.cancel_scope.cancel()
    return [await waiting.ask("Bye")]


@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator")  # of httpx2, on trio
@pytest.mark.parametrize("agent", [moved_on, hedged_in_a_group, left_while_read])
def test_cancelled_calls_on_trio_are_recorded_and_replayed_as_they_were(
    slow_api: MessagesApi, agent: Callable[[Waiting, bool], Awaitable[list[str]]]
) -> None:
    async def main(replays: bool) -> list[str]:
        waiting = Waiting(slow_api.url)
        async with waiting.client:
            return await agent(waiting, replays)

    with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
        heard = trio.run(main, False)
    interactions = recording.interactions()
    left = [how_left(answer) for _, answer in interactions]
    assert [one and one[0] for one in left] == [Left.CANCELLED, None]
    assert len(recording.called("test_it").abandoned) == 1
    with replaying(interactions) as ledger:
        assert trio.run(main, True) == heard
    assert not ledger.problems
    assert not ledger.recording.misses
    assert sum(pair.answer.billed for pair in ledger.recording.pairs) == 1


def test_what_was_left_on_trio_and_is_waited_for_now_fails(
    slow_api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playback, "PATIENCE", 0.0)

    async def main(is_patient: bool) -> None:
        waiting = Waiting(slow_api.url)
        async with waiting.client:
            await (waiting.ask(SLOW) if is_patient else moved_on(waiting, False))

    with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
        trio.run(main, False)
    told = pytest.raises(ReplayMiss, match="was cancelled by the agent when it was recorded")
    with replaying(recording.interactions()), told:
        trio.run(main, True)


def test_a_stream_that_is_cancelled_while_it_is_read_is_left_too(slow_api: MessagesApi) -> None:
    """What it had told by then is no answer. In replay nothing of it comes."""

    async def agent(ask: Asking, sent: asyncio.Event) -> list[str]:
        seen = asyncio.Event()
        reading = asyncio.create_task(ask.read("Hello", seen))
        await (sent if replay else seen).wait()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        return [await ask("Bye")]

    replay = False
    with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
        heard = run(agent, slow_api.url)
    interactions = recording.interactions()
    assert [how_left(answer) is not None for _, answer in interactions] == [True, False]
    assert len(recording.called("test_it").abandoned) == 1
    replay = True
    with replaying(interactions) as ledger:
        assert run(agent, slow_api.url) == heard
    assert not ledger.problems
    assert sum(pair.answer.billed for pair in ledger.recording.pairs) == 1


def test_a_hedged_call_of_the_same_prompt_that_came_through_is_kept_beside_the_one_that_was_left() -> None:
    """Both ask the same: whoever waits for the first answer needs the second call in replay, too."""
    over, asked = threading.Event(), []

    def script(sent: Any) -> str:
        asked.append(sent)
        if len(asked) == 1:
            assert over.wait(600)
        return "Hello"

    async def agent(ask: Asking, sent: asyncio.Event) -> list[str]:
        first = asyncio.create_task(ask("Hello"))
        while not (sent.is_set() and (asked or replay)):
            await asyncio.sleep(0)
        second = asyncio.create_task(ask("Hello"))
        done, pending = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return [task.result() for task in done]

    replay = False
    with MessagesApi(script) as api:
        with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
            assert run(agent, api.url) == ["Hello"]
        over.set()
        interactions = recording.interactions()
        assert [how_left(answer) is not None for _, answer in interactions] == [True, False]
        assert not recording.called("test_it").asked_again
        replay = True
        with replaying(interactions) as ledger:
            assert run(agent, api.url) == ["Hello"]
    assert len(asked) == 2, "nothing was sent in replay"
    assert not ledger.recording.misses
    assert sum(pair.answer.billed for pair in ledger.recording.pairs) == 1


def test_a_cancelled_call_of_aiohttp_is_recorded_and_replayed_as_it_was() -> None:
    over, asked = threading.Event(), threading.Event()

    def script(sent: Any) -> str:
        asked.set()
        assert sent["messages"][0]["content"] != SLOW or over.wait(600)
        return "Hello"

    async def ask(session: aiohttp.ClientSession, url: str, words: str) -> str:
        body = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": words}]}
        async with session.post(
            f"{url}/v1/messages", json=body, headers={"x-api-key": "sk-ant-test"}
        ) as answer:
            return str((await answer.json())["content"][0]["text"])

    async def agent(url: str, has_begun: Callable[[], bool]) -> str:
        async with aiohttp.ClientSession() as session:
            slow = asyncio.create_task(ask(session, url, SLOW))
            while not has_begun():
                await asyncio.sleep(0)
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
            return await ask(session, url, "Hello")

    with MessagesApi(script) as api:
        with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
            assert asyncio.run(agent(api.url, asked.is_set)) == "Hello"
        over.set()
    interactions = recording.interactions()
    assert [how_left(answer) and how_left(answer)[0] for _, answer in interactions] == [Left.CANCELLED, None]  # type: ignore[index]
    with replaying(interactions) as ledger:
        assert asyncio.run(agent(api.url, lambda: bool(ledger.recording.pairs))) == "Hello"
    assert not ledger.problems
    assert not ledger.recording.misses
    assert sum(pair.answer.billed for pair in ledger.recording.pairs) == 1


@pytest.mark.parametrize("library", [httpx2, aiohttp])
def test_a_call_whose_client_the_agent_closes_is_left_too(slow_api: MessagesApi, library: Any) -> None:
    """What `gather` leaves running when another call raises: the client's own block ends before it does."""

    async def post(client: Any, words: str) -> Any:
        body = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": words}]}
        asked = client.post(f"{slow_api.url}/v1/messages", json=body, headers={"x-api-key": "sk-ant-test"})
        if library is httpx2:
            return (await asked).json()
        async with asked as answer:
            return await answer.json()

    async def agent(has_begun: Callable[[], bool]) -> str:
        async with library.AsyncClient() if library is httpx2 else library.ClientSession() as client:
            slow = asyncio.create_task(post(client, SLOW))
            while not has_begun():
                await asyncio.sleep(0)
            heard = await post(client, "Hello")
        await asyncio.sleep(0)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        return str(heard["content"][0]["text"])

    with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
        heard = asyncio.run(agent(lambda: bool(slow_api.requests)))
    interactions = recording.interactions()
    left = [how_left(answer) for _, answer in interactions]
    assert [one and one[0] for one in left] == [Left.CANCELLED, None]
    with replaying(interactions) as ledger:
        assert asyncio.run(agent(lambda: bool(ledger.recording.pairs))) == heard
    assert is_faithful(ledger)


def times_out(url: str, seconds: float, sent: Mapping[str, Any]) -> None:
    """Ask by the SDK, and read the answer to its end."""
    with anthropic.Anthropic(base_url=url, api_key="sk-ant-test", max_retries=0, timeout=seconds) as client:
        list(client.messages.create(**sent))


def times_out_async(url: str, seconds: float, sent: Mapping[str, Any]) -> None:
    given: Any = {"base_url": url, "api_key": "sk-ant-test", "max_retries": 0, "timeout": seconds}

    async def main() -> None:
        async with anthropic.AsyncAnthropic(**given) as client:
            answer = await client.messages.create(**sent)
            if sent.get("stream"):
                assert [event async for event in answer]

    asyncio.run(main())


def times_out_requests(url: str, seconds: float, sent: Mapping[str, Any]) -> None:
    asked: Any = {"headers": {"x-api-key": "sk-ant-test"}, "timeout": seconds}
    with requests.post(f"{url}/v1/messages", json=sent, **asked, stream=sent.get("stream")) as answer:
        list(answer.iter_lines())


def times_out_urllib3(url: str, seconds: float, sent: Mapping[str, Any]) -> None:
    given: Any = {"headers": {"x-api-key": "sk-ant-test"}, "retries": False, "preload_content": False}
    with urllib3.PoolManager(timeout=seconds) as pool:
        list(pool.request("POST", f"{url}/v1/messages", json=sent, **given).stream())


def times_out_urllib(url: str, seconds: float, sent: Mapping[str, Any]) -> None:
    headers = {"x-api-key": "sk-ant-test", "content-type": "application/json"}
    asked = urllib.request.Request(f"{url}/v1/messages", json.dumps(sent).encode(), headers)
    with urllib.request.urlopen(asked, timeout=seconds) as answer:
        list(answer)


def times_out_aiohttp(url: str, seconds: float, sent: Mapping[str, Any]) -> None:
    async def main() -> None:
        asked: Any = {"json": sent, "headers": {"x-api-key": "sk-ant-test"}}
        limit = aiohttp.ClientTimeout(total=seconds)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(f"{url}/v1/messages", **asked) as answer,
        ):
            await answer.read()

    asyncio.run(main())


TIMEOUTS: Any = {
    times_out: (anthropic.APITimeoutError, httpx2.ReadTimeout),  # the latter: while a stream is read
    times_out_async: (anthropic.APITimeoutError, httpx2.ReadTimeout),
    times_out_requests: (requests.Timeout, requests.ConnectionError),
    times_out_urllib3: urllib3.exceptions.TimeoutError,
    times_out_urllib: TimeoutError,
    times_out_aiohttp: TimeoutError,
}
"""Clients, and what they raise when their time is up."""


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("ask", TIMEOUTS)
def test_a_timeout_of_the_client_is_recorded_and_replayed_at_once(
    slow_api: MessagesApi, ask: Callable[[str, float, Mapping[str, Any]], None], is_stream: bool
) -> None:
    """Also one that comes in the middle of a stream: what had come by then is no answer."""
    words = "Hello" if is_stream else SLOW
    sent = {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": words}]}
    asked = {**sent, "stream": True} if is_stream else sent
    over = threading.Event()
    slow_api.before_event = lambda _: over.wait(600)
    with running(Ledger("test_it", COMMAND, (), CALLS)) as recording, contextlib.ExitStack() as stack:
        stack.callback(over.set)
        with pytest.raises(TIMEOUTS[ask]):
            ask(slow_api.url, 0.2, asked)
    interactions = recording.interactions()
    ((how, _),) = [left for _, answer in interactions if (left := how_left(answer))]
    assert how is Left.TIMED_OUT
    with replaying(interactions) as ledger, pytest.raises(TIMEOUTS[ask]):  # at once, whatever it is now
        ask(slow_api.url, 600, asked)
    assert not ledger.problems
    assert not ledger.recording.misses


def hedged_in_threads(url: str, has_begun: Callable[[], bool]) -> str:
    """The sync SDK in a pool: the first answer wins, and nobody waits for the thread of the other call."""
    with anthropic.Anthropic(base_url=url, api_key="sk-ant-test", max_retries=0) as client:

        def ask(words: str) -> str:
            said: Any = [{"role": "user", "content": words}]
            return str(getattr(client.messages.create(**ASKED, messages=said).content[0], "text", ""))

        pool = futures.ThreadPoolExecutor(2)
        slow = pool.submit(ask, SLOW)
        while not has_begun():
            assert not slow.done()
        heard = pool.submit(ask, "Hello").result()
        assert not slow.done()
        pool.shutdown(wait=False)
    return heard


def test_a_call_that_is_under_way_in_a_thread_when_the_test_ends_is_recorded_and_replayed_as_that(
    slow_api: MessagesApi,
) -> None:
    with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
        heard = hedged_in_threads(slow_api.url, lambda: bool(slow_api.requests))
    interactions = recording.interactions()
    assert [left and left[0] for _, answer in interactions for left in [how_left(answer)]] == [
        Left.OUTLIVED,
        None,
    ]
    assert recording.called("test_it").abandoned == [
        f'POST /v1/messages ({MODEL}): "{SLOW}" was under way when the test ended'
    ]
    with replaying(interactions) as ledger:
        assert hedged_in_threads(slow_api.url, lambda: bool(ledger.recording.pairs)) == heard
    assert not ledger.problems
    assert not ledger.recording.misses
    assert sum(pair.answer.billed for pair in ledger.recording.pairs) == 1
    assert len(ledger.threads) == 1, "in replay the slow one ends with the test"


def test_a_call_of_a_thread_that_is_waited_for_now_fails_and_says_so(
    slow_api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playback, "PATIENCE", 0.0)
    with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
        hedged_in_threads(slow_api.url, lambda: bool(slow_api.requests))
    interactions = recording.interactions()
    interactions[0] = (interactions[0][0], left_answer(Left.OUTLIVED, 0))
    said: Any = [{"role": "user", "content": SLOW}]
    with (
        replaying(interactions) as ledger,
        anthropic.Anthropic(base_url=slow_api.url, api_key="sk-ant-test") as client,
        pytest.raises(ReplayMiss, match="under way when the test ended when it was recorded"),
    ):
        client.messages.create(**ASKED, messages=said)
    assert len(ledger.problems) == 1


def test_what_was_left_and_is_waited_for_now_fails_and_says_so(
    slow_api: MessagesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playback, "PATIENCE", 0.0)
    with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
        run(with_a_fallback, slow_api.url)

    async def patient(ask: Asking, _: asyncio.Event) -> list[str]:
        return [await ask(SLOW)]

    with (
        replaying(recording.interactions()) as ledger,
        pytest.raises(
            ReplayMiss, match="was cancelled by the agent when it was recorded, and the agent waits"
        ),
    ):
        run(patient, slow_api.url)
    assert len(ledger.problems) == 1


def test_what_was_left_survives_the_file(slow_api: MessagesApi, tmp_path: Any) -> None:
    from pytest_tokenbudget.replay.cassette_file import read_cassette, write_cassette

    with running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
        run(hedged, slow_api.url)
    path = tmp_path / "test_it.yaml"
    write_cassette(path, recording.interactions())
    exchanges = Traffic(read_cassette(path)).exchanges
    assert [exchange.answer.status for exchange in exchanges] == [499, 200]
    assert [how_left(answer) is not None for _, answer in read_cassette(path)] == [True, False]
