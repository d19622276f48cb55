"""Serve agents in other processes by a loopback HTTP proxy, from the same recording as the test.

The child finds the proxy through `ANTHROPIC_BASE_URL`, which the SDKs of every language and Claude Code
honour. While a test records, requests go on to the real API, and answers stream through and are kept.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import re
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any, Self
from urllib.parse import urlsplit

from pytest_tokenbudget.errors import ReplayMiss, SettingsError
from pytest_tokenbudget.replay.credentials import STAND_IN
from pytest_tokenbudget.replay.playback import Call, Ledger
from pytest_tokenbudget.replay.redaction import secrets_of
from pytest_tokenbudget.replay.traffic import STREAMS, answer_body, status

_PATIENCE = 30.0  # seconds that closing waits for answers which are still on their way
CLAUDE_CODE = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",  # telemetry, error reports, update checks
    "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",  # a system block that differs from run to run
    "ENABLE_TOOL_SEARCH": "true",  # as in production; another base URL alone would turn it off
}
"""Environment variables that make Claude Code send the same requests on every run."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The HTTP answer that goes back to the child; headers are lists by name, as in a cassette."""

    status: int
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    body: bytes | Iterator[bytes] = b""
    """The whole body, or an iterator whose chunks are sent as they come. An iterator is always run to its
    end, even if the child has gone."""


Handler = Callable[[str, str, Mapping[str, str], bytes], Reply]
"""Answers a request: method, path with query, headers by lower-case name, body. Called from many threads.

May raise ReplayMiss, which the child sees as a 400 that it does not retry, or any Exception (a 500).
"""


def api_error(status: int, kind: str, message: str, *, retry: bool) -> Reply:
    """Return an error as the API sends it; the SDKs obey its header `x-should-retry`."""
    body = json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
    should_retry = {"x-should-retry": ["true" if retry else "false"]}
    return Reply(status, {"content-type": ["application/json"], **should_retry}, body)


class Proxy:
    """An HTTP server on 127.0.0.1, on a port of its own, that runs inside of its `with` block.

    `key` is the placeholder that the child sends in place of a real key. It is random, so that no other
    program on the machine can spend through a recording proxy. `failures` collects the handler's misses and
    errors, so that the test fails on them whatever the child made of them.
    """

    def __init__(self, handler: Handler, key: str | None = None) -> None:
        self.key = key or new_key()
        self.failures: list[BaseException] = []
        self._server = _Server(handler, self.failures)
        # http.server polls: every 0.02 seconds it looks whether it shall stop.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables to add to the child's environment, over its own."""
        hosts = [*filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy")]), "127.0.0.1"]
        direct = {name: ",".join(hosts) for name in ("NO_PROXY", "no_proxy")}
        return {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_API_KEY": self.key, **direct, **CLAUDE_CODE}

    def wait(self) -> None:
        """Wait until every answer that is under way has been sent, but at most `_PATIENCE` seconds."""
        self._server.requests.wait(_PATIENCE)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.close()


def new_key() -> str:
    """Return a placeholder for an API key that no server accepts and nobody can guess."""
    return f"{STAND_IN}-{secrets.token_hex(8)}"


class _UnderWay:
    """Count what is under way, by `with`, and wait until nothing is."""

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
        """Wait until nothing is under way, but at most so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0, seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = allow_reuse_port = False
    server_bind = socketserver.TCPServer.server_bind  # HTTPServer's would look up the machine's name

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
        """Say nothing: a child that goes away in the middle is no error of the test."""

    def close(self) -> None:
        """Close the connections that children keep alive, and wait for the answers that are under way."""
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
        except EOFError:  # the child went before its request was complete
            return
        except Exception as error:  # the answer broke off, so close the connection: the child sees it too
            self.server.failures.append(error)
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve  # noqa: N815

    def _ask(self) -> Reply:
        """Read the request and return its reply, an error of the API if the handler fails.

        Raises EOFError if the child breaks off.
        """
        headers = {name.lower(): ", ".join(self.headers.get_all(name, ())) for name in self.headers}
        try:
            body = self._read_body()
            if self.command == "HEAD" or (self.command, self.path) == ("GET", "/"):
                return Reply(200, {"content-type": ["application/json"]}, b"{}")  # is anybody there?
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
        """Return the body. Raises EOFError if it breaks off, ValueError if a length is no number."""
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
        """Read as many bytes as `length` says, a number to this base.

        Raises EOFError if it is empty or the data breaks off, ValueError if it is no number. Nothing more is
        read from the connection then.
        """
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
        chunked = self.request_version != "HTTP/1.0"  # HTTP/1.0 ends an answer by closing the connection
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
        with contextlib.suppress(OSError):  # the child has gone; the answer is still read to its end
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Print nothing: the terminal belongs to the test run."""


_API = "https://api.anthropic.com"
_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
_CLOUDS = ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY")


@dataclass(frozen=True, slots=True)
class Access:
    """What a test gets as `token_budget_proxy`, to start its child process with."""

    url: str
    """The base URL, without a path."""
    environment: dict[str, str] = field(repr=False)
    """The child's whole environment."""

    @classmethod
    def direct(cls, environ: Mapping[str, str]) -> Access:
        """Return access to the real API, for a run without the plugin."""
        return cls(environ.get("ANTHROPIC_BASE_URL") or _API, {**environ, **CLAUDE_CODE})


class ChildProxy(Proxy):
    """Answer a child from a ledger, or ask the real API and let the ledger keep the answer.

    `ledger` returns the ledger that a request belongs to. `environ` is the environment of the test's own
    process, with the real key and the base URL of the real API. Raises SettingsError if it sends a child past
    the proxy.
    """

    def __init__(self, ledger: Callable[[], Ledger], environ: Mapping[str, str]) -> None:
        _check(environ)
        self._ledger = ledger
        self._environ = dict(environ)
        keys = {environ[name] for name in _KEYS if environ.get(name)}
        known = {name: environ.get(name, "") for name in (*_KEYS, "ANTHROPIC_CUSTOM_HEADERS")}
        self._secrets = sorted(secrets_of(known), key=len, reverse=True)  # hidden in longer texts, too
        self._placeholders = {real: new_key() for real in {*keys, *self._secrets}}
        behind = {placeholder: real for real, placeholder in self._placeholders.items()}
        self._upstream = Upstream(environ.get("ANTHROPIC_BASE_URL") or _API, behind)
        super().__init__(self._answer)

    @property
    def access(self) -> Access:
        """The URL and environment for the child: the test's environment, with placeholders for real keys."""
        inherited = {name: self._hidden(value) for name, value in self._environ.items()}
        ours = self.environment
        if any(inherited.get(name) for name in _KEYS):
            del ours["ANTHROPIC_API_KEY"]  # the child has what the test has, and no more
        return Access(self.url, {**inherited, **ours})

    @property
    def problems(self) -> list[str]:
        """Errors of the handler, as sentences; without misses, which the ledger keeps."""
        failures = [error for error in self.failures if not isinstance(error, ReplayMiss)]
        return [
            f"token_budget_proxy: {type(error).__name__} while it answered: {error}" for error in failures
        ]

    def _hidden(self, value: str) -> str:
        if value in self._placeholders:
            return self._placeholders[value]
        for secret in self._secrets:
            value = value.replace(secret, self._placeholders[secret])
        return value

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer a request from the recording, or else from the real API if calls are allowed.

        Raises ReplayMiss.
        """
        path = _as_of_the_api(path)
        ledger, url = self._ledger(), self._upstream.url(path)
        listed = {name: [value] for name, value in headers.items()}
        sent = ledger.read({"method": method, "uri": url, "body": body, "headers": listed})
        found = ledger.find(sent)
        if found is not None:
            if found.held is not None:
                found.held.wait()
            headers_of = {
                name: _listed(values) for name, values in (found.answer.get("headers") or {}).items()
            }
            return Reply(status(found.answer), headers_of, answer_body(found.answer))
        if not ledger.rules.calls:  # meant for a server of the test itself, which the ledger lets pass
            return api_error(404, "not_found_error", f"{sent} was not recorded", retry=False)
        if not self._placeholders:
            ledger.refuse(f"{ledger.name}: {sent} needs a key to be really called. Set ANTHROPIC_API_KEY.")
        call = ledger.begin(sent)
        reply = self._upstream.ask(method, path, headers, body, lambda answer: ledger.finish(call, answer))
        call.began = time.monotonic()
        if isinstance(reply.body, bytes):
            call.leave()
            return reply
        return replace(reply, body=_until_left(reply.body, call))


def _until_left(chunks: Iterable[bytes], call: Call) -> Iterator[bytes]:
    """Yield the chunks of an answer, and note when the client waits for no more of them.

    The rest of an answer that a client leaves is read here: it is billed whole, and so recorded whole.
    """
    try:
        for chunk in chunks:
            yield chunk
    except GeneratorExit:
        for chunk in chunks:
            call.is_read = call.is_read and not chunk.strip()
        raise
    finally:
        call.leave()


_UNVERSIONED = re.compile(r"/messages(?=[/?]|$)")


def _as_of_the_api(path: str) -> str:
    """Return a path with `/v1` before `/messages`; some clients expect the version in the base URL."""
    return f"/v1{path}" if _UNVERSIONED.match(path) else path


def _check(environ: Mapping[str, str]) -> None:
    for name in _CLOUDS:
        if environ.get(name):
            raise SettingsError(
                f"{name} sends Claude Code to a cloud, and so past token_budget_proxy, which stands for the "
                "Claude API. Unset it for this test."
            )


def _listed(values: Any) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


_TIMEOUT = 600.0  # seconds, as the SDKs wait
_CHUNK = 65_536  # bytes read at most at a time; they are passed on without waiting for more
_HOP_BY_HOP = frozenset(
    {"host", "connection", "keep-alive", "content-length", "transfer-encoding", "te", "trailer", "upgrade"}
    | {"expect", "proxy-connection", "proxy-authorization", "accept-encoding"}
)

Keep = Callable[[dict[str, Any]], None]
"""Takes a complete answer, in vcr's shape, not redacted."""


class Upstream:
    """The API at `base_url`, to which a recording proxy passes requests on.

    `keys` gives the real key for each placeholder, which is replaced in every header.
    """

    def __init__(self, base_url: str, keys: Mapping[str, str]) -> None:
        self._base = urlsplit(base_url.rstrip("/"))
        self._keys = dict(keys)

    def url(self, path: str) -> str:
        """Return the API's address for a path (with its query) of the proxy."""
        return f"{self._base.scheme}://{self._base.netloc}{self._base.path}{path}"

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes, keep: Keep) -> Reply:
        """Send a request to the API; `keep` gets the answer when it has come whole.

        A reply that streams is returned before the stream has ended. If the API cannot be reached, the reply
        is a 502 that the child may retry. An answer that breaks off is not kept.
        """
        sent = {name: self._real(value) for name, value in headers.items() if name not in _HOP_BY_HOP}
        sent["accept-encoding"] = "identity"  # so that every Python can read the recording
        connection = self._connection()
        try:
            connection.request(method, self._base.path + path, body or None, sent)
            response = connection.getresponse()
            answer = _answer(response)
            chunks = self._chunks(connection, response, answer, keep)
            streams = "".join(answer["headers"].get("content-type", [])).startswith(STREAMS)
            passed = {name: values for name, values in answer["headers"].items() if name not in _HOP_BY_HOP}
            return Reply(response.status, passed, chunks if streams else b"".join(chunks))
        except (OSError, _http_client().HTTPException) as error:
            connection.close()
            return api_error(
                502, "api_error", f"{self._base.netloc.rpartition('@')[2]}: {error!r}", retry=True
            )

    def _chunks(self, connection: Any, response: Any, answer: dict[str, Any], keep: Keep) -> Iterator[bytes]:
        """Yield the answer's bytes as they come, and keep the answer once it has come whole."""
        chunks = []
        with contextlib.closing(connection):
            while chunk := response.read1(_CHUNK):
                chunks.append(chunk)
                yield chunk
            if response.length:  # it broke off; read1 does not raise for that
                raise _http_client().IncompleteRead(b"", response.length)
        answer["body"] = {"string": b"".join(chunks)}
        keep(answer)

    def _connection(self) -> Any:
        client = _http_client()
        kind = client.HTTPSConnection if self._base.scheme == "https" else client.HTTPConnection
        return kind(self._base.hostname, self._base.port, timeout=_TIMEOUT)

    def _real(self, value: str) -> str:
        for placeholder, key in self._keys.items():
            value = value.replace(placeholder, key)
        return value


def _answer(response: Any) -> dict[str, Any]:
    headers: dict[str, list[str]] = {}
    for name, value in response.getheaders():
        headers.setdefault(name.lower(), []).append(value)
    return {"status": {"code": response.status, "message": response.reason}, "headers": headers}


@functools.cache
def _http_client() -> ModuleType:
    """Import a copy of `http.client`: the one in `sys.modules` is patched while a cassette is open."""
    spec = importlib.util.find_spec("http.client")
    if spec is None or spec.loader is None:
        raise ImportError("http.client")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
