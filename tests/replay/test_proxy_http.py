"""What a child may send over a raw connection: every form of HTTP works, or is refused and told."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

import pytest

from pytest_tokenbudget.replay.proxy import Proxy, Reply

BODY = b'{"say": "hello"}'
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b'5;x=y\r\n{"say\r\nb\r\n": "hello"}\r\n0\r\ntrailer: x\r\n\r\n'
Asked = list[tuple[str, str, Mapping[str, str], bytes]]


def exchange(proxy: Proxy, *sent: bytes, ends: bool = False) -> bytes:
    """What comes back until the proxy closes the connection; `ends`: the child says no more."""
    address = urlsplit(proxy.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=600) as connection:
        for data in sent:
            connection.sendall(data)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def post(headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST /v1/messages HTTP/%b\r\nhost: x\r\n%b\r\n%b" % (version, headers, body)


@pytest.fixture
def asked() -> Asked:
    return []


@pytest.fixture
def proxy(asked: Asked) -> Proxy:
    def answer(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        asked.append((method, path, headers, body))
        stream = iter([b"data: one\n\n", b"data: two\n\n"])
        return Reply(200, {"content-type": ["text/event-stream"]}, stream if headers.get("stream") else b"{}")

    return Proxy(answer)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (post(b"connection: close\r\n" + LENGTH, BODY), BODY),
        (post(b"Connection: Close\r\nCONTENT-LENGTH: %d\r\n" % len(BODY), BODY), BODY),
        (post(b"connection: close\r\n" + CHUNKED, CHUNKS), BODY),
        (post(b"connection: close\r\nTransfer-Encoding: Chunked\r\n", CHUNKS), BODY),
        (post(LENGTH, BODY, b"1.0"), BODY),
        (post(b"connection: close\r\nexpect: 100-continue\r\n" + LENGTH, BODY), BODY),
        (post(b"connection: close\r\n"), b""),
        (post(b"connection: close\r\ncontent-length: 10000000\r\n", b"x" * 10_000_000), b"x" * 10_000_000),
    ],
    ids=["length", "capitals", "chunks", "capital chunks", "HTTP/1.0", "expect", "no body", "10 MB"],
)
def test_each_form_of_request_is_answered(proxy: Proxy, asked: Asked, request_: bytes, body: bytes) -> None:
    with proxy:
        came = exchange(proxy, request_).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert came.startswith(b"HTTP/1.1 200 OK\r\n")
    assert came.endswith(b"\r\n\r\n{}")
    assert [one[3] for one in asked] == [body]
    assert proxy.failures == []


def test_several_requests_on_one_connection(proxy: Proxy, asked: Asked) -> None:
    with proxy:
        came = exchange(
            proxy, post(LENGTH, BODY), post(CHUNKED, CHUNKS), post(b"connection: close\r\n" + LENGTH, BODY)
        )
    assert came.count(b"HTTP/1.1 200 OK") == len(asked) == 3
    assert [one[3] for one in asked] == [BODY] * 3


def test_a_stream_ends_as_the_child_understands(proxy: Proxy) -> None:
    """In chunks, or for HTTP/1.0 with the connection, kept alive or not."""
    events = b"data: one\n\ndata: two\n\n"
    with proxy:
        new = exchange(proxy, post(b"stream: 1\r\nconnection: close\r\n" + LENGTH, BODY))
        old = exchange(proxy, post(b"stream: 1\r\nconnection: keep-alive\r\n" + LENGTH, BODY, b"1.0"))
    assert b"transfer-encoding: chunked" in new
    assert new.endswith(b"\r\n0\r\n\r\n")
    head, _, body = old.partition(b"\r\n\r\n")
    assert body == events
    assert b"chunked" not in head


def test_headers_that_come_twice_are_one_list(proxy: Proxy, asked: Asked) -> None:
    headers = b"anthropic-beta: one\r\nAnthropic-Beta: two\r\nconnection: close\r\n"
    with proxy:
        exchange(proxy, post(headers + LENGTH, BODY))
    assert asked[0][2]["anthropic-beta"] == "one, two"


@pytest.mark.parametrize(
    "sent",
    [post(b"content-length: many\r\n"), post(b"content-length: -5\r\n"), post(CHUNKED, b"zz\r\n")],
    ids=["no number", "negative", "no chunks"],
)
def test_what_is_no_http_is_refused_and_kept(proxy: Proxy, asked: Asked, sent: bytes) -> None:
    with proxy:
        came = exchange(proxy, sent)
    head, _, body = came.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500")
    assert b"x-should-retry: false" in head
    assert json.loads(body)["error"]["message"].startswith("ValueError")
    assert [type(failure) for failure in proxy.failures] == [ValueError]
    assert asked == []


@pytest.mark.parametrize(
    "sent",
    [post(LENGTH, BODY[:5]), post(CHUNKED, CHUNKS[:9]), post(CHUNKED), b"POST /v1/mess"],
    ids=["in the body", "in a chunk", "before the chunks", "in the head"],
)
def test_a_child_that_goes_while_it_asks_has_asked_nothing(proxy: Proxy, asked: Asked, sent: bytes) -> None:
    with proxy:
        came = exchange(proxy, sent, ends=True)
    assert b" 200 " not in came
    assert asked == proxy.failures == []
