"""A loopback HTTP proxy for agents in other processes: what they ask is answered by the same recording.

The child finds it through `ANTHROPIC_BASE_URL`, which the SDKs of every language and Claude Code honour.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from pytest_tokenbudget.errors import ReplayMiss
from pytest_tokenbudget.replay.network import PLACEHOLDER_KEY

_PATIENCE = 30.0  # seconds that closing waits for answers which are still on their way
CLAUDE_CODE = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",  # telemetry, error reports, update checks
    "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",  # a system block that differs from run to run
    "ENABLE_TOOL_SEARCH": "true",  # as in production; another base URL alone would turn it off
}
"""What makes Claude Code ask the same on every run."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to the child; headers are lists by name, as in a cassette."""

    status: int
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    body: bytes | Iterator[bytes] = b""
    """An iterator's chunks go out as they come; it is always run to its end, even when the child has gone."""


Handler = Callable[[str, str, Mapping[str, str], bytes], Reply]
"""Answers a method, a path with its query, headers by lower-case name, and a body. Called from many threads.

May raise ReplayMiss, which the child sees as a 400 that it does not retry, or any Exception (a 500).
"""


def api_error(status: int, kind: str, message: str, *, retry: bool) -> Reply:
    """An error as the API sends it; the SDKs obey `x-should-retry`."""
    body = json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    should_retry = {"x-should-retry": ["true" if retry else "false"]}
    return Reply(status, {"content-type": ["application/json"], **should_retry}, body)


class Proxy:
    """Serves on 127.0.0.1, on a port of its own, from `with` to its end.

    `key` is a placeholder that the child sends in place of a real key: random, so that no other program on
    the machine can spend through a recording proxy. `failures` are the misses and errors of the handler, for
    the test to fail on, whatever the child made of them.
    """

    def __init__(self, handler: Handler, key: str | None = None) -> None:
        self.key = key or new_key()
        self.failures: list[BaseException] = []
        self._server = _Server(handler, self.failures)
        # Polled: http.server looks that often whether it shall stop.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What to put over the environment of the child."""
        hosts = [*filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy")]), "127.0.0.1"]
        direct = {name: ",".join(hosts) for name in ("NO_PROXY", "no_proxy")}
        return {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_API_KEY": self.key, **direct, **CLAUDE_CODE}

    def wait(self) -> None:
        """Until every answer that is on its way is out, however long closing would wait."""
        self._server.requests.wait(_PATIENCE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.close()


def new_key() -> str:
    """A placeholder for an API key that no server accepts and nobody guesses."""
    return f"{PLACEHOLDER_KEY}-{secrets.token_hex(8)}"


class _UnderWay:
    """Counts what is being done."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until there is nothing."""
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0, seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = allow_reuse_port = False
    server_bind = socketserver.TCPServer.server_bind  # HTTPServer's looks its own name up

    def __init__(self, handler: Handler, failures: list[BaseException]) -> None:
        self.answer = handler
        self.failures = failures
        self.requests = _UnderWay()
        self._open: dict[threading.Thread, socket.socket] = {}
        super().__init__(("127.0.0.1", 0), _Connection)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._open[threading.current_thread()] = request
        try:
            super().process_request_thread(request, client_address)
        finally:
            del self._open[threading.current_thread()]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a child that goes away in the middle is its own business."""

    def close(self) -> None:
        """Close the connections that children keep alive, and wait for the answers that are on their way."""
        threads = self._open.copy()
        for connection in threads.values():
            with contextlib.suppress(OSError):  # gone already
                connection.shutdown(socket.SHUT_RD)
        for thread in threads:
            thread.join(_PATIENCE)
        self.server_close()


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        with self.server.requests:
            self._serve_one()

    def _serve_one(self) -> None:
        try:
            self._send(self._ask())
        except EOFError:  # the child has gone before it had asked
            return
        except Exception as error:  # the answer broke off: so does what the child gets of it
            self.server.failures.append(error)
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve  # noqa: N815

    def _ask(self) -> Reply:
        """Raises EOFError."""
        headers = {name.lower(): ", ".join(self.headers.get_all(name, ())) for name in self.headers}
        try:
            body = self._read_body()
            if self.command == "HEAD" or (self.command, self.path) == ("GET", "/"):
                return Reply(200, {"content-type": ["application/json"]}, b"{}")  # whether anybody is there
            return self.server.answer(self.command, self.path, headers, body)
        except EOFError:
            raise
        except ReplayMiss as miss:
            self.server.failures.append(miss)
            return api_error(400, "invalid_request_error", str(miss), retry=False)
        except Exception as error:
            self.server.failures.append(error)
            return api_error(500, "api_error", f"{type(error).__name__}: {error}", retry=False)

    def _read_body(self) -> bytes:
        """Raises EOFError where it breaks off, ValueError where it is no HTTP."""
        if "chunked" not in self.headers.get("transfer-encoding", "").lower():
            return self._read(self.headers.get("content-length") or "0", 10)
        parts = []
        while chunk := self._read(self.rfile.readline().partition(b";")[0].decode("latin-1"), 16):
            parts.append(chunk)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(parts)

    def _read(self, length: str, base: int) -> bytes:
        """So many bytes. What does not say how many, or breaks off, is the last that the child sends."""
        closes, self.close_connection = self.close_connection, True
        size = int(length, base) if length else 0
        if size < 0:
            raise ValueError(f"a length of {size}")
        data = self.rfile.read(size)
        if not length or len(data) < size:
            raise EOFError
        self.close_connection = closes
        return data

    def _send(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        for name, values in reply.headers.items():
            if name.lower() not in ("connection", "content-length", "transfer-encoding", "keep-alive"):
                for value in values:
                    self.send_header(name, value)
        if isinstance(reply.body, bytes):
            self.send_header("content-length", str(len(reply.body)))
            self._end_headers()
            self._write(b"" if self.command == "HEAD" else reply.body)
            return
        chunked = self.request_version != "HTTP/1.0"  # which ends an answer by closing
        self.close_connection |= not chunked
        self.send_header(*(("transfer-encoding", "chunked") if chunked else ("connection", "close")))
        self._end_headers()
        for chunk in filter(None, reply.body):
            self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
        self._write(b"0\r\n\r\n" if chunked else b"")

    def _end_headers(self) -> None:
        with contextlib.suppress(OSError):
            self.end_headers()

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the child has gone; the answer is read to its end all the same
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keep the terminal to the test run."""
