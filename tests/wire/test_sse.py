"""Server-sent events: what is read is what was written, whatever the line ends and the text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.wire.framing import looks_like_sse, read_sse, write_sse

EVENT = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "a\u2028b\n\x85c"},
}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_any_line_end_and_only_a_line_end_ends_a_line(end: bytes) -> None:
    assert list(read_sse(write_sse([EVENT, EVENT]).replace(b"\n", end))) == [EVENT, EVENT]


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b'data: {"a": 1}\n\n', [{"a": 1}]),
        (b'data:{"a": 1}', [{"a": 1}]),
        (b'event: x\nid: 3\nretry: 9\n: a comment\ndata: {"a":\ndata: 1}\n\n', [{"a": 1}]),
        (b"\n\n: keep-alive\n\n", []),
        (b'data: {"a": 1}\n\ndata: {"b": ', [{"a": 1}]),
        (b'data: [DONE]\n\ndata: 7\n\ndata: {"a": 1}\n\n', [{"a": 1}]),
        (b"", []),
    ],
)
def test_the_format(body: bytes, events: list[dict[str, Any]]) -> None:
    assert list(read_sse(body)) == events


@pytest.mark.parametrize(
    ("body", "yes"),
    [
        (b"event: ping\n", True),
        (b"\n\ndata: {}\n", True),
        (b": hello\n", True),
        (b'{"data": 1}', False),
        (b"", False),
    ],
)
def test_it_is_told_by_its_bytes(body: bytes, yes: bool) -> None:
    assert looks_like_sse(body) is yes


@given(st.lists(st.text(st.characters(codec=None)), max_size=4))
def test_any_text_survives(texts: list[str]) -> None:
    events = [{"type": "ping", "text": text} for text in texts]
    assert list(read_sse(write_sse(events))) == events
