"""The test server keeps the documented rules: framing, prompt cache, streams, faults, batches, platforms."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from support.blocks import text, user
from support.messages_api import SECRETS, ApiError, MessagesApi, Usage, tool_use
from support.messages_api.cache import PromptCache
from support.messages_api.counting import (
    KNOWN_TEXTS,
    Family,
    UnknownTextError,
    count,
    counter_name,
    read_table,
)
from support.messages_api.models import find_model
from support.messages_api.prompt import Block, InvalidRequestError, Prompt, output_tokens, render
from support.messages_api.routes import route

SONNET, HAIKU, OPUS = "claude-sonnet-4-6", "claude-haiku-4-5", "claude-opus-4-8"
TOOL = {"name": "lookup", "description": "Look an order up.", "input_schema": {"type": "object"}}


def body(model: str = SONNET, **changes: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 512, "messages": [user("Hello")], **changes}


def rendered(model: str = SONNET, **changes: Any) -> Prompt:
    found = find_model(model)
    assert found is not None
    return render(body(model, **changes), found)


def opened(api: MessagesApi, path: str, content: object, **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(
        api.url + path, json.dumps(content).encode(), {"x-api-key": "sk-ant-test", **names}
    )
    return urllib.request.urlopen(request, timeout=600)


def post(api: MessagesApi, path: str, content: object, **headers: str) -> Any:
    with opened(api, path, content, **headers) as answer:
        return answer.headers, answer.read()


def message(api: MessagesApi, content: object, **headers: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(post(api, "/v1/messages", content, **headers)[1])
    return parsed


# Counting


@pytest.mark.parametrize(
    ("model", "texts", "tokens"),
    [
        (HAIKU, ["Hello"], 7),
        (HAIKU, ["Hello", "Hello", "Hello"], 13),
        (SONNET, ["Hello"], 8),
        (OPUS, ["Hello"], 6),
        (OPUS, ["Hello", "Hello", "Hello"], 10),
    ],
)
def test_framing_is_what_real_usage_shows(model: str, texts: list[str], tokens: int) -> None:
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": words} for role, words in zip(roles, texts, strict=False)]
    found = find_model(model)
    assert found is not None
    content = len(texts) * count("Hello", found.family)
    assert rendered(model, messages=messages).total == content + tokens


def test_system_adds_its_text_and_nothing_else() -> None:
    assert rendered(system="Be brief.").total == rendered().total + count("Be brief.", "3.0")


def test_extended_thinking_adds_its_prompt() -> None:
    assert rendered(thinking={"type": "enabled", "budget_tokens": 1024}).total == rendered().total + 29


def test_neighbouring_texts_are_counted_as_one() -> None:
    halves = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert rendered(messages=[{"role": "user", "content": halves}]).total == rendered().total


@pytest.mark.parametrize(("choice", "hidden"), [(None, 498), ({"type": "auto"}, 498), ({"type": "any"}, 590)])
def test_tools_bring_their_hidden_prompt(choice: object, hidden: int) -> None:
    function = (
        '<function>{"description": "Look an order up.", "name": "lookup", '
        '"parameters": {"type": "object"}}</function>\n'
    )
    with_tools = rendered(tools=[TOOL], tool_choice=choice).total
    assert with_tools == rendered().total + hidden + count(function, "3.0")


def test_an_answer_fed_back_adds_what_it_billed() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "lookup", "input": {"order": "A-1"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Shipped."}
    first = [user("Hello")]
    second = [*first, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    grown = rendered(messages=second).total - rendered(messages=first).total
    assert grown == output_tokens([call], "3.0") + 11 + count("Shipped.", "3.0")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "cannot count"),
        ({"messages": [{"role": "user", "content": ""}]}, "non-empty"),
        ({"system": [{"type": "text", "text": "a", "cache_control": {"type": "x"}}]}, "ephemeral"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "cannot count tools"),
        (
            {"messages": [user("a"), {"role": "assistant", "content": [{**tool_use("lookup"), "id": "t"}]}]},
            "without `tool_result`",
        ),
    ],
)
def test_refused_as_the_api_would(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        rendered(**changes)


def test_five_breakpoints_are_refused() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    blocks = [{"type": "text", "text": "Hello", **mark} for _ in range(5)]
    with pytest.raises(InvalidRequestError, match="maximum of 4"):
        rendered(system=blocks)


def test_an_hour_after_five_minutes_is_refused() -> None:
    short = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    hour = {**short, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    rendered(system=[hour, short])
    with pytest.raises(InvalidRequestError, match="ttl"):
        rendered(system=[short, hour])


def test_an_unknown_text_is_an_error_without_ctok(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.messages_api.counting._ctok", lambda: None)
    with pytest.raises(UnknownTextError, match="make known-texts"):
        count("A text that nobody will ever put into the table, 9a0cf1.", "3.0")


@pytest.mark.skipif(counter_name() != "ctok", reason="needs ctok (Python 3.12)")
@pytest.mark.parametrize("family", ["3.0", "4.8"])
def test_the_table_agrees_with_ctok(monkeypatch: pytest.MonkeyPatch, family: Family) -> None:
    text = "Hello"
    by_table = count(text, family)
    monkeypatch.setattr("support.messages_api.counting._known_texts", dict)
    assert count.__globals__["_count"].__wrapped__(text, family) == by_table
    monkeypatch.undo()
    monkeypatch.setattr("support.messages_api.counting._ctok", lambda: None)
    assert count.__globals__["_count"].__wrapped__(text, family) == by_table


# The prompt cache


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def chain(*ends: int, ttls: Mapping[int, str], total: int | None = None, other: int | None = None) -> Prompt:
    """Blocks that end at `ends`; `ttls` marks some by index; from block `other` on, the text differs."""
    blocks = tuple(
        Block(f"{i}{f'*{other}' if other is not None and i >= other else ''}", end, ttls.get(i))
        for i, end in enumerate(ends)
    )
    return Prompt(blocks, total if total is not None else ends[-1] + 3)


def bill(cache: PromptCache, prompt: Prompt, minimum: int = 1024) -> tuple[int, int, int, int]:
    split = cache.request(prompt, minimum)
    cache.answer_began(split)
    assert split.input_tokens + split.write_5m + split.write_1h + split.read == prompt.total
    return split.read, split.write_5m, split.write_1h, split.input_tokens


def test_write_then_read_then_grow() -> None:
    cache = PromptCache(Clock())
    first = chain(1100, 1200, ttls={1: "5m"})
    assert bill(cache, first) == (0, 1200, 0, 3)
    assert bill(cache, first) == (1200, 0, 0, 3)
    assert bill(cache, chain(1100, 1200, 1500, ttls={2: "5m"})) == (1200, 300, 0, 3)


def test_a_change_before_the_breakpoint_writes_again() -> None:
    cache = PromptCache(Clock())
    bill(cache, chain(1100, 1200, ttls={0: "5m", 1: "5m"}))
    assert bill(cache, chain(1100, 1250, ttls={0: "5m", 1: "5m"}, other=1)) == (1100, 150, 0, 3)
    assert bill(cache, chain(1100, 1250, ttls={0: "5m", 1: "5m"}, other=0)) == (0, 1250, 0, 3)


def test_shorter_than_the_minimum_is_not_cached() -> None:
    cache = PromptCache(Clock())
    assert bill(cache, chain(1023, ttls={0: "5m"})) == (0, 0, 0, 1026)
    assert bill(cache, chain(1023, ttls={0: "5m"})) == (0, 0, 0, 1026)
    assert bill(cache, chain(1024, ttls={0: "5m"})) == (0, 1024, 0, 3)


@pytest.mark.parametrize(("age", "read"), [(299, 1200), (301, 0)])
def test_five_minutes(age: float, read: int) -> None:
    cache = PromptCache(clock := Clock())
    bill(cache, chain(1200, ttls={0: "5m"}))
    clock.now = age
    assert bill(cache, chain(1200, ttls={0: "5m"}))[0] == read


def test_a_read_refreshes() -> None:
    cache = PromptCache(clock := Clock())
    for clock.now in (0.0, 250.0, 500.0):
        billed = bill(cache, chain(1200, ttls={0: "5m"}))
    assert billed == (1200, 0, 0, 3)


def test_an_hour_outlives_five_minutes() -> None:
    cache = PromptCache(clock := Clock())
    prompt = chain(1200, 1500, ttls={0: "1h", 1: "5m"})
    assert bill(cache, prompt) == (0, 300, 1200, 3)
    clock.now = 400.0
    assert bill(cache, prompt) == (1200, 300, 0, 3)


@pytest.mark.parametrize(("new_blocks", "read"), [(19, 1100), (20, 0)])
def test_look_back_of_twenty_positions(new_blocks: int, read: int) -> None:
    cache = PromptCache(Clock())
    bill(cache, chain(1100, ttls={0: "5m"}))
    ends = range(1100, 1100 + 10 * (new_blocks + 1), 10)
    assert bill(cache, chain(*ends, ttls={new_blocks: "5m"}))[0] == read


def test_readable_only_after_the_answer_began() -> None:
    cache = PromptCache(Clock())
    prompt = chain(1200, ttls={0: "5m"})
    first = cache.request(prompt, 1024)
    assert cache.request(prompt, 1024).read == 0
    cache.answer_began(first)
    assert cache.request(prompt, 1024).read == 1200


LONG = "You answer the customers of a shop that sells bicycle parts by post. " * 100


@pytest.mark.parametrize(
    ("change", "reads"),
    [
        ({}, "all"),
        ({"model": "claude-sonnet-4-5"}, "nothing"),
        ({"system": [{"type": "text", "text": LONG + "!", "cache_control": {"type": "ephemeral"}}]}, "tools"),
        ({"tool_choice": {"type": "any"}}, "system"),
        ({"thinking": {"type": "adaptive"}}, "nothing"),
        ({"max_tokens": 99}, "all"),
    ],
)
def test_what_a_change_invalidates(change: dict[str, Any], reads: str) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    long_tool = {**TOOL, "description": LONG, **mark}
    request = body(tools=[long_tool], system=[{"type": "text", "text": LONG, **mark}], **mark)
    with MessagesApi(lambda _: "Hello") as api:
        message(api, request)
        written = api.charges[0].usage.cache_creation_input_tokens
        message(api, {**request, **change})
        usage = api.charges[1].usage
    function = json.dumps({"description": LONG, "name": "lookup", "parameters": {"type": "object"}})
    tools = 498 + count(f"<function>{function}</function>\n", "3.0")
    expected = {"nothing": 0, "tools": tools, "system": tools + count(LONG, "3.0"), "all": written}
    assert usage.cache_read_input_tokens == expected[reads]


# HTTP


@pytest.fixture
def api() -> Iterator[MessagesApi]:
    with MessagesApi(answer) as server:
        yield server


def answer(request: Mapping[str, Any]) -> Any:
    if request.get("tools") and len(request["messages"]) == 1:
        return [text("Hello"), tool_use("lookup", order="A-1")]
    return "Hello"


def test_a_message_and_its_charge(api: MessagesApi) -> None:
    reply = message(api, body())
    hello = count("Hello", "3.0")
    assert reply["content"] == [{"type": "text", "text": "Hello"}]
    assert reply["stop_reason"] == "end_turn"
    assert reply["usage"]["input_tokens"] == hello + 8
    assert reply["usage"]["output_tokens"] == hello + 3
    assert [charge.usage for charge in api.charges] == [Usage(hello + 8, 0, 0, 0, hello + 3)]
    with urllib.request.urlopen(api.url + "/_charges") as ledger:
        assert json.load(ledger)[0]["usage"]["output_tokens"] == hello + 3


def test_counting_is_free_and_agrees(api: MessagesApi) -> None:
    counted = json.loads(post(api, "/v1/messages/count_tokens", body(tools=[TOOL]))[1])
    assert api.charges == []
    message(api, body(tools=[TOOL]))
    assert counted == {"input_tokens": api.charges[0].usage.prompt_tokens}


def test_headers_hold_secrets_to_redact(api: MessagesApi) -> None:
    headers, _ = post(api, "/v1/messages", body())
    assert all(any(secret in value for value in headers.values()) for secret in SECRETS)
    assert headers["request-id"].startswith("req_")


def test_ids_are_unique_and_repeatable() -> None:
    def run() -> list[str]:
        with MessagesApi(answer) as api:
            return [message(api, body())["id"] for _ in range(2)]

    first, second = run()
    assert first != second
    assert run() == [first, second]


@pytest.mark.parametrize(
    ("headers", "content", "status", "kind"),
    [
        ({}, {"model": "claude-none-1"}, 404, "not_found_error"),
        ({}, {"max_tokens": None}, 400, "invalid_request_error"),
        ({}, {"messages": "Hello"}, 400, "invalid_request_error"),
        ({}, {"messages": [{"role": "user"}]}, 400, "invalid_request_error"),
        ({"anthropic_version": "2026-10-21"}, {"temperature": 1.0}, 400, "invalid_request_error"),
        ({"x_test_fault": "529"}, {}, 529, "overloaded_error"),
        ({"x_test_fault": "529,429", "x_stainless_retry_count": "1"}, {}, 429, "rate_limit_error"),
    ],
)
def test_errors(
    api: MessagesApi, headers: dict[str, str], content: dict[str, Any], status: int, kind: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        message(api, {**body(), **content}, **headers)
    with caught.value as error:
        assert error.code == status
        assert json.load(error)["error"]["type"] == kind
    assert api.charges == []


def test_a_failing_script_says_so() -> None:
    with MessagesApi(lambda _: [][1]) as api:
        with pytest.raises(urllib.error.HTTPError) as caught:
            message(api, body())
        with caught.value as error:
            assert "The script failed: IndexError" in json.load(error)["error"]["message"]


def test_an_answer_that_has_begun_is_written_to_its_end() -> None:
    with MessagesApi(answer, stream_delay=0.02) as api:
        stream = opened(api, "/v1/messages", body(stream=True))
    with stream:
        assert b"message_stop" in stream.read()


def test_no_key(api: MessagesApi) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(api.url + "/v1/messages", b"{}")
    with caught.value as error:
        assert error.code == 401


def test_gzip() -> None:
    with MessagesApi(answer, gzip=True) as api:
        headers, content = post(api, "/v1/messages", body(), accept_encoding="gzip")
        assert headers["content-encoding"] == "gzip"
        assert json.loads(gzip.decompress(content))["content"] == [text("Hello")]
        assert message(api, body())["content"] == [text("Hello")]


# Through the SDK, as agents call it


@pytest.fixture
def anthropic(api: MessagesApi, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("anthropic")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    return module


def test_sdk_message_and_stream_agree(api: MessagesApi, anthropic: Any) -> None:
    with anthropic.Anthropic() as client:
        whole = client.messages.create(**body(tools=[TOOL]))
        with client.messages.stream(**body(tools=[TOOL])) as stream:
            streamed = stream.get_final_message()
    assert [block.type for block in whole.content] == ["text", "tool_use"]
    assert streamed.content[1].input == whole.content[1].input == {"order": "A-1"}
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert whole.stop_reason == streamed.stop_reason == "tool_use"
    assert len(api.charges) == 2


def test_sdk_retries_are_not_charged(api: MessagesApi, anthropic: Any) -> None:
    api.fail_next(ApiError(529, retry_after=0.01), ApiError(429, retry_after=0.01))
    with anthropic.Anthropic() as client:
        client.messages.create(**body())
    assert (len(api.requests), len(api.charges)) == (3, 1)


def test_sdk_sees_an_error_in_the_stream(api: MessagesApi, anthropic: Any) -> None:
    api.fail_next(ApiError(529, in_stream=True))
    with (
        anthropic.Anthropic() as client,
        client.messages.stream(**body()) as stream,
        pytest.raises(anthropic.APIStatusError, match="Scripted fault"),
    ):
        stream.get_final_message()


def test_sdk_async_concurrency(api: MessagesApi, anthropic: Any) -> None:
    async def run() -> list[str]:
        async with anthropic.AsyncAnthropic() as client:
            answers = await asyncio.gather(*(client.messages.create(**body()) for _ in range(8)))
        return [answer.id for answer in answers]

    assert len(set(asyncio.run(run()))) == len(api.charges) == 8


def test_sdk_beta_and_counting(api: MessagesApi, anthropic: Any) -> None:
    with anthropic.Anthropic() as client:
        beta = client.beta.messages.create(**body(), betas=["context-1m-2025-08-07"])
        counted = client.messages.count_tokens(model=SONNET, messages=[user("Hello")])
    assert beta.usage.input_tokens == counted.input_tokens


def test_sdk_batch(api: MessagesApi, anthropic: Any) -> None:
    requests = [
        {"custom_id": "good", "params": body()},
        {"custom_id": "bad", "params": body("claude-none-1")},
    ]
    with anthropic.Anthropic() as client:
        batch = client.messages.batches.create(requests=requests)
        states = [client.messages.batches.retrieve(batch.id).processing_status for _ in range(2)]
        results = {entry.custom_id: entry.result for entry in client.messages.batches.results(batch.id)}
    assert states == ["in_progress", "ended"]
    assert results["good"].message.usage.service_tier == "batch"
    assert results["bad"].type == "errored"
    assert [charge.service_tier for charge in api.charges] == ["batch"]


# Platforms


@pytest.mark.parametrize(
    ("path", "model", "stream", "event_stream"),
    [
        ("/model/anthropic.claude-sonnet-4-6-v1:0/invoke", "anthropic.claude-sonnet-4-6-v1:0", False, True),
        (
            "/model/us.anthropic.claude-haiku-4-5-20251001-v1:0/invoke-with-response-stream",
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            True,
            True,
        ),
        (
            "/v1/projects/p/locations/global/publishers/anthropic/models/claude-opus-4-8:rawPredict",
            "claude-opus-4-8",
            False,
            False,
        ),
        (
            "/v1/projects/p/locations/us/publishers/anthropic/models/claude-haiku-4-5@20251001:streamRawPredict",
            "claude-haiku-4-5@20251001",
            True,
            False,
        ),
    ],
)
def test_platform_paths(path: str, model: str, stream: bool, event_stream: bool) -> None:
    found = route("POST", path)
    assert found is not None
    assert (found.model, found.stream, found.event_stream) == (model, stream, event_stream)
    assert find_model(model) is not None


@pytest.mark.parametrize("path", ["/v1/complete", "/model/x/converse", "/v1/messages/batches/x/cancel"])
def test_other_paths_are_not_found(path: str) -> None:
    assert route("POST", path) is None


def test_bedrock_event_stream(api: MessagesApi) -> None:
    request = {key: value for key, value in body().items() if key != "model"}
    path = "/model/anthropic.claude-sonnet-4-6-v1%3A0/invoke-with-response-stream"
    headers, content = post(api, path, {**request, "anthropic_version": "bedrock-2023-05-31"})
    assert headers["content-type"] == "application/vnd.amazon.eventstream"
    payloads = []
    while content:
        length, header_length = int.from_bytes(content[:4], "big"), int.from_bytes(content[4:8], "big")
        payloads.append(json.loads(content[12 + header_length : length - 4]))
        content = content[length:]
    streamed = [json.loads(base64.b64decode(payload["bytes"])) for payload in payloads]
    assert [event["type"] for event in streamed][0::7] == ["message_start"]
    assert streamed[-1]["type"] == "message_stop"
    assert streamed[-2]["usage"]["output_tokens"] == api.charges[0].usage.output_tokens


def test_vertex_streams_events(api: MessagesApi) -> None:
    request = {key: value for key, value in body(OPUS).items() if key != "model"}
    path = f"/v1/projects/p/locations/global/publishers/anthropic/models/{OPUS}:streamRawPredict"
    headers, content = post(api, path, request)
    assert headers["content-type"].startswith("text/event-stream")
    assert content.startswith(b"event: message_start\n")
    assert api.charges[0].model == OPUS


def test_every_line_of_the_table_is_well_formed() -> None:
    table = read_table(KNOWN_TEXTS)
    assert all(tokens > 0 and family in ("3.0", "4.7", "4.8") for (family, _), tokens in table.items())
    assert len(table) > 0
