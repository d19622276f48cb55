"""Requests are read once: what says the same to the byte, to the same address, is the same request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_tokenbudget.replay.traffic import Reader

BODY = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}
BATCH = {"requests": [{"custom_id": "a", "params": BODY}]}
URL = "https://api.anthropic.com/v1/messages"


def raw(body: Any = BODY, url: str = URL, method: str = "POST", **headers: str) -> dict[str, Any]:
    listed = {name.replace("_", "-"): [value] for name, value in headers.items()}
    return {"method": method, "uri": url, "body": json.dumps(body).encode(), "headers": listed}


@pytest.mark.parametrize(
    "again",
    [raw(), raw() | {"body": json.dumps(BODY)}, raw(x_api_key="secret"), raw(date="today", accept="*/*")],
    ids=["the same", "as text", "another key", "other headers"],
)
def test_what_says_the_same_is_read_once(again: dict[str, Any]) -> None:
    reader = Reader()
    first, second = reader.read(raw()), reader.read(again)
    assert second.request is first.request is not None
    assert second.raw["headers"] == again["headers"], "what was sent beside it stays its own"


@pytest.mark.parametrize(
    "other",
    [
        raw({**BODY, "max_tokens": 10}),
        raw(url="https://resource.services.ai.azure.com/anthropic/v1/messages"),
        raw(url="https://api.anthropic.com/v1/messages/count_tokens"),
        raw(anthropic_beta="context-1m-2025-08-07"),
        raw(x_claude_code_agent_id="a1"),
    ],
    ids=["body", "platform", "api", "beta", "subagent"],
)
def test_what_says_something_else_is_another_request(other: dict[str, Any]) -> None:
    reader = Reader()
    reader.read(raw())
    assert reader.read(other).request == Reader().read(other).request != Reader().read(raw()).request


def test_what_is_no_model_call_stays_none() -> None:
    reader = Reader()
    reader.read(raw())
    assert reader.read(raw(method="GET")).request is None
    assert reader.read(raw(url="https://api.anthropic.com/v1/models")).request is None


def test_a_batch_keeps_its_entries() -> None:
    reader, url = Reader(), f"{URL}/batches"
    first, second = reader.read(raw(BATCH, url)), reader.read(raw(BATCH, url))
    assert [entry.custom_id for entry in second.entries] == ["a"]
    assert second.entries is first.entries
    assert reader.read(raw(BATCH | {"requests": []}, url)).entries == ()
