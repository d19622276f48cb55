"""Message batches: requests by custom_id, answers in any order, half price, failures free."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.model import Rate, Tokens, Usage
from pytest_tokenbudget.wire.exchange import Answer, Request
from pytest_tokenbudget.wire.requests import read_batch_requests, read_batch_results, read_request

URL = "https://api.anthropic.com/v1/messages/batches"
PARAMS: dict[str, Any] = {
    "model": "claude-opus-4-8",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "hello"}],
}


def created(*entries: dict[str, Any]) -> tuple[Request, ...]:
    body = json.dumps({"requests": entries}).encode()
    request = read_request("POST", URL, {}, body)
    assert request is not None
    return read_batch_requests(request, {"anthropic-beta": "some-2026-01-01"}, body)


def results(*lines: dict[str, Any], pack: Any = bytes) -> dict[str, Answer]:
    request = read_request("GET", f"{URL}/msgbatch_1/results", {}, b"")
    assert request is not None
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return read_batch_results({"content-encoding": "gzip"}, pack(body), request)


def succeeded(custom_id: str, **usage: Any) -> dict[str, Any]:
    message = {"type": "message", "model": "claude-opus-4-8", "content": [{"type": "text", "text": "hi"}]}
    usage = {"input_tokens": 10, "output_tokens": 2, **usage}
    return {"custom_id": custom_id, "result": {"type": "succeeded", "message": {**message, "usage": usage}}}


def test_each_entry_is_a_request_of_its_own() -> None:
    first, second = created(
        {"custom_id": "a", "params": PARAMS},
        {"custom_id": "b", "params": {**PARAMS, "model": "claude-haiku-4-5"}},
    )
    assert (first.custom_id, second.custom_id) == ("a", "b")
    assert (first.prompt.model, second.prompt.model) == ("claude-opus-4-8", "claude-haiku-4-5")
    assert first.endpoint.api == "messages"
    assert first.prompt.betas == {"some-2026-01-01"}
    assert first.digest != second.digest


def test_an_entrys_digest_is_its_contents() -> None:
    (one,) = created({"custom_id": "a", "params": PARAMS})
    (other,) = created({"custom_id": "z", "params": {**PARAMS, "metadata": {"user_id": "u"}}})
    assert one.digest == other.digest


def test_an_entry_of_a_recording_that_lost_its_key_order() -> None:
    entries = {"requests": [{"custom_id": "a", "params": PARAMS}]}
    read = []
    for sort_recorded in (True, False):
        body = json.dumps(entries, sort_keys=sort_recorded).encode()
        request = read_request("POST", URL, {}, body)
        assert request is not None
        read += read_batch_requests(request, {}, body, sort_keys=not sort_recorded)
    assert read[0] == read[1]


def test_metadata_of_entries_is_not_in_the_creations_digest() -> None:
    def digest(params: dict[str, Any]) -> str:
        body = {"requests": [{"custom_id": "a", "params": params}]}
        request = read_request("POST", URL, {}, json.dumps(body).encode())
        assert request is not None
        return request.digest

    assert digest(PARAMS) == digest({**PARAMS, "metadata": {"user_id": "u"}})


def test_only_a_creation_has_entries() -> None:
    body = json.dumps(PARAMS).encode()
    request = read_request("POST", "https://api.anthropic.com/v1/messages", {}, body)
    assert request is not None
    assert read_batch_requests(request, {}, body) == ()


def test_what_is_no_entry_is_left_out() -> None:
    assert created({"custom_id": "a"}, {"params": None}) == ()


def test_results_in_any_order_by_custom_id() -> None:
    read = results(succeeded("b"), succeeded("a", output_tokens=7, service_tier="batch"))
    assert set(read) == {"a", "b"}
    rate = Rate("claude-opus-4-8", ("batch",))
    assert read["a"].usage == Usage.of(rate, Tokens(10, output_tokens=7))
    assert read["b"].usage == Usage.of(rate, Tokens(10, output_tokens=2))
    assert read["a"].message is not None
    assert read["a"].billed


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (
            {"type": "errored", "error": {"type": "error", "error": {"type": "invalid_request_error"}}},
            "invalid_request_error",
        ),
        ({"type": "errored", "error": {"type": "api_error"}}, "api_error"),
        ({"type": "errored"}, "errored"),
        ({"type": "canceled"}, "canceled"),
        ({"type": "expired"}, "expired"),
    ],
)
def test_only_what_succeeded_is_billed(result: dict[str, Any], error: str) -> None:
    answer = results({"custom_id": "a", "result": result})["a"]
    assert (answer.billed, answer.usage, answer.error) == (False, None, error)


def test_compressed_results_and_blank_lines() -> None:
    assert set(results(succeeded("a"), pack=lambda body: gzip.compress(body + b"\n\n"))) == {"a"}


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"custom_id": "a"}', b'{"custom_id": "a", "result": 3}'])
def test_a_line_that_is_no_result_is_named(line: bytes) -> None:
    request = read_request("GET", f"{URL}/msgbatch_1/results", {}, b"")
    assert request is not None
    good = json.dumps(succeeded("a")).encode()
    with pytest.raises(CassetteError, match="Line 2"):
        read_batch_results({}, good + b"\n" + line, request)
