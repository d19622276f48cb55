"""Recording: what is really called, and what a new cassette holds of it."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx2
import pytest

from pytest_tokenbudget.errors import RecordingError, ReplayMiss
from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.replay.playback import Call, Ledger
from pytest_tokenbudget.replay.traffic import Reader
from support.blocks import body
from support.clients import CALLS, COMMAND, MODEL, agent, is_faithful, record, replaying, running, sdk
from support.messages_api import ApiError, MessagesApi


def test_only_what_changed_is_called_anew(api: MessagesApi) -> None:
    """--token-budget-record=changed"""
    questions = ("Hello", "Bye", "Why")
    first = record(lambda: [sdk(api.url, words, "Be brief.") for words in questions])
    asked = len(api.requests)
    rules = {"calls": True, "exact": True}

    with replaying(first, **rules) as ledger:
        for words in ("Hello", "Hello again", "Why"):
            sdk(api.url, words, "Be brief.")
    assert len(api.requests) == asked + 1
    assert [pair.how for pair in ledger.recording.pairs] == [Paired.EXACT, Paired.EXACT]
    assert [exchange.request.prompt.blocks[-1].content["text"] for exchange in ledger.calls] == [
        "Hello again"
    ]
    second = ledger.interactions()
    assert [json.loads(request["body"])["messages"][0]["content"] for request, _ in second] == [
        "Hello",
        "Hello again",
        "Why",
    ]
    assert second[0][0] is not first[0][0]
    assert second[0] == (first[0][0], {key: value for key, value in first[0][1].items() if key != "timing"})

    with replaying(second) as ledger:
        for words in ("Hello", "Hello again", "Why"):
            sdk(api.url, words, "Be brief.")
    assert {pair.how for pair in ledger.recording.pairs} == {Paired.EXACT}


def test_a_new_answer_leads_to_new_calls(api: MessagesApi) -> None:
    first = record(agent(api.url))
    with replaying(first, calls=True, exact=True) as ledger:
        agent(api.url, "Be brief and kind.")()
    assert ledger.recording.pairs == ()
    assert len(ledger.calls) == 2


def test_what_stands_before_a_call_can_stop_it(api: MessagesApi) -> None:
    """--token-budget-max-spend"""

    class Refusing:
        def begin(self, call: Call) -> None:
            assert [request.prompt.model for request in call.requests] == [MODEL]
            raise ReplayMiss("enough")

    with pytest.raises(ReplayMiss, match="enough"):
        record(lambda: sdk(api.url, "Hello", "Be brief."), limits=Refusing())
    assert api.requests == []


def test_requests_are_kept_in_the_order_they_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """vcr keeps them in the order of their answers."""
    clock = SimpleNamespace(monotonic=itertools.count().__next__)  # a second passes whenever it is read
    monkeypatch.setattr("pytest_tokenbudget.replay.playback.time", clock)
    arrived, answered = threading.Event(), threading.Event()

    def slow_first(sent: Any) -> str:
        if sent["messages"][0]["content"] == "Hello":
            arrived.set()
            assert answered.wait(600)
        return "Bye"

    def both(url: str) -> None:
        with ThreadPoolExecutor(2) as pool:
            slow = pool.submit(sdk, url, "Hello", "Be brief.")
            assert arrived.wait(600)
            sdk(url, "Bye", "Be brief.")
            answered.set()
            slow.result()

    with MessagesApi(slow_first) as api:
        interactions = record(lambda: both(api.url))
    assert [json.loads(request["body"])["messages"][0]["content"] for request, _ in interactions] == [
        "Hello",
        "Bye",
    ]
    assert [answer["timing"] for _, answer in interactions] == [
        {"started": 0, "answered": 3000},
        {"started": 1000, "answered": 2000},
    ]


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_answers_are_kept_decompressed(coding: str) -> None:
    """A cassette that was made where zstd is known would not be readable elsewhere."""
    plain = json.dumps(
        {"type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
    ).encode()
    packed = compressed(coding, plain)
    ledger = Ledger("test_it", COMMAND, (), CALLS)
    sent = Reader().read(
        {
            "method": "POST",
            "uri": "https://gate/v1/messages",
            "body": json.dumps(body()).encode(),
            "headers": {},
        }
    )
    assert ledger.find(sent) is None
    headers = {
        "Content-Encoding": [coding],
        "Content-Length": [str(len(packed))],
        "content-type": ["application/json"],
    }
    ledger.finish(
        ledger.begin(sent),
        {"status": {"code": 200, "message": "OK"}, "headers": headers, "body": {"string": packed}},
    )
    ((_, answer),) = ledger.interactions()
    assert answer["body"] == {"string": plain}
    assert answer["headers"] == {"content-type": ["application/json"]}


def compressed(coding: str, content: bytes) -> bytes:
    if coding == "gzip":
        return gzip.compress(content)
    module = pytest.importorskip({"br": "brotli", "zstd": "zstandard"}[coding])
    return bytes(module.compress(content))


def test_an_answer_that_does_not_end_is_not_recorded() -> None:
    """A connection that breaks off is no decision of the agent's; vcr keeps nothing of it."""
    ledger = Ledger("test_it", COMMAND, (), CALLS)
    raw = {"method": "POST", "uri": "https://gate/v1/messages", "body": json.dumps(body()), "headers": {}}
    ledger.begin(Reader().read(raw))
    with pytest.raises(
        RecordingError, match=r'the answer to POST /v1/messages .*"Hello" did not end\. Nothing was'
    ):
        ledger.interactions()


def test_a_connection_that_failed_and_was_tried_again_is_recorded(api: MessagesApi) -> None:
    ledger = Ledger("test_it", COMMAND, (), CALLS)
    sent = Reader().read(
        {
            "method": "POST",
            "uri": f"{api.url}/v1/messages",
            "body": json.dumps(body()).encode(),
            "headers": {},
        }
    )
    ledger.begin(sent).leave()  # the connection was refused
    with running(ledger):
        httpx2.post(
            f"{api.url}/v1/messages", content=json.dumps(body()), headers={"x-api-key": "sk"}, timeout=600
        )
    assert len(ledger.interactions()) == 1


def test_what_nobody_knows_the_bill_of_is_called_anew(api: MessagesApi) -> None:
    """A batch whose results were never fetched: `changed` would keep the scenario stale for good."""

    entry: Any = {"custom_id": "one", "params": body()}

    def create_batch(fetch: bool) -> None:
        client = anthropic.Anthropic(base_url=api.url, api_key="sk-ant-test")
        batch = client.messages.batches.create(requests=[entry])
        if fetch:
            assert list(client.messages.batches.results(client.messages.batches.retrieve(batch.id).id))

    first = record(lambda: create_batch(fetch=False))
    (unknown,) = Ledger("test_it", COMMAND, first).recording.exchanges
    assert unknown.answer.is_unknown
    with replaying(first, calls=True, exact=True) as ledger:
        create_batch(fetch=True)
    (known,) = Ledger("test_it", COMMAND, ledger.interactions()).recording.exchanges
    assert known.answer.usage is not None


def test_a_stream_that_ends_by_an_error_replays_as_it_was(api: MessagesApi) -> None:
    def play(url: str) -> tuple[str, str]:
        with anthropic.Anthropic(base_url=url, api_key="sk-ant-test", max_retries=0) as client:
            with (
                pytest.raises(anthropic.APIStatusError) as caught,
                client.messages.stream(**body()) as stream,
            ):
                stream.get_final_message()
            with client.messages.stream(**body()) as stream:
                return str(caught.value.body), stream.get_final_text()

    api.fail_next(ApiError(529, "overloaded_error", in_stream=True))
    with running(Ledger("test_it", COMMAND, (), CALLS)) as ledger:
        told = play(api.url)
    assert told[1] == "You said: Hello"
    (broken,) = ledger.called("test_it").broken
    assert broken.endswith('"Hello" ended in overloaded_error after it had begun')
    assert ledger.called("test_it").failed == []
    with replaying(ledger.interactions()) as replay:
        assert play(api.url) == told
    assert is_faithful(replay)
    assert [pair.how for pair in replay.recording.pairs] == [Paired.EXACT] * 2
    assert all(pair.answer.usage is not None for pair in replay.recording.pairs)


def test_a_call_that_is_given_up_and_asked_again_is_told(api: MessagesApi) -> None:
    with running(Ledger("test_it", COMMAND, (), CALLS)) as ledger:
        given_up = {"method": "POST", "uri": f"{api.url}/v1/messages", "headers": {}}
        content = json.dumps(body()).encode()
        ledger.begin(ledger.read({**given_up, "body": content})).leave()
        httpx2.post(f"{api.url}/v1/messages", content=content, headers={"x-api-key": "sk"}, timeout=600)
        assert ledger.called("").asked_again == []
    calls = ledger.called("test_it")
    assert calls.asked_again == ['POST /v1/messages (claude-haiku-4-5): "Hello"']
    assert calls.unanswered == []
    assert len(ledger.interactions()) == 1
