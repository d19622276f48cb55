"""The Message Batches API."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest
from asking import KEY, URL, Row, echo, text

pytestmark = pytest.mark.token_budget
LETTERS = {"first": "One", "bad": "fail", "late": "expire", "last": "Two"}


def entries(row: Row) -> Any:
    return [{"custom_id": name, "params": row.request(words)} for name, words in LETTERS.items()]


def check(results: dict[str, Any]) -> None:
    """The server gives them in another order than they were sent in."""
    assert list(results) == list(reversed(LETTERS))
    assert {name: result.type for name, result in results.items()} == {
        "first": "succeeded",
        "bad": "errored",
        "late": "expired",
        "last": "succeeded",
    }
    assert text(results["first"].message) == echo("One")
    assert text(results["last"].message) == echo("Two")


def test_batch(row: Row) -> None:
    with anthropic.Anthropic(base_url=URL, api_key=KEY) as client:
        batch = client.messages.batches.create(requests=entries(row))
        for _ in range(3):
            batch = client.messages.batches.retrieve(batch.id)
        assert (batch.processing_status, batch.request_counts.errored) == ("ended", 1)
        check({entry.custom_id: entry.result for entry in client.messages.batches.results(batch.id)})


def test_batch_async(row: Row) -> None:
    async def ask() -> None:
        async with anthropic.AsyncAnthropic(base_url=URL, api_key=KEY) as client:
            batch = await client.beta.messages.batches.create(requests=entries(row))
            while batch.processing_status != "ended":
                batch = await client.beta.messages.batches.retrieve(batch.id)
            results = await client.beta.messages.batches.results(batch.id)
            check({entry.custom_id: entry.result async for entry in results})

    asyncio.run(ask())
