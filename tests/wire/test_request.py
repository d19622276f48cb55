"""A request off the wire: its prompt, its digest, who sent it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.wire.exchange import Request
from pytest_tokenbudget.wire.requests import canonical_body, first_difference, meaning, read_request

URL = "https://api.anthropic.com/v1/messages"
BODY: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 9,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [{"role": "user", "content": "Grüezi"}],
}
ATTRIBUTION = {
    "type": "text",
    "text": "x-anthropic-billing-header: cc_version=2.1.330; cc_entrypoint=sdk-py; cch=1f2e3;",
}


def compact(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def read(body: Any = BODY, url: str = URL, **headers: str) -> Request:
    raw = body if isinstance(body, bytes) else compact(body)
    request = read_request("POST", url, {k.replace("_", "-"): v for k, v in headers.items()}, raw)
    assert request is not None
    return request


def test_prompt_betas_and_stream() -> None:
    request = read({**BODY, "stream": True}, anthropic_beta="a-2026-01-01, b-2026-02-02,")
    assert request.prompt.model == "claude-haiku-4-5"
    assert request.prompt.stream
    assert request.prompt.betas == {"a-2026-01-01", "b-2026-02-02"}
    assert [block.where for block in request.prompt.blocks] == ["system[0]", "messages[0].content[0]"]


@pytest.mark.parametrize(
    ("headers", "betas"),
    [
        ({"anthropic_version": "2023-06-01"}, frozenset()),
        ({"user_agent": "Anthropic/Python 2.12.0"}, frozenset()),
        ({"anthropic_beta": ""}, frozenset()),
        ({}, None),
        ({"content_type": "application/json"}, None),
    ],
)
def test_a_recording_without_headers_does_not_tell_the_betas(
    headers: dict[str, str], betas: frozenset[str] | None
) -> None:
    assert read(**headers).prompt.betas == betas


def test_the_body_tells_the_betas_on_bedrock() -> None:
    assert read({**BODY, "anthropic_beta": ["a-2026-01-01"]}).prompt.betas == {"a-2026-01-01"}


def test_the_path_tells_model_and_stream_on_bedrock() -> None:
    body = {"anthropic_version": "bedrock-2023-05-31", "messages": BODY["messages"]}
    url = "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-opus-4-8/invoke"
    assert read(body, url).prompt.model == "us.anthropic.claude-opus-4-8"
    assert not read(body, url).prompt.stream
    assert read(body, f"{url}-with-response-stream").prompt.stream


@pytest.mark.parametrize("body", [b"", b"--boundary\r\n", b"[1]", b'{"messages": [', b"\x1f\x8b\x00", b'"x"'])
def test_what_is_no_json_object_is_no_request(body: bytes) -> None:
    assert read_request("POST", URL, {}, body) is None


def test_questions_about_a_batch_have_no_body() -> None:
    request = read_request("GET", f"{URL}/batches/msgbatch_1", {}, b"")
    assert request is not None
    assert (request.endpoint.api, request.prompt.blocks) == ("batch", ())


@pytest.mark.parametrize(
    ("headers", "session"),
    [
        ({}, None),
        ({"x_claude_code_session_id": "s"}, "s"),
        ({"x_claude_code_session_id": "s", "x_claude_code_agent_id": "a"}, "s/a"),
    ],
)
def test_subagents_are_told_apart_by_their_headers(headers: dict[str, str], session: str | None) -> None:
    assert read(**headers).session == session


def escaped(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def spaced(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, indent=1).encode()


def with_metadata(body: dict[str, Any]) -> bytes:
    return compact({**body, "metadata": {"user_id": "someone"}})


def with_attribution(body: dict[str, Any]) -> bytes:
    return compact({**body, "system": [ATTRIBUTION, *body["system"]]})


@pytest.mark.parametrize("write", [escaped, spaced, with_metadata, with_attribution])
def test_the_digest_survives_what_differs_on_every_run(write: Callable[[dict[str, Any]], bytes]) -> None:
    assert read(write(BODY)).digest == read().digest


def test_the_digest_survives_another_host_prefix_and_query() -> None:
    assert read(url="http://127.0.0.1:9/gateway/v1/messages?beta=true").digest == read().digest


@pytest.mark.parametrize(
    "changed",
    [
        {"max_tokens": 10},
        {"stream": True},
        {"model": "claude-opus-4-8"},
        {"system": [{"type": "text", "text": "Be brief. "}]},
        {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
    ],
    ids=str,
)
def test_the_digest_tells_every_other_change(changed: dict[str, Any]) -> None:
    assert read({**BODY, **changed}).digest != read().digest


def test_the_digest_tells_key_order_since_the_cache_does() -> None:
    def call(arguments: dict[str, int]) -> dict[str, Any]:
        block = {"type": "tool_use", "id": "t", "name": "add", "input": arguments}
        return {**BODY, "messages": [{"role": "assistant", "content": [block]}]}

    assert read(call({"a": 1, "b": 2})).digest != read(call({"b": 2, "a": 1})).digest


def test_a_recording_that_lost_its_key_order_compares_with_what_is_sent_in_it() -> None:
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {"b": {}, "a": {}}}}
    body = {**BODY, "tools": [tool]}
    recorded = read(json.dumps(body, sort_keys=True, indent=2).encode())
    assert recorded.digest != read(body).digest
    sent = read_request("POST", URL, {}, with_metadata(body), sort_keys=True)
    assert sent == recorded
    asked = ("GET", f"{URL}/batches/msgbatch_1", {}, b"")
    assert read_request(*asked, sort_keys=True) == read_request(*asked)


def test_the_meaning_is_the_same_in_any_order_of_keys_and_on_every_run() -> None:
    body = {**BODY, "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"b": 1}}}]}
    ordered = read(json.dumps({**body, "metadata": {"user_id": "u"}}, sort_keys=True, indent=2).encode())
    assert ordered.digest != read(body).digest
    assert meaning(ordered) == meaning(read(body))


@pytest.mark.parametrize(("was", "now"), [(True, 1), (1, 1.0), (None, False), ("1", 1), ([1, 2], [2, 1])])
def test_the_meaning_has_strict_types(was: object, now: object) -> None:
    tools = [[{"name": "f", "input_schema": {"default": value}}] for value in (was, now)]
    before, after = (meaning(read({**BODY, "tools": tool})) for tool in tools)
    assert before != after


def test_the_meaning_tells_two_counts_and_turns_apart() -> None:
    assert meaning(read(url=f"{URL}/count_tokens")) != meaning(read())


def test_the_digest_tells_two_counts_and_turns_apart() -> None:
    assert read(url=f"{URL}/count_tokens").digest != read().digest


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({}, None),
        ({"metadata": {"user_id": "u"}}, None),
        ({"system": "Be brief. Be kind."}, "system[0], character 10"),
        (
            {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
            "system[0]",
        ),
        ({"tools": [{"name": "f", "input_schema": {"b": "x"}}]}, "tools[0].input_schema.b, character 1"),
        ({"tools": [{"name": "f", "input_schema": {"b": "y", "c": 1}}]}, "tools[0].input_schema.c"),
        ({"tools": [{"name": "f", "input_schema": {"b": "y"}}, {"name": "g"}]}, "tools[1]"),
        ({"tools": []}, "tools[0]"),
        ({"temperature": 1.0}, "temperature"),
    ],
    ids=str,
)
def test_the_first_difference_of_two_requests(changed: dict[str, Any], where: str | None) -> None:
    body = {
        **BODY,
        "system": "Be brief.",
        "tools": [{"name": "f", "input_schema": {"b": "y"}}],
        "temperature": 1,
    }
    assert first_difference(read(body), read({**body, **changed})) == where


def test_the_attribution_block_is_not_part_of_the_prompt() -> None:
    prompt = read(with_attribution(BODY)).prompt
    assert [block.content["text"] for block in prompt.blocks] == ["Be brief.", "Grüezi"]
    assert prompt.blocks[0].where == "system[1]"  # as it was sent


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_compact_body_is_its_own_canonical_form(extra: dict[str, Any]) -> None:
    """So that hashing the bytes as they are, the fast way, and hashing what is written anew agree."""
    body = {**BODY, "tools": [{"name": "t", "input_schema": extra}]}
    try:
        raw = compact(body)
    except UnicodeEncodeError:
        return
    assert canonical_body(body) == raw
    assert read(raw).digest == read(spaced(body)).digest == read(escaped(body)).digest
