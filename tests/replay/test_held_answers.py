"""Replay holds back an answer that the agent did not wait for, until it has asked what it asked meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import aiohttp
import anthropic
import httpx2
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_tokenbudget.replay import playback
from pytest_tokenbudget.replay.cassette_file import Interaction
from pytest_tokenbudget.replay.playback import Ledger
from pytest_tokenbudget.replay.proxy import ChildProxy
from pytest_tokenbudget.replay.traffic import Overtaken, overtaken
from support.blocks import body
from support.clients import (
    CALLS,
    COMMAND,
    HEADERS,
    by_requests,
    by_urllib,
    by_urllib3,
    is_faithful,
    replaying,
    running,
)
from support.messages_api import MessagesApi

SLOW = "Think long."

Span = tuple[int, int | None]
"""When a call was sent and when its answer came, in milliseconds; None if the agent has left it."""


def timed(interaction: Interaction, span: Span) -> Interaction:
    """The interaction as if it had been recorded at these times."""
    asked, answer = interaction
    times = {"started": span[0]} | ({} if span[1] is None else {"answered": span[1]})
    return asked, {**answer, "timing": times}


def recorded(*spans: Span) -> list[Interaction]:
    return [timed(({}, {}), span) for span in spans]


# --- which calls were overtaken ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spans", "held"),
    [
        ([(0, 8000), (2000, 5000)], {0: Overtaken(1, 2.0)}),  # a second call after two seconds
        ([(0, 8000), (2000, 5000), (5100, 9000)], {0: Overtaken(2, 2.0)}),  # and one with its answer
        ([(0, 8000), (2000, None), (3500, 9000)], {0: Overtaken(2, 2.0)}),  # which was left as well
        ([(0, 2000), (2000, 5000)], {}),  # one after the other
        ([(0, 5000), (40, 4000), (80, 6000)], {}),  # at once
        ([(0, 8000), (20, 2000), (2100, 3000)], {}),  # the third follows the second
        ([(0, None), (2000, 5000)], {}),  # left: there is no answer to hold back
        ([(0, 0), (0, 0)], {}),
        ([], {}),
    ],
)
def test_a_call_is_overtaken_where_the_agent_lost_its_patience(
    spans: Sequence[Span], held: dict[int, Overtaken]
) -> None:
    assert overtaken(recorded(*spans), range(len(spans))) == held


def test_calls_without_times_and_what_is_no_model_call_say_nothing() -> None:
    assert overtaken([({}, {}), *recorded((2000, 5000))], range(2)) == {}
    assert overtaken(recorded((0, 8000), (2000, 3000)), [0]) == {}


def naive(spans: Sequence[Span]) -> dict[int, int]:
    """The last call that each overtaken call was overtaken by, found by looking at all."""
    found = {}
    for number, (began, answered) in enumerate(spans):
        if answered is None or answered <= began:
            continue
        meanwhile = [other for other, _ in spans if began < other < answered]
        answers = [end for _, end in spans if end is not None and end > began]
        if any(other >= began + 100 and other < min(answers) for other in meanwhile):
            found[number] = max(meanwhile)
    return found


spans_of_calls = st.lists(
    st.tuples(st.integers(0, 60), st.none() | st.integers(0, 30)),
    max_size=8,
)


@example([(0, 8), (2, 3), (2, None), (5, 1)])
@given(spans_of_calls)
def test_what_is_overtaken_is_the_documented_rule(drawn: Sequence[tuple[int, int | None]]) -> None:
    spans = [(50 * began, None if took is None else 50 * (began + took)) for began, took in drawn]
    held = overtaken(recorded(*spans), range(len(spans)))
    assert {number: spans[call.last][0] for number, call in held.items()} == naive(spans)
    for number, call in held.items():
        assert timedelta(0) < timedelta(seconds=call.pause) <= timedelta(milliseconds=spans[call.last][0])
        assert spans[number][0] < spans[call.last][0]


# --- agents that go on without an answer ------------------------------------------------------------------


def by_sdk(url: str, asked: Any) -> str:
    with anthropic.Anthropic(base_url=url, api_key="sk-ant-test", max_retries=0) as client:
        return str(getattr(client.messages.create(**asked).content[0], "text", ""))


async def by_async_sdk(url: str, asked: Any) -> str:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="sk-ant-test", max_retries=0) as client:
        answer = await client.messages.create(**asked)
        return str(getattr(answer.content[0], "text", ""))


async def by_aiohttp(url: str, asked: Any) -> str:
    async with (
        aiohttp.ClientSession(headers=HEADERS) as session,
        session.post(f"{url}/v1/messages", json=asked) as answer,
    ):
        return str((await answer.json())["content"][0]["text"])


async def by_httpx(url: str, asked: Any) -> str:
    async with httpx2.AsyncClient(headers=HEADERS, timeout=None) as client:
        return str((await client.post(f"{url}/v1/messages", json=asked)).json()["content"][0]["text"])


class Race:
    """What an agent on `url` hears: it asks what is slow, goes on without its answer, and says who was first.

    `is_sent` tells whether the slow call is on its way: nobody waits for a clock.
    """

    def __init__(self, url: str, is_sent: Callable[[], bool]) -> None:
        self.url, self.is_sent = url, is_sent

    def in_threads(self, ask: Callable[[str, Any], str]) -> list[str]:
        with ThreadPoolExecutor() as pool:
            slow = pool.submit(ask, self.url, body(SLOW))
            while not self.is_sent():
                assert not (slow.done() and slow.exception())
            fast = ask(self.url, body("Be quick."))
            first = slow.result() if slow.done() else fast
            return [fast, ask(self.url, body(f"Is it right? {first}")), slow.result()]

    def in_tasks(self, ask: Callable[[str, Any], Any]) -> list[str]:
        async def main() -> list[str]:
            slow = asyncio.create_task(ask(self.url, body(SLOW)))
            while not self.is_sent():
                assert not (slow.done() and slow.exception())
                await asyncio.sleep(0.001)
            fast = await ask(self.url, body("Be quick."))
            first = slow.result() if slow.done() else fast
            return [fast, await ask(self.url, body(f"Is it right? {first}")), await slow]

        return asyncio.run(main())

    def on_trio(self, ask: Callable[[str, Any], Any]) -> list[str]:
        heard = list[str]()

        async def slow() -> None:
            heard.append(await ask(self.url, body(SLOW)))

        async def main() -> list[str]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(slow)
                while not self.is_sent():
                    await trio.sleep(0.001)
                fast = await ask(self.url, body("Be quick."))
                first = [*heard, fast][0]
                last = await ask(self.url, body(f"Is it right? {first}"))
            return [fast, last, *heard]

        return trio.run(main)


AGENTS = [
    (Race.in_threads, by_sdk),
    (Race.in_threads, by_requests),
    (Race.in_threads, by_urllib3),
    (Race.in_threads, by_urllib),
    (Race.in_tasks, by_async_sdk),
    (Race.in_tasks, by_aiohttp),
    (Race.on_trio, by_httpx),
]
SPANS = [(0, 8000), (2000, 5000), (5100, 7000)]
"""The slow call, the quick one that overtook it, and the one that followed on that."""


def record(
    agent: Callable[..., list[str]], ask: Callable[..., Any]
) -> tuple[list[str], list[Interaction], str]:
    """Record an agent whose slow call is answered when all else is; return what it heard, and the server."""
    last = threading.Event()

    def script(asked: Any) -> str:
        words = str(asked["messages"][0]["content"])
        if words == SLOW:
            assert last.wait(600)
        elif words.startswith("Is it right?"):
            last.set()
        return f"You said: {words}"

    with MessagesApi(script) as api, running(Ledger("test_it", COMMAND, (), CALLS)) as recording:
        heard = agent(Race(api.url, lambda: bool(api.requests)), ask)
    interactions = recording.interactions()
    return heard, [timed(one, span) for one, span in zip(interactions, SPANS, strict=True)], api.url


@pytest.mark.parametrize(("agent", "ask"), AGENTS)
def test_who_was_first_when_it_was_recorded_is_first_in_replay(
    agent: Callable[..., list[str]], ask: Callable[..., Any]
) -> None:
    heard, interactions, url = record(agent, ask)
    assert heard[1] == "You said: Is it right? You said: Be quick."
    with replaying(interactions) as ledger:
        assert agent(Race(url, lambda: bool(ledger.recording.pairs)), ask) == heard
    assert is_faithful(ledger)
    assert {pair.how.value for pair in ledger.recording.pairs} == {"exact"}


@pytest.mark.parametrize("ask", [by_sdk, by_async_sdk])
def test_an_agent_that_asks_for_nothing_else_now_gets_its_answer(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[..., Any]
) -> None:
    """Once an answer was held in vain, none is held any more: the agent goes another way."""
    agent = Race.in_threads if ask is by_sdk else Race.in_tasks
    _, interactions, url = record(agent, ask)
    waits = list[float]()

    def no_patience(recorded: float) -> float:
        waits.append(recorded)
        return 0.0

    monkeypatch.setattr(playback, "patience", no_patience)

    def alone(words: str) -> str:
        told = ask(url, body(words))
        return str(told if isinstance(told, str) else asyncio.run(told))

    again = [
        *interactions,
        *(timed(one, (10_000 + a, 10_000 + b)) for one, (a, b) in zip(interactions, SPANS, strict=True)),
    ]
    with replaying(again) as ledger:
        assert [alone(SLOW), alone(SLOW)] == [f"You said: {SLOW}"] * 2
    assert waits == [2.0]
    assert len(ledger.recording.unplayed) == 4


def test_what_is_held_when_the_test_ends_is_given_then() -> None:
    _, interactions, url = record(Race.in_threads, by_sdk)
    with ThreadPoolExecutor() as pool, replaying(interactions) as ledger:
        slow = pool.submit(by_sdk, url, body(SLOW))
        while not ledger.recording.pairs:
            assert not slow.done()
        ledger.end()
        assert slow.result(600) == f"You said: {SLOW}"


def test_an_agent_in_another_process_is_answered_in_that_order_too() -> None:
    heard, interactions, _ = record(Race.in_threads, by_sdk)
    ledger = Ledger("test_it", COMMAND, interactions)
    with ChildProxy(lambda: ledger, {}) as proxy:
        asks = Race(proxy.url, lambda: bool(ledger.recording.pairs))
        assert asks.in_threads(by_requests) == heard
    assert is_faithful(ledger)
