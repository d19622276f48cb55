"""Through vcrpy with real clients: recorded against a server, replayed without one."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import httpx2
import pytest
import requests
import vcr

from pytest_tokenbudget.errors import CassetteError, ReplayMiss
from pytest_tokenbudget.model import Paired
from pytest_tokenbudget.replay.cassette_file import Interaction, read_cassette, write_cassette
from pytest_tokenbudget.replay.playback import Ledger
from pytest_tokenbudget.replay.vcr_bridge import Ledgers, check_vcr, route
from support.blocks import body, text
from support.clients import (
    CALLS,
    CLIENTS,
    COMMAND,
    MODEL,
    Say,
    agent,
    client,
    is_faithful,
    record,
    replay,
    replaying,
    running,
    script,
    sdk,
    sdk_async,
    sdk_stream,
)
from support.loopback import serving
from support.messages_api import ApiError, MessagesApi


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("compressed", [False, True])
def test_recorded_then_replayed_with_the_server_down(
    name: str, compressed: bool, tmp_path: Path, network: list[str]
) -> None:
    say, heard = CLIENTS[name], []
    questions = [("Hello", "Be brief."), ("Bye", "Be brief.")]
    with MessagesApi(script, gzip=compressed) as api:
        recorded = record(lambda: heard.extend(say(api.url, *question) for question in questions))
        charged = [charge.usage.prompt_tokens for charge in api.charges]
    assert heard == ["You said: Hello", "You said: Bye"]

    write_cassette(tmp_path / "test_it.yaml", recorded)
    interactions = read_cassette(tmp_path / "test_it.yaml")
    network.clear()
    heard.clear()
    ledger = replay(interactions, lambda: heard.extend(say(api.url, *question) for question in questions))
    assert heard == ["You said: Hello", "You said: Bye"]
    assert [pair.how for pair in ledger.recording.pairs] == [Paired.EXACT, Paired.EXACT]
    assert [
        pair.answer.usage.tokens.prompt_tokens for pair in ledger.recording.pairs if pair.answer.usage
    ] == charged

    longer = [(words, f"{system} Say hello first.") for words, system in reversed(questions)]
    heard.clear()
    ledger = replay(interactions, lambda: heard.extend(say(api.url, *question) for question in longer))
    assert heard == ["You said: Bye", "You said: Hello"]
    assert [pair.how for pair in ledger.recording.pairs] == [Paired.SIMILAR, Paired.SIMILAR]
    assert not ledger.recording.reshaped
    assert network == []


@pytest.mark.parametrize("then", CLIENTS)
@pytest.mark.parametrize("first", ["sdk", "sdk async stream", "requests", "aiohttp"])
def test_any_client_reads_what_another_has_recorded(
    first: str, then: str, recordings: dict[str, Any]
) -> None:
    """Also a stream what was recorded without one, and the reverse."""
    url, interactions = recordings[first]
    ledger = replay(interactions, lambda: CLIENTS[then](url, "Hello", "Be brief."))
    assert len(ledger.recording.pairs) == 1
    assert not ledger.problems


@pytest.fixture(scope="module")
def recordings() -> dict[str, Any]:
    recorded = {}
    with MessagesApi(script, gzip=True) as api:
        for name, say in CLIENTS.items():
            recorded[name] = (api.url, record(lambda say=say: say(api.url, "Hello", "Be brief.")))
    return recorded


# --- an agent -------------------------------------------------------------------------------------


def test_an_agent_with_another_prompt_goes_the_recorded_way(api: MessagesApi) -> None:
    recorded = record(agent(api.url))
    with replaying(recorded) as ledger:
        assert agent(api.url, "Be brief and kind.")() == "It left on Monday."
    assert [pair.how for pair in ledger.recording.pairs] == [Paired.SIMILAR, Paired.LINEAGE]
    assert is_faithful(ledger)


def test_eight_agents_in_threads_and_tasks(api: MessagesApi) -> None:
    def each(system: str) -> Callable[[], None]:
        def run() -> None:
            with ThreadPoolExecutor(8) as pool:
                for answer in [pool.submit(sdk, api.url, f"Hello {n}", system) for n in range(8)]:
                    heard.append(answer.result())

        return run

    heard: list[str] = []
    recorded = record(each("Be brief."))
    told, heard = heard, []
    ledger = replay(recorded, each("Be brief and kind."))
    assert heard == told == [f"You said: Hello {n}" for n in range(8)]
    assert is_faithful(ledger)

    async def gather() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=api.url, api_key="sk-ant-test") as client:
            asked = [
                client.messages.create(**body(f"Hello {n}", system="Be kind.")) for n in reversed(range(8))
            ]
            return [answer.content[0].text for answer in await asyncio.gather(*asked)]

    with replaying(recorded) as ledger:
        assert asyncio.run(gather()) == heard[::-1]
    assert is_faithful(ledger)


# --- clouds ---------------------------------------------------------------------------------------

BOTO3_LEAKS = (
    "error"
    if tuple(map(int, vcr.__version__.split(".")[:2])) >= (9, 4)
    else "ignore::pytest.PytestUnraisableExceptionWarning"
)
"""Below 9.4, vcrpy leaves the sockets of boto3 open."""
BEDROCK: Any = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 100, "messages": body()["messages"]}


@pytest.mark.filterwarnings(BOTO3_LEAKS)
@pytest.mark.parametrize("stream", [False, True])
def test_bedrock_through_boto3(api: MessagesApi, stream: bool) -> None:
    boto3 = pytest.importorskip("boto3")

    def play(**more: Any) -> str:
        client = boto3.client(
            "bedrock-runtime",
            endpoint_url=api.url,
            region_name="us-east-1",
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )
        asked = {
            "modelId": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "body": json.dumps({**BEDROCK, **more}),
        }
        if not stream:
            return json.loads(client.invoke_model(**asked)["body"].read())["content"][0]["text"]
        pieces = client.invoke_model_with_response_stream(**asked)["body"]
        events = [json.loads(piece["chunk"]["bytes"]) for piece in pieces]
        return "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta")

    recorded = record(play)
    for more in ({}, {"system": "Be kind."}):
        with replaying(recorded) as ledger:
            assert play(**more) == "You said: Hello"
        assert is_faithful(ledger)
        (pair,) = ledger.recording.pairs
        assert pair.how is (Paired.SIMILAR if more else Paired.EXACT)
        assert pair.answer.usage
        assert [rate.modifiers for rate in pair.answer.usage.by_rate] == [("aws", "regional")]


# --- failed attempts ------------------------------------------------------------------------------


def turned_away(answered: Interaction, code: int, **headers: str) -> Interaction:
    """Return an attempt at what was answered that the API turned away."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Later."}}
    response = {
        "status": {"code": code, "message": ""},
        "headers": {"content-type": ["application/json"], **{name: [text] for name, text in headers.items()}},
        "body": {"string": json.dumps(error).encode()},
    }
    return copy.deepcopy(answered[0]), response


@pytest.mark.parametrize("say", [sdk, sdk_stream, sdk_async])
def test_retries_are_replayed_without_waiting_and_cost_nothing(
    api: MessagesApi, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other recorders keep them: our own keeps only what the SDK came through with."""
    api.fail_next(ApiError(429, retry_after=1.0), ApiError(529))
    (answered,) = record(lambda: say(api.url, "Hello", "Be brief."))
    recorded = [turned_away(answered, 429, **{"retry-after": "1"}), turned_away(answered, 529), answered]
    slept: list[float] = []

    def noted(sleep: Any) -> Any:
        return lambda seconds, *rest: (slept.append(seconds), sleep(seconds, *rest))[1]

    monkeypatch.setattr(time, "sleep", noted(time.sleep))
    monkeypatch.setattr(asyncio, "sleep", noted(asyncio.sleep))
    ledger = replay(recorded, lambda: say(api.url, "Hello", "Be brief and kind."))
    assert max(slept, default=0.0) < 0.2  # the server had asked for a second
    assert [pair.answer.status for pair in ledger.recording.pairs] == [429, 529, 200]
    assert is_faithful(ledger)


# --- misses ---------------------------------------------------------------------------------------


def test_a_miss_names_the_request_and_the_command(api: MessagesApi) -> None:
    recorded = record(lambda: sdk(api.url, "Hello", "Be brief."))

    def twice() -> None:
        sdk(api.url, "Hello", "Be brief.")
        sdk(api.url, "Hello", "Be brief.")

    with replaying(recorded) as ledger, pytest.raises(ReplayMiss) as caught:
        twice()
    assert str(caught.value) == (
        'test_it: the recording has no answer to POST /v1/messages (claude-haiku-4-5): "Hello". '
        f"The agent asks for more than was recorded, or for the same again. Record it: {COMMAND}"
    )
    assert len(ledger.recording.misses) == 1


@pytest.mark.parametrize("words", ["Hello " * 100, "Hello\n\n  again", text("Hello")])
def test_a_miss_quotes_the_first_words_on_one_line(words: Any) -> None:
    with (
        replaying([]),
        pytest.raises(ReplayMiss, match=r'\(claude-haiku-4-5\): "Hello[^\n]{0,76}"\.') as caught,
    ):
        client("http://127.0.0.1:9").messages.create(**body(words))
    assert "\n" not in str(caught.value)


def test_a_miss_gets_past_what_agents_do_about_errors() -> None:
    """Its retries, `except Exception`, `return_exceptions=True`, another thread: it is kept in any case."""
    url = "http://127.0.0.1:9"

    def careless() -> None:
        with contextlib.suppress(Exception):
            sdk(url, "Hello", "Be brief.")

    with replaying([]) as ledger, pytest.raises(ReplayMiss):
        careless()
    assert len(ledger.recording.misses) == 1, "it was retried"

    async def gather() -> None:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="sk-ant-test") as client:
            await asyncio.gather(
                *(client.messages.create(**body(f"Hello {n}")) for n in range(2)), return_exceptions=True
            )

    with replaying([]) as ledger, contextlib.suppress(ReplayMiss):
        asyncio.run(gather())
    assert len(ledger.recording.misses) == 2

    def swallow() -> None:
        with contextlib.suppress(BaseException):
            sdk(url, "Hello", "Be brief.")

    with replaying([]) as ledger:
        thread = threading.Thread(target=swallow)
        thread.start()
        thread.join()
    assert len(ledger.recording.misses) == 1


# --- what is no turn ------------------------------------------------------------------------------


def test_token_counts_are_replayed_and_are_no_turns(api: MessagesApi) -> None:
    counted: list[int] = []

    def play(system: str = "Be brief.") -> None:
        with client(api.url) as sync:
            asked: Any = {"model": MODEL, "messages": body()["messages"], "system": system}
            counted.append(sync.messages.count_tokens(**asked).input_tokens)
            sync.messages.create(**body(system=system))

    recorded = record(play)
    ledger = replay(recorded, play)
    assert counted[0] == counted[1]
    assert len(ledger.recording.pairs) == 1
    assert [pair.how for pair in ledger.recording.token_counts] == [Paired.EXACT]
    assert ledger.warnings == []
    ledger = replay(recorded, lambda: play("Be brief and kind."))
    assert [pair.how for pair in ledger.recording.token_counts] == [Paired.SIMILAR]
    told = "count_tokens is answered with the number of another request, as this one cannot be counted: "
    assert ledger.warnings == [f"{told}the agent may decide otherwise by its own"]
    assert is_faithful(ledger)


def test_a_token_count_of_another_request_is_answered_with_what_it_counts_now(api: MessagesApi) -> None:
    counted: list[int] = []

    def play(system: str = "Be brief.") -> None:
        with client(api.url) as sync:
            asked: Any = {"model": MODEL, "messages": body()["messages"], "system": system}
            counted.append(sync.messages.count_tokens(**asked).input_tokens)

    recorded = record(play)
    ledger = replay(recorded, lambda: play("Be brief and kind."), count=lambda *_: (21, None))
    assert (counted[-1], ledger.warnings) == (21, [])
    ledger = replay(recorded, lambda: play("Be kind."), count=lambda *_: (20, "18 to 22 tokens"))
    told = "count_tokens is answered with an estimate (18 to 22 tokens): the agent may decide otherwise by "
    assert (counted[-1], ledger.warnings) == (20, [f"{told}the true number"])
    ledger = replay(recorded, play, count=lambda *_: (99, None))
    assert (counted[-1], ledger.warnings) == (counted[0], [])


def test_a_batch_is_paired_entry_by_entry_and_polled_as_often_as_it_takes(api: MessagesApi) -> None:
    results: dict[str, str] = {}

    def play(names: Sequence[str] = ("a", "b"), system: str = "Be brief.", polls: int = 3) -> None:
        results.clear()
        with client(api.url) as sync:
            entries: Any = [
                {"custom_id": name, "params": body(f"Hello {name[-1]}", system=system)} for name in names
            ]
            batch = sync.messages.batches.create(requests=entries)
            for _ in range(polls):
                sync.messages.batches.retrieve(batch.id)
            for entry in sync.messages.batches.results(batch.id):
                results[entry.custom_id] = entry.result.message.content[0].text  # type: ignore[union-attr]

    recorded = record(play)
    told = dict(results)
    assert told == {"a": "You said: Hello a", "b": "You said: Hello b"}
    for changes in ({}, {"system": "Be brief and kind."}, {"polls": 9}, {"names": ("b", "a")}):
        ledger = replay(recorded, lambda changes=changes: play(**changes))
        assert results == told
        assert len(ledger.recording.pairs) == 2
        assert is_faithful(ledger)
    assert {rate.modifiers for pair in ledger.recording.pairs for rate in pair.answer.usage.by_rate} == {
        ("batch",)
    }

    ledger = replay(recorded, lambda: play(("new-a", "new-b"), "Be brief and kind."))
    assert results == {"new-a": "You said: Hello a", "new-b": "You said: Hello b"}
    assert is_faithful(ledger)

    ledger = replay(recorded, lambda: play(("a",)))
    assert results == {"a": "You said: Hello a"}, "nothing is answered that was not asked"
    assert len(ledger.recording.unplayed) == 1
    replay(recorded, lambda: play(("new-b",)), untouched=True)
    assert results == {"new-b": "You said: Hello b"}
    with replaying(recorded) as ledger, pytest.raises(ReplayMiss, match="Hello a"):
        play(("a", "b", "c"))
    assert len(ledger.recording.misses) == 1


# --- other traffic --------------------------------------------------------------------------------


class _Weather(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(302 if self.path == "/old" else 200)
        content = json.dumps({"path": self.path}).encode()
        if self.path == "/old":
            self.send_header("location", "/weather?city=Bern")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def weather() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Weather)) as url:
        yield url


def test_a_server_of_the_test_itself_passes_by(weather: str) -> None:
    with replaying([]) as ledger:
        for get in (httpx2.get, requests.get):
            assert get(f"{weather}/weather").json() == {"path": "/weather"}
    assert not ledger.problems
    with running(Ledger("test_it", COMMAND, (), CALLS)) as ledger:
        httpx2.get(f"{weather}/weather", timeout=600)
    assert ledger.interactions() == []


def test_what_an_sdk_asks_a_gateway_on_loopback_is_recorded(weather: str) -> None:
    """Also what is no model call, such as the list of models: the gateway is not there in replay."""
    ask = lambda: httpx2.get(f"{weather}/v1/models", headers={"anthropic-version": "2023-06-01"}, timeout=600)  # noqa: E731
    recorded = record(ask)
    assert len(recorded) == 1
    with replaying(recorded) as ledger:
        assert ask().json() == {"path": "/v1/models"}
        assert ask().json() == {"path": "/v1/models"}, "once more, which is no reason to fail"
    assert not ledger.problems
    assert len(ledger.warnings) == 1


def test_a_compressed_request_is_told(api: MessagesApi) -> None:
    def post(encoding: str, content: bytes) -> None:
        headers = {"content-encoding": encoding, "x-api-key": "sk-ant-test"}
        httpx2.post(f"{api.url}/v1/messages", content=content, headers=headers, timeout=600)

    with running(Ledger("test_it", COMMAND, (), CALLS)) as ledger:
        post("gzip", gzip.compress(json.dumps(body()).encode()))
        (warning,) = ledger.warnings
        assert warning.startswith(f"POST {api.url}/v1/messages is compressed, so that nobody can tell what")
        post("identity", json.dumps(body()).encode())
    assert len(ledger.warnings) == 1


WEATHER: Interaction = (
    {"method": "GET", "uri": "https://weather.test/now?city=Bern&unit=C", "body": None, "headers": {}},
    {"status": {"code": 200, "message": "OK"}, "headers": {}, "body": {"string": b"snow"}},
)


def test_other_traffic_is_replayed_by_its_address_in_order() -> None:
    second = (WEATHER[0], {**WEATHER[1], "body": {"string": b"rain"}})
    with replaying([WEATHER, second]) as ledger:
        assert httpx2.get("https://weather.test/now?unit=C&city=Bern").text == "snow"
        assert requests.get("https://weather.test/now?city=Bern&unit=C").text == "rain"
        assert requests.get("https://weather.test/now?city=Bern&unit=C").text == "rain"
    assert not ledger.problems
    (warning,) = ledger.warnings
    assert warning.startswith("GET https://weather.test/now was asked more often than it was recorded")


def test_a_connection_that_is_kept_alive_asks_once_for_each_request(api: MessagesApi) -> None:
    """vcr's stub of http.client asks again about the request before, when it opens the connection anew."""

    def play() -> None:
        with requests.Session() as session:
            for words in ("Hello", "Bye", "Hello"):
                session.post(f"{api.url}/v1/messages", json=body(words), headers={"x-api-key": "sk"})

    recorded = record(play)
    ledger = replay(recorded, play)
    assert [pair.index for pair in ledger.recording.pairs] == [0, 1, 2]
    assert is_faithful(ledger)


def test_a_redirect_that_aiohttp_follows() -> None:
    moved: Interaction = (
        {"method": "GET", "uri": "https://weather.test/old", "body": None, "headers": {}},
        {
            "status": {"code": 302, "message": "Found"},
            "headers": {"location": ["/now?city=Bern&unit=C"]},
            "body": {"string": b""},
        },
    )

    async def get() -> str:
        async with aiohttp.ClientSession() as session, session.get("https://weather.test/old") as answer:
            return await answer.text()

    with replaying([moved, WEATHER]) as ledger:
        assert asyncio.run(get()) == "snow"
    assert not ledger.problems


def test_a_redirect_that_aiohttp_follows_is_recorded_whole(
    weather: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_tokenbudget.replay.playback.LOOPBACK", frozenset())

    async def get() -> str:
        async with aiohttp.ClientSession() as session, session.get(f"{weather}/old") as answer:
            return await answer.text()

    heard: list[str] = []
    recorded = record(lambda: heard.append(asyncio.run(get())))
    assert [answer["status"]["code"] for _, answer in recorded] == [302, 200]
    with replaying(recorded):
        assert [asyncio.run(get())] == heard


def test_other_traffic_is_refused_but_for_allowed_hosts() -> None:
    with replaying([]) as ledger:
        assert httpx2.get("https://weather.test/now?key=secret").status_code == 403
    assert not ledger.problems
    (warning,) = ledger.warnings
    assert "GET https://weather.test/now is no model call, and is not in the recording" in warning
    assert "secret" not in warning
    with replaying([], free_hosts=frozenset({"weather.test"})) as ledger, pytest.raises(httpx2.ConnectError):
        httpx2.get("https://weather.test/now")  # there is no such host
    assert not ledger.problems


def test_what_spends_tokens_past_the_meter_is_told() -> None:
    url = "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-sonnet-4-5/converse"
    with replaying([]) as ledger, contextlib.suppress(ReplayMiss):
        httpx2.post(url, json={})
    assert ledger.warnings == [
        "Bedrock's Converse API is not the Messages API; use invoke, or the SDK's AnthropicBedrock"
    ]


# --- whose requests these are ---------------------------------------------------------------------


def test_the_ledger_on_top_answers_and_what_began_is_finished_where_it_began() -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def slow_hello(sent: Any) -> Any:
        if sent["messages"][-1]["content"] == "Hello":
            arrived.set()
            assert go_on.wait(600)
        return script(sent)

    test, fixture = Ledger("test_it", COMMAND, (), CALLS), Ledger("fixture", COMMAND, (), CALLS)
    ledgers = Ledgers()
    with (
        MessagesApi(slow_hello) as api,
        route(ledgers),
        ledgers.using(test),
        ThreadPoolExecutor(1) as pool,
    ):
        slow = pool.submit(sdk, api.url, "Hello", "Be brief.")
        assert arrived.wait(600)
        with ledgers.using(fixture):
            go_on.set()
            slow.result()
            sdk(api.url, "Bye", "Be brief.")
        sdk(api.url, "Why", "Be brief.")
    said = [[e.request.prompt.blocks[-1].content["text"] for e in ledger.calls] for ledger in (test, fixture)]
    assert said == [["Hello", "Why"], ["Bye"]]


# --- vcrpy itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "good"), [("8.1.1", False), ("8.4.0", False), ("8.5.0", True), ("10.0rc1", True)]
)
def test_an_old_vcrpy_is_refused(version: str, good: bool) -> None:
    with contextlib.nullcontext() if good else pytest.raises(CassetteError, match=r"vcrpy>=8\.5"):
        check_vcr(version)
