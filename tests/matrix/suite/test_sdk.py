"""The SDK in every way that it is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import pytest
from asking import CHANGED, COMPRESSING_URL, KEY, URL, Row, echo, text

pytestmark = pytest.mark.token_budget
BEFORE = anthropic.Anthropic(base_url=URL, api_key=KEY)
LONG = "Rule {}: answer in the order in which things were asked, and name the parcel by its number. "


def sync(url: str = URL, **more: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=KEY, **more)


def asynchronous(url: str = URL, **more: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=url, api_key=KEY, **more)


def test_create(row: Row) -> None:
    with sync() as client:
        assert text(client.messages.create(**row.request())) == echo()


def test_create_async(row: Row) -> None:
    async def ask() -> None:
        async with asynchronous() as client:
            assert text(await client.messages.create(**row.request())) == echo()

    asyncio.run(ask())


def test_create_stream(row: Row) -> None:
    with sync() as client:
        events = list(client.messages.create(**row.request(), stream=True))
    assert events[-1].type == "message_stop"


def test_create_stream_async(row: Row) -> None:
    async def ask() -> None:
        async with asynchronous() as client:
            events = [event async for event in await client.messages.create(**row.request(), stream=True)]
        assert events[-1].type == "message_stop"

    asyncio.run(ask())


def test_stream(row: Row) -> None:
    with sync() as client, client.messages.stream(**row.request()) as stream:
        assert "".join(stream.text_stream) == echo()


def test_stream_async(row: Row) -> None:
    async def ask() -> None:
        async with asynchronous() as client, client.messages.stream(**row.request()) as stream:
            assert text(await stream.get_final_message()) == echo()

    asyncio.run(ask())


def test_stream_left_early(row: Row) -> None:
    with sync() as client, client.messages.stream(**row.request()) as stream:
        assert next(iter(stream.text_stream))


def test_stream_left_early_async(row: Row) -> None:
    async def ask() -> None:
        async with asynchronous() as client, client.messages.stream(**row.request()) as stream:
            async for _ in stream.text_stream:
                break

    asyncio.run(ask())


def test_raw_response(row: Row) -> None:
    with sync() as client:
        answer = client.messages.with_raw_response.create(**row.request())
    assert answer.headers["content-type"] == "application/json"
    assert text(answer.parse()) == echo()


def test_raw_response_async(row: Row) -> None:
    async def ask() -> None:
        async with asynchronous() as client:
            answer = await client.messages.with_raw_response.create(**row.request())
            parsed = answer.parse()
            assert text(await parsed if asyncio.iscoroutine(parsed) else parsed) == echo()

    asyncio.run(ask())


def test_streaming_response(row: Row) -> None:
    with sync() as client, client.messages.with_streaming_response.create(**row.request()) as answer:
        assert echo() in "".join(answer.iter_lines())


def test_streaming_response_async(row: Row) -> None:
    async def ask() -> None:
        async with (
            asynchronous() as client,
            client.messages.with_streaming_response.create(**row.request()) as answer,
        ):
            assert text(await answer.parse()) == echo()

    asyncio.run(ask())


def test_beta(row: Row) -> None:
    with sync() as client:
        answer = client.beta.messages.create(**row.request(), betas=["interleaved-thinking-2025-05-14"])
        assert text(answer) == echo()
        with client.beta.messages.stream(**row.request("Bye")) as stream:
            assert text(stream.get_final_message()) == echo("Bye")


def test_tool_runner(row: Row) -> None:
    """Two turns; the second reads from the cache what the first wrote."""

    @anthropic.beta_tool
    def look_up(order: int) -> str:
        """Look an order up.

        Args:
            order: Its number.
        """
        return f"Order {order} left on Monday."

    rules = row.system + "".join(LONG.format(number) for number in range(70))
    system = [{"type": "text", "text": rules, "cache_control": {"type": "ephemeral"}}]
    request = row.request(model="claude-sonnet-4-5", system=system)
    with sync() as client:
        answer = client.beta.messages.tool_runner(**request, tools=[look_up]).until_done()
    assert text(answer) == "It left on Monday."


def test_tool_runner_async(row: Row) -> None:
    @anthropic.beta_async_tool
    async def look_up(order: int) -> str:
        """Look an order up.

        Args:
            order: Its number.
        """
        return f"Order {order} left on Monday."

    async def ask() -> None:
        async with asynchronous() as client:
            runner = client.beta.messages.tool_runner(**row.request(), tools=[look_up])
            assert text(await runner.until_done()) == "It left on Monday."

    asyncio.run(ask())


def test_message_thread(row: Row) -> None:
    """The second request holds the second question alone; the API keeps the system prompt and the first."""
    request = row.request()
    with sync() as client:
        if not hasattr(client.beta.messages, "thread"):
            pytest.skip("this SDK has no message threads")
        thread = client.beta.messages.thread(**request)
        assert text(thread.send()) == echo()
        with thread.stream({"role": "user", "content": "Bye"}) as stream:
            assert text(stream.get_final_message()) == echo("Bye")
        assert len(thread.messages) == 4


def test_count_tokens(row: Row) -> None:
    """Free: only the message that follows is billed."""
    request = row.request()
    del request["max_tokens"]
    with sync() as client:
        assert client.messages.count_tokens(**request).input_tokens > 20
        assert client.beta.messages.count_tokens(**request).input_tokens > 20
        assert text(client.messages.create(**row.request())) == echo()


def test_retry(row: Row, patience: list[float]) -> None:
    """Only the second attempt is billed, and in replay nobody sleeps."""
    with sync() as client:
        answer = client.messages.create(**row.request(), extra_headers={"x-test-fault": "529"})
    assert text(answer) == echo()


def test_retry_stream(row: Row, patience: list[float]) -> None:
    headers = {"x-test-fault": "429"}
    with sync() as client, client.messages.stream(**row.request(), extra_headers=headers) as stream:
        assert text(stream.get_final_message()) == echo()


def test_retry_async(row: Row, patience: list[float]) -> None:
    async def ask() -> None:
        async with asynchronous() as client:
            answer = await client.messages.create(**row.request(), extra_headers={"x-test-fault": "529"})
            assert text(answer) == echo()

    asyncio.run(ask())


def test_retry_stream_async(row: Row, patience: list[float]) -> None:
    async def ask() -> None:
        headers = {"x-test-fault": "429"}
        async with (
            asynchronous() as client,
            client.messages.stream(**row.request(), extra_headers=headers) as stream,
        ):
            assert text(await stream.get_final_message()) == echo()

    asyncio.run(ask())


def test_json_then_stream(row: Row) -> None:
    """Recorded as JSON; the changed agent streams."""
    with sync() as client:
        if CHANGED:
            with client.messages.stream(**row.request()) as stream:
                assert text(stream.get_final_message()) == echo()
        else:
            assert text(client.messages.create(**row.request())) == echo()


def test_stream_then_json(row: Row) -> None:
    """Recorded as a stream; the changed agent does not stream. The answer is a tool call."""
    tool: Any = {"name": "look_up", "description": "Look an order up.", "input_schema": {"type": "object"}}
    with sync() as client:
        if CHANGED:
            answer = client.messages.create(**row.request(), tools=[tool])
        else:
            with client.messages.stream(**row.request(), tools=[tool]) as stream:
                answer = stream.get_final_message()
    said, use = answer.content
    assert (said.text, use.name, use.input, answer.stop_reason) == (
        "Let me see.",
        "look_up",
        {"order": 17},
        "tool_use",
    )


@pytest.fixture(scope="module")
def module_client() -> Iterator[anthropic.Anthropic]:
    with sync() as client:
        yield client


@pytest.fixture(scope="session")
def session_client() -> Iterator[anthropic.Anthropic]:
    with sync() as client:
        yield client


def test_client_made_at_import(row: Row) -> None:
    assert text(BEFORE.messages.create(**row.request())) == echo()


def test_client_of_module_scope(row: Row, module_client: anthropic.Anthropic) -> None:
    assert text(module_client.messages.create(**row.request())) == echo()


def test_client_of_session_scope(row: Row, session_client: anthropic.Anthropic) -> None:
    with session_client.messages.stream(**row.request()) as stream:
        assert text(stream.get_final_message()) == echo()


def test_client_over_several_event_loops(row: Row) -> None:
    client = asynchronous(default_headers={"connection": "close"})  # live, a connection dies with its loop

    async def ask(words: str) -> None:
        assert text(await client.messages.create(**row.request(words))) == echo(words)

    for words in ("One", "Two", "Three"):
        asyncio.run(ask(words))


def test_gather(row: Row) -> None:
    async def ask(client: anthropic.AsyncAnthropic, words: str) -> None:
        assert text(await client.messages.create(**row.request(words))) == echo(words)

    async def all_of_them() -> None:
        async with asynchronous() as client:
            await asyncio.gather(*(ask(client, words) for words in ("One", "Two", "Three", "Four", "Five")))

    asyncio.run(all_of_them())


def test_threads(row: Row) -> None:
    def ask(words: str) -> str:
        return text(BEFORE.messages.create(**row.request(words)))

    words = [f"Letter {number}" for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, words)) == [echo(word) for word in words]


def test_thread_per_client(row: Row) -> None:
    def ask(words: str) -> str:
        with sync() as client, client.messages.stream(**row.request(words)) as stream:
            return text(stream.get_final_message())

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, ["One", "Two"])) == [echo("One"), echo("Two")]


@pytest.fixture(params=["gzip", "deflate"])
def coding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_compressed(row: Row, coding: str) -> None:
    with sync(COMPRESSING_URL, default_headers={"accept-encoding": coding}) as client:
        assert text(client.messages.create(**row.request())) == echo()
        with client.messages.stream(**row.request("Bye")) as stream:
            assert text(stream.get_final_message()) == echo("Bye")


def test_over_aiohttp(row: Row) -> None:
    """`pip install anthropic[aiohttp]`"""
    pytest.importorskip("aiohttp")
    make: Callable[[], Any] = pytest.importorskip("anthropic").DefaultAioHttpClient

    async def ask() -> None:
        async with asynchronous(http_client=make()) as client:
            assert text(await client.messages.create(**row.request())) == echo()
            async with client.messages.stream(**row.request("Bye")) as stream:
                assert text(await stream.get_final_message()) == echo("Bye")

    asyncio.run(ask())
