"""A recording in another framing than it was made in, as the SDK itself reads it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.wire.answers import read_answer
from pytest_tokenbudget.wire.exchange import Request
from pytest_tokenbudget.wire.framing import (
    Framing,
    assemble,
    disassemble,
    read_sse,
    transcode,
    write_event_stream,
    write_sse,
)
from pytest_tokenbudget.wire.requests import read_request

URL = "https://api.anthropic.com/v1/messages"
BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-opus-4-8/invoke"
CITATION = {
    "type": "char_location",
    "cited_text": "sky is blue",
    "document_index": 0,
    "document_title": "Sky",
    "file_id": None,
    "start_char_index": 4,
    "end_char_index": 15,
}
SEARCH = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [
        {
            "type": "web_search_result",
            "url": "https://example.com",
            "title": "Example",
            "encrypted_content": "Zm9v",
            "page_age": None,
        }
    ],
}
BLOCKS: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": "Grüezi \u2028 mitenand 🙂", "citations": None},
    "empty text": {"type": "text", "text": "", "citations": None},
    "cited": {"type": "text", "text": "The sky is blue.", "citations": [CITATION, CITATION]},
    "tool use": {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "f",
        "input": {"b": [1, {"ü": "ä"}], "a": None},
    },
    "tool use without input": {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    "thinking": {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"},
    "omitted thinking": {"type": "thinking", "thinking": "", "signature": "c2lnbmF0dXJl"},
    "redacted thinking": {"type": "redacted_thinking", "data": "ZW5j"},
    "server tool": {
        "type": "server_tool_use",
        "id": "srvtoolu_1",
        "name": "web_search",
        "input": {"query": "news"},
    },
    "search result": SEARCH,
}
MESSAGE: dict[str, Any] = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-8",
    "content": list(BLOCKS.values()),
    "stop_reason": "stop_sequence",
    "stop_sequence": "</done>",
    "stop_details": None,
    "usage": {
        "input_tokens": 12,
        "cache_creation_input_tokens": 60,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 40},
        "cache_read_input_tokens": 1111,
        "output_tokens": 99,
        "output_tokens_details": {"thinking_tokens": 7},
        "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
        "service_tier": "standard",
        "inference_geo": "global",
    },
}


def asks(url: str = URL, *, stream: bool = False) -> Request:
    body = {"model": "claude-opus-4-8", "messages": [], "anthropic_version": "2023-06-01", "stream": stream}
    request = read_request("POST", url, {}, json.dumps(body).encode())
    assert request is not None
    return request


PLAIN, STREAM = asks(), asks(stream=True)
BEDROCK_PLAIN, BEDROCK_STREAM = asks(BEDROCK), asks(f"{BEDROCK}-with-response-stream")
AS_JSON = json.dumps(MESSAGE).encode()
AS_SSE = write_sse(disassemble(MESSAGE))
AS_EVENT_STREAM = write_event_stream(disassemble(MESSAGE))


@pytest.mark.parametrize("recorded", [AS_JSON, AS_SSE, AS_EVENT_STREAM], ids=["json", "sse", "event stream"])
@pytest.mark.parametrize(
    "request_now",
    [PLAIN, STREAM, BEDROCK_PLAIN, BEDROCK_STREAM],
    ids=["json", "sse", "invoke", "event stream"],
)
def test_any_recording_answers_any_request_with_the_same_message(
    recorded: bytes, request_now: Request
) -> None:
    _, body = transcode({}, recorded, request_now)
    answer = read_answer(200, {}, body, request_now)
    assert answer.message == MESSAGE
    assert answer.usage == read_answer(200, {}, AS_JSON, request_now).usage


@pytest.mark.parametrize(
    ("recorded", "request_now"),
    [(AS_JSON, PLAIN), (AS_JSON, BEDROCK_PLAIN), (AS_SSE, STREAM), (AS_EVENT_STREAM, BEDROCK_STREAM)],
)
def test_what_fits_is_untouched_its_compression_too(recorded: bytes, request_now: Request) -> None:
    packed = gzip.compress(recorded)
    assert transcode({"content-encoding": "gzip"}, packed, request_now) == ({}, packed)


def test_headers_tell_the_new_framing_and_no_old_length() -> None:
    changes, _ = transcode({"content-encoding": "gzip"}, gzip.compress(AS_JSON), STREAM)
    assert changes == {
        "content-type": Framing.SSE.value,
        "content-encoding": None,
        "content-length": None,
        "transfer-encoding": None,
    }


@pytest.mark.parametrize(
    "recorded", [b'{"type": "error", "error": {"type": "overloaded_error"}}', b"<html>", b"", b"[]"]
)
def test_errors_are_json_for_a_streaming_request_too(recorded: bytes) -> None:
    assert transcode({}, recorded, STREAM) == ({}, recorded)


def test_a_stream_keeps_its_deltas_in_the_other_stream_framing() -> None:
    events = list(disassemble(MESSAGE))
    _, body = transcode({}, write_event_stream(events), STREAM)
    assert list(read_sse(body)) == events


@pytest.mark.parametrize(
    "events",
    [[], list(disassemble(MESSAGE))[:5], [{"type": "error", "error": {"type": "overloaded_error"}}]],
    ids=["nothing", "cut off", "error"],
)
def test_a_broken_stream_is_no_message(events: list[dict[str, Any]]) -> None:
    recorded = b": a stream\n\n" + write_sse(events)
    with pytest.raises(CassetteError, match="Record the scenario anew"):
        transcode({}, recorded, PLAIN)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children, max_size=2) | st.dictionaries(st.text(), children, max_size=2),
    max_leaves=6,
)
blocks = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text()),
    st.builds(
        lambda name, value: {"type": "tool_use", "id": "t", "name": name, "input": value},
        st.text(),
        st.dictionaries(st.text(), json_values, max_size=3),
    ),
    st.builds(lambda t, s: {"type": "thinking", "thinking": t, "signature": s}, st.text(), st.text()),
    st.sampled_from(list(BLOCKS.values())),
)


@given(st.lists(blocks, max_size=4), st.integers(0, 99))
def test_a_message_is_the_sum_of_its_events(content: list[dict[str, Any]], output: int) -> None:
    message = {**MESSAGE, "content": content, "usage": {**MESSAGE["usage"], "output_tokens": output}}
    streamed = assemble(read_sse(write_sse(disassemble(message))))
    assert (streamed.message, streamed.error) == (message, None)


def test_pieces_are_joined_and_the_last_signature_stays() -> None:
    start = {"type": "message_start", "message": {"type": "message", "content": [], "usage": {}}}
    deltas = [
        (0, {"type": "thinking_delta", "thinking": "a"}),
        (1, {"type": "input_json_delta", "partial_json": ""}),
        (0, {"type": "thinking_delta", "thinking": "b"}),
        (1, {"type": "input_json_delta", "partial_json": '{"a": [1'}),
        (0, {"type": "signature_delta", "signature": "s"}),
        (1, {"type": "input_json_delta", "partial_json": ", 2]}"}),
        (9, {"type": "text_delta", "text": "of no block"}),
    ]
    opened = [{"type": "thinking", "thinking": "", "signature": ""}, {"type": "tool_use", "input": {}}]
    streamed = assemble(
        [
            start,
            *({"type": "content_block_start", "index": i, "content_block": b} for i, b in enumerate(opened)),
            *({"type": "content_block_delta", "index": i, "delta": delta} for i, delta in deltas),
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 1}},
        ]
    )
    assert streamed.message is not None
    assert streamed.message["content"] == [
        {"type": "thinking", "thinking": "ab", "signature": "s"},
        {"type": "tool_use", "input": {"a": [1, 2]}},
    ]


def test_an_input_cut_at_max_tokens_keeps_its_start() -> None:
    cut = {"type": "input_json_delta", "partial_json": '{"a": [1'}
    streamed = assemble(
        [
            {"type": "message_start", "message": {"content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "input": {}}},
            {"type": "content_block_delta", "index": 0, "delta": cut},
            {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 1}},
        ]
    )
    assert streamed.message is not None
    assert streamed.message["content"] == [{"type": "tool_use", "input": {}}]


# The SDK as the judge: what it makes of a transcoded answer equals what it makes of the message itself.


def serving(recorded: bytes, request_now: Request, **client: Any) -> Iterator[Any]:
    """An HTTP client of the SDK that gets `recorded`, transcoded, for every request."""
    httpx2 = pytest.importorskip("httpx2")
    if not issubclass(pytest.importorskip("anthropic").DefaultHttpxClient, httpx2.Client):
        pytest.skip("this SDK has no httpx2")
    changes, body = transcode({}, recorded, request_now)
    headers = {name: value for name, value in changes.items() if value} or {
        "content-type": "application/json"
    }
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=body))
    with httpx2.Client(transport=transport) as http:
        yield http


ASKED: Any = {
    "model": "claude-opus-4-8",
    "max_tokens": 99,
    "messages": [{"role": "user", "content": "hello"}],
}


@pytest.fixture
def sdk(request: pytest.FixtureRequest) -> Iterator[Any]:
    anthropic = pytest.importorskip("anthropic")
    recorded, request_now = request.param
    for http in serving(recorded, request_now):
        yield anthropic.Anthropic(api_key="k", http_client=http, max_retries=0)


@pytest.fixture
def bedrock(request: pytest.FixtureRequest) -> Iterator[Any]:
    anthropic = pytest.importorskip("anthropic")
    pytest.importorskip("botocore")
    recorded, request_now = request.param
    for http in serving(recorded, request_now):
        yield anthropic.AnthropicBedrock(
            aws_access_key="a", aws_secret_key="s", aws_region="us-east-1", http_client=http, max_retries=0
        )


def dumped(message: Any) -> Any:
    """As JSON, without what the SDK's stream helper adds or leaves at null."""
    data = message.to_dict(mode="json")
    for block in data["content"]:
        block.pop("parsed_output", None)
    return data


@pytest.mark.parametrize("sdk", [(AS_JSON, STREAM), (AS_EVENT_STREAM, STREAM)], indirect=True)
def test_the_sdk_streams_a_recorded_message(sdk: Any) -> None:
    with sdk.messages.stream(**ASKED) as stream:
        text = "".join(stream.text_stream)
        assert dumped(stream.get_final_message()) == MESSAGE
    assert text == "".join(block["text"] for block in MESSAGE["content"] if block["type"] == "text")


@pytest.mark.parametrize("sdk", [(AS_JSON, STREAM)], indirect=True)
def test_the_sdk_iterates_its_raw_events(sdk: Any) -> None:
    events = [event.type for event in sdk.messages.create(**ASKED, stream=True)]
    assert events == [event["type"] for event in disassemble(MESSAGE)]


@pytest.mark.parametrize("sdk", [(AS_SSE, PLAIN), (AS_EVENT_STREAM, PLAIN)], indirect=True)
def test_the_sdk_reads_a_recorded_stream_as_one_message(sdk: Any) -> None:
    assert dumped(sdk.messages.create(**ASKED)) == MESSAGE


@pytest.mark.parametrize("bedrock", [(AS_JSON, BEDROCK_STREAM), (AS_SSE, BEDROCK_STREAM)], indirect=True)
def test_the_sdk_streams_from_bedrock(bedrock: Any) -> None:
    events = list(bedrock.messages.create(**ASKED, stream=True))
    assert [event.to_dict(mode="json") for event in events] == list(disassemble(MESSAGE))


@pytest.mark.parametrize("bedrock", [(AS_EVENT_STREAM, BEDROCK_PLAIN)], indirect=True)
def test_the_sdk_reads_a_bedrock_stream_as_one_message(bedrock: Any) -> None:
    assert dumped(bedrock.messages.create(**ASKED)) == MESSAGE


BETA_MESSAGE = {
    **MESSAGE,
    "content": [
        {"type": "compaction", "content": "What was said.", "encrypted_content": None},
        {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "f", "server_name": "s", "input": {"a": 1}},
        BLOCKS["text"],
    ],
    "container": None,
    "context_management": {"applied_edits": []},
    "usage": {
        **MESSAGE["usage"],
        "iterations": [
            {
                "type": "message",
                "input_tokens": 12,
                "output_tokens": 99,
                "cache_read_input_tokens": 1111,
                "cache_creation_input_tokens": 60,
                "cache_creation": None,
                "model": None,
            }
        ],
    },
}
BETA_JSON = json.dumps(BETA_MESSAGE).encode()


@pytest.mark.parametrize("sdk", [(BETA_JSON, STREAM)], indirect=True)
def test_the_sdk_streams_a_beta_message(sdk: Any) -> None:
    with sdk.beta.messages.stream(**ASKED) as stream:
        assert dumped(stream.get_final_message()) == BETA_MESSAGE


@pytest.mark.parametrize("sdk", [(write_sse(disassemble(BETA_MESSAGE)), PLAIN)], indirect=True)
def test_the_sdk_reads_a_beta_stream_as_one_message(sdk: Any) -> None:
    assert dumped(sdk.beta.messages.create(**ASKED)) == BETA_MESSAGE
