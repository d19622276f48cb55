"""What an answer bills: every shape of usage, every framing, every rate; what is unknown stays unknown."""

from __future__ import annotations

import gzip
import importlib
import json
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.wire.answers import read_answer, tokens
from pytest_tokenbudget.wire.exchange import Answer, Request
from pytest_tokenbudget.wire.framing import decode_body, write_event_stream, write_sse
from pytest_tokenbudget.wire.requests import read_request

URL = "https://api.anthropic.com/v1/messages"
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5-20251001",
    "content": [{"type": "text", "text": "Hoi."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 12, "output_tokens": 4},
}


def request(url: str = URL, model: str = "claude-haiku-4-5") -> Request:
    found = read_request("POST", url, {}, json.dumps({"model": model, "messages": []}).encode())
    assert found is not None
    return found


def answer(message: dict[str, Any] | bytes, *, url: str = URL, status: int = 200, **headers: str) -> Answer:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return read_answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, body, request(url))


def bills(usage: dict[str, Any], *, url: str = URL, **message: Any) -> dict[str, Tokens]:
    """Tokens by rate, as the rate is written."""
    read = answer({**MESSAGE, **message, "usage": usage}, url=url)
    assert read.usage is not None, read.error
    assert read.usage.turns == 1
    return {str(rate): counted for rate, counted in read.usage.by_rate.items()}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 3, "output_tokens": 5}, Tokens(3, output_tokens=5)),
        (
            {"input_tokens": 3, "output_tokens": 5, "cache_creation_input_tokens": 40},
            Tokens(3, ephemeral_5m_input_tokens=40, output_tokens=5),
        ),
        (
            {
                "input_tokens": 3,
                "output_tokens": 5,
                "cache_creation_input_tokens": 100,
                "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
                "cache_read_input_tokens": 7,
            },
            Tokens(3, 60, 40, 7, 5),
        ),
        (  # a server tool's own breakpoint grew the total at the end of a stream, not the split
            {
                "input_tokens": 3,
                "output_tokens": 5,
                "cache_creation_input_tokens": 130,
                "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
            },
            Tokens(3, 90, 40, 0, 5),
        ),
        (
            {
                "input_tokens": 3,
                "output_tokens": 5,
                "cache_creation_input_tokens": None,
                "cache_creation": {"ephemeral_5m_input_tokens": 6, "ephemeral_1h_input_tokens": None},
                "cache_read_input_tokens": None,
                "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
            },
            Tokens(3, 6, 0, 0, 5, web_search_requests=2),
        ),
        ({"input_tokens": 3, "output_tokens": 5, "server_tool_use": None}, Tokens(3, output_tokens=5)),
        ({"output_tokens": 5}, None),
        ({"input_tokens": 3}, None),
        ({"input_tokens": 3, "output_tokens": None}, None),
        ({"input_tokens": "many", "output_tokens": 5}, None),
        ({"input_tokens": "3", "output_tokens": 5.0}, Tokens(3, output_tokens=5)),
        ({"input_tokens": 3.5, "output_tokens": 5}, None),
        ({"input_tokens": True, "output_tokens": 5}, None),
        ({"input_tokens": -3, "output_tokens": 5}, None),
        ({"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": -1}, None),
        (
            {"input_tokens": 3, "output_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": -9}},
            None,
        ),
        ({}, None),
    ],
)
def test_tokens(usage: dict[str, Any], expected: Tokens | None) -> None:
    assert tokens(usage) == expected


COUNTS = {"input_tokens": 3, "output_tokens": 5}
BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com/model"
VERTEX = "https://aiplatform.googleapis.com/v1/projects/p/locations"
FOUNDRY = "https://me.services.ai.azure.com/anthropic/v1/messages"
MODEL = "claude-haiku-4-5-20251001"


@pytest.mark.parametrize(
    ("url", "usage", "rate"),
    [
        (URL, {}, MODEL),
        (URL, {"service_tier": "standard", "inference_geo": "global", "speed": "standard"}, MODEL),
        (URL, {"service_tier": None, "inference_geo": "", "speed": None}, MODEL),
        (URL, {"inference_geo": "not_available"}, MODEL),
        (URL, {"service_tier": "batch"}, f"{MODEL} (batch)"),
        (URL, {"service_tier": "priority"}, f"{MODEL} (priority)"),
        (URL, {"speed": "fast", "inference_geo": "us"}, f"{MODEL} (fast, us)"),
        (FOUNDRY, {}, f"{MODEL} (azure)"),
        (f"{BEDROCK}/global.anthropic.claude-haiku-4-5-20251001-v1:0/invoke", {}, f"{MODEL} (aws)"),
        (f"{BEDROCK}/us.anthropic.claude-haiku-4-5-20251001-v1:0/invoke", {}, f"{MODEL} (aws, regional)"),
        (f"{BEDROCK}/anthropic.claude-haiku-4-5-20251001-v1:0/invoke", {}, f"{MODEL} (aws, regional)"),
        # the endpoint's region is in the rate already: the geography must not be charged twice
        (
            f"{BEDROCK}/us.anthropic.claude-haiku-4-5-20251001-v1:0/invoke",
            {"inference_geo": "us"},
            f"{MODEL} (aws, regional)",
        ),
        (
            f"{VERTEX}/global/publishers/anthropic/models/claude-haiku-4-5@20251001:rawPredict",
            {},
            f"{MODEL} (google)",
        ),
        (
            f"{VERTEX}/us-east5/publishers/anthropic/models/claude-haiku-4-5@20251001:rawPredict",
            {},
            f"{MODEL} (google, regional)",
        ),
    ],
)
def test_the_rate_of_an_answer(url: str, usage: dict[str, Any], rate: str) -> None:
    assert bills({**COUNTS, **usage}, url=url) == {rate: Tokens(3, output_tokens=5)}


@pytest.mark.parametrize(
    ("url", "model", "billed_as"),
    [
        (URL, MODEL, MODEL),
        (URL, None, "claude-haiku-4-5"),
        (f"{BEDROCK}/eu.anthropic.claude-opus-4-8/invoke", None, "eu.anthropic.claude-opus-4-8"),
    ],
    ids=["the answer's", "else the request's", "else the path's"],
)
def test_the_model_is_the_one_that_is_billed(url: str, model: str | None, billed_as: str) -> None:
    assert {Rate.parse(rate).model for rate in bills(COUNTS, url=url, model=model)} == {billed_as}


def iteration(kind: str, inp: int, out: int, model: str | None = None) -> dict[str, Any]:
    entry = {"type": kind, "input_tokens": inp, "output_tokens": out, "cache_read_input_tokens": 0}
    return entry if model is None else {**entry, "model": model}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param(
            {"iterations": [iteration("message", 1, 2), iteration("message", 2, 3, "claude-haiku-4-5")]},
            {MODEL: Tokens(3, output_tokens=5)},
            id="a server tool's loop is summed at the top level",
        ),
        pytest.param(
            {"iterations": [iteration("compaction", 900, 80), iteration("message", 3, 5)]},
            {MODEL: Tokens(903, output_tokens=85)},
            id="a compaction is not",
        ),
        pytest.param(
            {
                "speed": "fast",
                "inference_geo": "us",
                "iterations": [
                    iteration("message", 3, 5),
                    iteration("advisor_message", 50, 6, "claude-opus-5"),
                ],
            },
            {
                f"{MODEL} (fast, us)": Tokens(3, output_tokens=5),
                "claude-opus-5 (us)": Tokens(50, output_tokens=6),
            },
            id="an advisor bills at its own model's standard speed",
        ),
        pytest.param(
            {"speed": "fast", "iterations": [iteration("advisor_message", 50, 6, MODEL)]},
            {f"{MODEL} (fast)": Tokens(3, output_tokens=5), MODEL: Tokens(50, output_tokens=6)},
            id="an advisor of the same model, too",
        ),
        pytest.param(
            {
                "iterations": [
                    iteration("message", 700, 0, "claude-fable-5"),
                    iteration("fallback_message", 3, 5, "claude-opus-4-8"),
                ]
            },
            {"claude-opus-4-8": Tokens(3, output_tokens=5)},
            id="an attempt declined before output is free, the fallback is at the top level",
        ),
        pytest.param(
            {
                "iterations": [
                    iteration("message", 700, 9, "claude-fable-5"),
                    iteration("message", 1, 2, "claude-opus-4-8"),
                    iteration("fallback_message", 2, 3, "claude-opus-4-8"),
                ]
            },
            {
                "claude-opus-4-8": Tokens(3, output_tokens=5),
                "claude-fable-5": Tokens(700, output_tokens=9),
            },
            id="one declined after output is not free",
        ),
        pytest.param({"iterations": None}, {MODEL: Tokens(3, output_tokens=5)}, id="none"),
        pytest.param({"iterations": []}, {MODEL: Tokens(3, output_tokens=5)}, id="empty"),
    ],
)
def test_iterations_bill_by_entry(usage: dict[str, Any], expected: dict[str, Tokens]) -> None:
    assert bills({**COUNTS, **usage}) == expected


COUNTLESS = {"type": "compaction", "input_tokens": None, "output_tokens": 2}


@pytest.mark.parametrize(
    ("iterations", "error"),
    [
        ({"type": "message"}, "usage.iterations of the answer is no list"),
        ([None], "usage.iterations[0] of the answer cannot be read"),
        ([iteration("message", 3, 5), "x"], "usage.iterations[1] of the answer cannot be read"),
        ([{**iteration("message", 3, 5), "model": 7}], "usage.iterations[0] of the answer cannot be read"),
        ([{}], "usage.iterations[0] of the answer is of an unknown type, None"),
        ([iteration("debate", 3, 5)], "usage.iterations[0] of the answer is of an unknown type, 'debate'"),
        ([iteration("advisor_message", 3, 5)], "usage.iterations[0] of the answer names no model"),
        ([COUNTLESS], "usage.iterations[0] of the answer reports no usage"),
        ([{"type": "message", "output_tokens": 5}], "usage.iterations[0] of the answer reports no usage"),
    ],
)
def test_iterations_that_are_not_understood_may_bill_anything(iterations: Any, error: str) -> None:
    read = answer({**MESSAGE, "usage": {**COUNTS, "iterations": iterations}})
    assert (read.usage, read.error, read.billed) == (None, error, True)
    assert read.message is not None


def test_a_refusal_before_output_is_a_turn_without_tokens() -> None:
    refused = {"stop_reason": "refusal", "content": []}
    assert bills({"input_tokens": 106, "output_tokens": 1}, **refused) == {MODEL: Tokens()}


def test_a_refusal_after_output_is_billed() -> None:
    assert bills(COUNTS, stop_reason="refusal") == {MODEL: Tokens(3, output_tokens=5)}


@pytest.mark.parametrize(
    ("message", "status", "error"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, 529, "overloaded_error"),
        ({"type": "error", "error": {"type": "api_error"}}, 200, "api_error"),
        ({"error": {"code": 429, "message": "gateway"}}, 429, "429"),
        ({"message": "Malformed input request"}, 400, "HTTP 400"),
        (b"<html>Bad gateway</html>", 502, "HTTP 502"),
        (b"", 500, "HTTP 500"),
        (b"<html>hello</html>", 200, "the answer is neither JSON nor a stream"),
        (b"", 200, "the answer is neither JSON nor a stream"),
        ({**MESSAGE, "usage": None}, 200, "the answer reports no usage"),
        ({"choices": []}, 200, "the answer reports no usage"),
    ],
)
def test_what_bills_nothing_known_says_why(message: Any, status: int, error: str) -> None:
    read = answer(message, status=status)
    assert (read.usage, read.error, read.billed) == (None, error, status == 200)


@pytest.mark.parametrize("path", ["/count_tokens", "/batches", "/batches/msgbatch_1/cancel"])
def test_counting_and_asking_are_free_which_is_not_unknown(path: str) -> None:
    body = json.dumps({"messages": [], "requests": []}).encode()
    asked = read_request("POST", URL + path, {}, body)
    assert asked is not None
    assert read_answer(200, {}, b'{"input_tokens": 2095}', asked).usage == Usage()


def test_the_results_of_a_batch_bill_by_entry_not_here() -> None:
    asked = read_request("GET", f"{URL}/batches/msgbatch_1/results", {}, b"")
    assert asked is not None
    assert read_answer(200, {}, b'{"custom_id": "a"}\n{"custom_id": "b"}\n', asked) == Answer(
        200, usage=Usage()
    )


def test_the_date_is_when_the_answer_began() -> None:
    assert answer(MESSAGE, date="Sat, 21 Nov 2026 10:00:00 GMT").date == datetime(
        2026, 11, 21, 10, tzinfo=UTC
    )
    assert answer(MESSAGE, date="REDACTED").date is None


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*MESSAGE, *COUNTS, "cache_creation", "iterations", "error", "index", "delta", "message"]
            ),
            children
            | st.sampled_from(["message_start", "content_block_delta", "message_delta", "text_delta"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from([*MESSAGE, "delta", "index", "message"]), odd),
    st.sampled_from([200, 529]),
)
def test_nothing_that_a_server_sends_raises(body: dict[str, Any], status: int) -> None:
    for sent in (
        json.dumps(body).encode(),
        write_sse([{"type": "message_start", **body}, {"type": "x", **body}]),
    ):
        read = answer(sent, status=status)
        assert read.usage is not None or read.error


def stream(start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    started = {**MESSAGE, "content": [], "stop_reason": None, "usage": start}
    text = {"type": "text_delta", "text": "Hoi."}
    return [
        {"type": "message_start", "message": started},
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": text},
        {"type": "content_block_stop", "index": 0},
        *({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": one} for one in deltas),
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize("write", [write_sse, write_event_stream])
@pytest.mark.parametrize(
    ("start", "deltas", "expected"),
    [
        pytest.param(
            {"input_tokens": 9, "cache_read_input_tokens": 70, "output_tokens": 0},
            [{"output_tokens": 5}],
            Tokens(9, 0, 0, 70, 5),
            id="input first, output last",
        ),
        pytest.param(
            {"input_tokens": 0, "output_tokens": 0},
            [{"input_tokens": 9, "output_tokens": 5, "cache_read_input_tokens": 70}],
            Tokens(9, 0, 0, 70, 5),
            id="zeros first, all last",
        ),
        pytest.param(
            {"input_tokens": 9, "output_tokens": 1},
            [{"output_tokens": 5, "input_tokens": None}],
            Tokens(9, output_tokens=5),
            id="a placeholder first, the total last",
        ),
        pytest.param(
            {"input_tokens": 2679, "output_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": 8}},
            [{"output_tokens": 5}, {"input_tokens": 10682, "output_tokens": 510}],
            Tokens(10682, 0, 8, 0, 510),
            id="cumulative, growing, the split from the start",
        ),
    ],
)
def test_a_streams_counts_merge_field_by_field(
    write: Any, start: dict[str, Any], deltas: list[dict[str, Any]], expected: Tokens
) -> None:
    read = answer(write(stream(start, *deltas)))
    assert read.usage == Usage.of(Rate(MODEL), expected)
    assert read.message is not None
    assert read.message["content"] == MESSAGE["content"]
    assert read.message["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (stream(COUNTS)[:4], "the stream ended before it told its usage"),
        (stream(COUNTS, {"input_tokens": 9}), "the stream ended before it told its usage"),
    ],
    ids=["aborted", "no output told"],
)
def test_a_broken_stream_has_a_message_but_no_usage(events: list[dict[str, Any]], error: str) -> None:
    read = answer(write_sse(events))
    assert (read.usage, read.error) == (None, error)
    assert read.message is not None


@pytest.mark.parametrize(
    ("events", "output"),
    [(stream(COUNTS)[:4], 5), (stream(COUNTS, {"output_tokens": 9}), 9)],
    ids=["an error ends it", "an error after its usage"],
)
def test_a_stream_that_the_api_ends_by_an_error_bills_what_it_told(
    events: list[dict[str, Any]], output: int
) -> None:
    read = answer(write_sse([*events, {"type": "error", "error": {"type": "overloaded_error"}}]))
    assert read.error == "overloaded_error"
    assert read.usage is not None
    assert (read.usage.tokens.input_tokens, read.usage.tokens.output_tokens) == (3, output)


def test_a_stream_cut_inside_an_event_is_broken_not_fatal() -> None:
    whole = write_sse(stream(COUNTS, {"output_tokens": 5}))
    for end in range(1, len(whole) - 60, 7):
        read = answer(whole[:end])
        assert read.usage is None
        assert read.error


def test_a_damaged_event_stream_says_so() -> None:
    body = bytearray(write_event_stream(stream(COUNTS, {"output_tokens": 5})))
    body[-1] ^= 1
    assert "checksum" in (answer(bytes(body)).error or "")


PLAIN = json.dumps(MESSAGE).encode()
GZIPPED = gzip.compress(PLAIN, mtime=0)  # the same in each process of pytest-xdist: it is in names of tests


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", GZIPPED),
        ("GZIP", GZIPPED),
        ("", GZIPPED),
        ("deflate", zlib.compress(PLAIN)),
        ("deflate", raw_deflate(PLAIN)),
        ("deflate, gzip", gzip.compress(zlib.compress(PLAIN), mtime=0)),
        ("identity", PLAIN),
        ("gzip", PLAIN),
        ("br", PLAIN),
        ("zstd", PLAIN),
        ("gzip", b""),
    ],
)
def test_compression_is_undone_once_and_only_if_it_is_there(encoding: str, body: bytes) -> None:
    assert decode_body({"content-encoding": encoding}, body) == (PLAIN if body else b"")


@pytest.mark.parametrize(("encoding", "module"), [("br", "brotli"), ("zstd", "zstandard")])
def test_other_compressions_by_their_modules(encoding: str, module: str) -> None:
    body = pytest.importorskip(module).compress(PLAIN)
    assert decode_body({"content-encoding": encoding}, body) == PLAIN


@pytest.mark.parametrize(
    ("encoding", "body"), [("br", b"\x1b\x00\x11"), ("zstd", b"\x28\xb5\x2f\xfd\x00")], ids=["br", "zstd"]
)
def test_a_missing_module_is_named_not_guessed_around(
    encoding: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("pytest_tokenbudget.wire.framing.import_module", missing)
    with pytest.raises(CassetteError, match=f"compressed with {encoding}.*Install"):
        decode_body({"content-encoding": encoding}, body)
    assert encoding in (answer(body, content_encoding=encoding).error or "")


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", GZIPPED[:-12]), ("deflate", b"\xff\xff\xff"), ("br", b"\x00\x01\xff\xff\xff")],
)
def test_a_damaged_body_is_an_error_of_its_own(encoding: str, body: bytes) -> None:
    if encoding == "br":
        try:
            importlib.import_module("brotli")
        except ImportError:
            pytest.skip("brotli is not installed")
    with pytest.raises(CassetteError, match="damaged"):
        decode_body({"content-encoding": encoding}, body)
    read = answer(body, content_encoding=encoding)
    assert read.usage is None
    assert "damaged" in (read.error or "")
