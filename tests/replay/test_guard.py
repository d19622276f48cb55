"""Nothing leaves the machine in replay, and nothing else is disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import pytest
from pytest_recording import network as pytest_recording_network

from pytest_tokenbudget.errors import ReplayMiss
from pytest_tokenbudget.replay.network import NetworkGuard
from support.loopback import serving

FOREIGN = "192.0.2.1"  # TEST-NET-1 (RFC 5737): routed nowhere, should a guard fail
PATCHED = (
    *((socket.socket, name) for name in ("connect", "connect_ex", "sendto")),
    *((socket, name) for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex")),
)


def patched_functions() -> list[object]:
    return [getattr(owner, name) for owner, name in PATCHED]


@pytest.fixture
def guard() -> Iterator[NetworkGuard]:
    with NetworkGuard("test_agent.py::test_refund") as guard:
        yield guard


@pytest.fixture
def server() -> Iterator[int]:
    """A server on loopback, as a scenario may have one; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(httpd):
        yield httpd.server_port


def tcp(host: str) -> None:
    with socket.socket() as sock:
        sock.settimeout(1)
        sock.connect((host, 443))


def connect_ex() -> None:
    with socket.socket() as sock:
        sock.settimeout(1)
        sock.connect_ex((FOREIGN, 443))


def udp() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", 0, (FOREIGN, 53))


def ipv6() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.connect(("2001:db8::1", 443, 0, 0))


async def asyncio_streams() -> None:
    await asyncio.open_connection("api.anthropic.com", 443)


async def asyncio_address() -> None:
    await asyncio.open_connection(FOREIGN, 443)


LEAVING: dict[str, tuple[Callable[[], object], str]] = {
    "connect": (lambda: tcp(FOREIGN), f"connect to {FOREIGN}:443"),
    "connect_ex": (connect_ex, f"connect to {FOREIGN}:443"),
    "create_connection": (
        lambda: socket.create_connection(("api.anthropic.com", 443)),
        "look up api.anthropic.com",
    ),
    "IPv6": (ipv6, "connect to [2001:db8::1]:443"),
    "UDP": (udp, f"connect to {FOREIGN}:53"),
    "getaddrinfo": (lambda: socket.getaddrinfo("api.anthropic.com", 443), "look up api.anthropic.com"),
    "getaddrinfo by keyword": (lambda: socket.getaddrinfo(host=b"h.example", port=443), "look up h.example"),
    "gethostbyname": (lambda: socket.gethostbyname("h.example"), "look up h.example"),
    "gethostbyname_ex": (lambda: socket.gethostbyname_ex("h.example"), "look up h.example"),
    "urllib": (lambda: urllib.request.urlopen("http://h.example/", timeout=1), "look up h.example"),
    "asyncio": (lambda: asyncio.run(asyncio_streams()), "look up api.anthropic.com"),
    "asyncio, address": (lambda: asyncio.run(asyncio_address()), f"connect to {FOREIGN}:443"),
    "anyio": (lambda: anyio.run(anyio.connect_tcp, "api.anthropic.com", 443), "look up api.anthropic.com"),
    "trailing dot": (
        lambda: socket.getaddrinfo("localhost.evil.example.", 443),
        "look up localhost.evil.example.",
    ),
}


@pytest.mark.parametrize(("leave", "what"), LEAVING.values(), ids=LEAVING.keys())
def test_what_leaves_the_machine_is_refused_at_once(
    leave: Callable[[], object], what: str, guard: NetworkGuard
) -> None:
    with pytest.raises(ReplayMiss) as caught:
        leave()
    assert str(caught.value).startswith(f"test_agent.py::test_refund tried to {what} during replay")
    assert str(caught.value).endswith("add it to allowed_hosts in [tool.tokenbudget].")
    assert guard.refusals == [str(caught.value)]


def test_a_refusal_that_is_swallowed_is_kept(guard: NetworkGuard) -> None:
    def agent() -> str:
        for _ in range(3):
            with contextlib.suppress(BaseException):
                tcp(FOREIGN)
        return "fine"

    results = []
    thread = threading.Thread(target=lambda: results.append(agent()))
    thread.start()
    thread.join()
    assert results == ["fine"]
    assert len(guard.refusals) == 1


def test_an_agent_that_catches_every_exception_does_not_go_on(guard: NetworkGuard) -> None:
    with pytest.raises(ReplayMiss), contextlib.suppress(Exception):
        tcp(FOREIGN)


def test_loopback_stays_free(server: int, guard: NetworkGuard, tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        assert urllib.request.urlopen(f"http://{host}:{server}/").read() == b"ok"

    async def in_a_loop() -> bytes:
        async with await anyio.connect_tcp("localhost", server) as stream:
            await stream.send(b"GET / HTTP/1.0\r\n\r\n")
            return await stream.receive()

    assert anyio.run(in_a_loop).startswith(b"HTTP/1.0 200")
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", server))
        sock.connect((FOREIGN, 9))  # sends nothing: programs ask for their own address this way
    assert socket.getaddrinfo(None, 80)
    assert socket.getaddrinfo(FOREIGN, 80)
    with socket.socket() as sock:
        sock.settimeout(1)
        assert sock.connect_ex(("127.0.0.1", 1)) != 0
    assert guard.refusals == []


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_unix_sockets_stay_free(guard: NetworkGuard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left, right = socket.socketpair()
    with left, right, socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("s")
        listener.listen()
        client.connect("s")
    assert guard.refusals == []


@pytest.mark.parametrize("allowed", [FOREIGN, "192.0.2.0/24", "db.internal"])
def test_allowed_hosts_are_reached(allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []
    real_lookup = socket.getaddrinfo

    def lookup(host: object, *args: object, **kwargs: object) -> object:
        return real_lookup(FOREIGN if host == "db.internal" else "127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket.socket, "connect", lambda sock, address: reached.append(address))
    with NetworkGuard("test", allowed_hosts=[allowed]) as guard:
        tcp(FOREIGN)
        with pytest.raises(ReplayMiss, match=r"connect to 198\.51\.100\.7:443"):
            tcp("198.51.100.7")
        if allowed == "db.internal":
            assert socket.getaddrinfo("DB.internal.", 5432)
    assert reached == [(FOREIGN, 443)]
    assert len(guard.refusals) == 1


# --- other blockers -------------------------------------------------------------------------------------


def test_everything_is_put_back() -> None:
    before = patched_functions()
    with contextlib.suppress(KeyError), NetworkGuard("test"):
        assert not set(patched_functions()) & set(before)
        raise KeyError
    assert patched_functions() == before


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_guards_close_in_any_order(order: tuple[int, ...]) -> None:
    before = patched_functions()
    guards = [NetworkGuard(f"test {number}") for number in range(3)]
    for guard in guards:
        guard.__enter__()
    for closed, number in enumerate(order, start=1):
        guards[number].__exit__(None, None, None)
        if closed < 3:
            with pytest.raises(ReplayMiss):
                tcp(FOREIGN)
    assert patched_functions() == before


ORDERS = [order for order in itertools.permutations(["+guard", "+block", "-guard", "-block"]) if all(
    order.index(f"+{name}") < order.index(f"-{name}") for name in ("guard", "block")
)]  # fmt: skip


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_pytest_recordings_blocking_opens_and_closes_in_any_order(order: tuple[str, ...]) -> None:
    """Its blocking puts back what it found at import, whoever has patched since: a guard ends with it."""
    before = patched_functions()
    guard = NetworkGuard("test")
    steps: dict[str, Callable[[], object]] = {
        "+guard": guard.__enter__,
        "-guard": lambda: guard.__exit__(None, None, None),
        "+block": pytest_recording_network.block,
        "-block": pytest_recording_network.unblock,
    }
    try:
        refusing = set()
        for step in order:
            steps[step]()
            refusing = (
                refusing | {step[1:]}
                if step[0] == "+"
                else set()
                if step == "-block"
                else refusing - {"guard"}
            )
            if refusing:
                with pytest.raises((ReplayMiss, RuntimeError)):
                    tcp(FOREIGN)
    finally:
        pytest_recording_network.unblock()
    assert patched_functions() == before


def test_a_guard_that_another_patch_wraps_only_passes_on() -> None:
    real = socket.getaddrinfo
    guard = NetworkGuard("test")
    guard.__enter__()
    guarded = socket.getaddrinfo
    socket.getaddrinfo = lambda *args, **kwargs: guarded(*args, **kwargs)
    try:
        guard.__exit__(None, None, None)
        assert socket.getaddrinfo("127.0.0.1", 80) == real("127.0.0.1", 80)
        assert guarded("localhost", 80) == real("localhost", 80)
    finally:
        socket.getaddrinfo = real
