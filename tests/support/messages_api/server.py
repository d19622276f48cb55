"""The HTTP of the test server: paths of Anthropic, Bedrock and Vertex, streams, gzip, headers, faults."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from .api import Api, ApiError, Charge, Reply, Script
from .batches import Batches
from .framing import Event, aws_frame, events, sse_frame
from .routes import Route, route

SECRETS = ("org-7c0e1f52-secret", "wrkspc_secret_0193", "cookie-secret-5d41402a")
"""What the answers' headers hold and no recording may: organisation, workspace, cookie."""


@dataclass(frozen=True)
class Received:
    """One HTTP request as it came in, header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class MessagesApi:
    """The server as a context manager; see the package's docstring.

    `gzip` compresses answers for clients that accept it, and deflates them for clients that accept only that;
    `stream_delay` is the seconds between the events of a stream; `before_event` is told the number of each
    event but the first before it is sent, and may wait; `clock` (seconds) ages the prompt cache.
    """

    def __init__(
        self,
        script: Script,
        *,
        gzip: bool = False,
        stream_delay: float = 0.0,
        before_event: Callable[[int], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        port: int = 0,
    ) -> None:
        self.api = Api(script, clock)
        self.batches = Batches(self.api)
        self.gzip = gzip
        self.stream_delay = stream_delay
        self.before_event = before_event
        self.requests: list[Received] = []
        """Everything that reached the server, faults included."""
        self._server = _Server(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """What ANTHROPIC_BASE_URL is set to."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def charges(self) -> list[Charge]:
        """The ledger: what each answered message request was charged, in the order of billing."""
        return self.api.charges

    def fail_next(self, *faults: ApiError) -> None:
        """Let the next message requests fail, one fault each."""
        self.api.faults.extend(faults)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() waits for the handlers and no socket outlives a test
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], owner: MessagesApi) -> None:
        super().__init__(address, _Handler)
        self.owner = owner
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that clients keep alive; an answer that has begun is written to its end."""
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):  # the client was first
                connection.shutdown(socket.SHUT_RD)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or the end of the server: nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner.requests.append(Received(self.command, self.path, headers, body))
        path = unquote(urlsplit(self.path).path)
        try:
            found = route(self.command, path)
            if found is None:
                raise ApiError(404, message=f"Not found: {self.command} {path}")
            if found.call != "charges" and not {"x-api-key", "authorization"} & headers.keys():
                raise ApiError(401, message="x-api-key or authorization header is required")
            self._answer(found, _parsed(body) if self.command == "POST" else {})
        except ApiError as error:
            retry = {} if error.retry_after is None else {"retry-after": f"{error.retry_after:g}"}
            self._send_json(error.body(self._request_id()), error.status, retry)

    def _answer(self, found: Route, body: dict[str, Any]) -> None:
        owner = self.server.owner
        match found.call:
            case "message":
                self._message(found, {**body, "model": found.model} if found.model else body)
            case "count":
                self._send_json(owner.api.count_tokens(body))
            case "create_batch":
                self._send_json(owner.batches.create(body))
            case "poll_batch":
                self._send_json(owner.batches.poll(found.batch, owner.url))
            case "batch_results":
                self._send(200, "application/x-jsonl", [owner.batches.results(found.batch).encode()])
            case "charges":
                self._send_json(owner.api.ledger())

    def _message(self, found: Route, body: dict[str, Any]) -> None:
        owner = self.server.owner
        stream = body.get("stream") is True if found.stream is None else found.stream
        if "temperature" in body and self.headers.get("anthropic-version", "") >= "2026-10-21":
            raise ApiError(400, message="temperature: Extra inputs are not permitted")
        fault = self._fault()
        if fault and not (fault.in_stream and stream):
            raise fault
        reply = owner.api.answer(body)
        if not stream:
            reply.began()
            self._send_json(reply.message)
        elif found.event_stream:
            frames = self._frames(reply, fault, aws_frame)
            self._send(200, "application/vnd.amazon.eventstream", frames, chunked=True)
        else:
            frames = self._frames(reply, fault, sse_frame)
            self._send(200, "text/event-stream; charset=utf-8", frames, chunked=True)

    def _fault(self) -> ApiError | None:
        """The fault that this request meets: `x-test-fault: 529,429` fails the first attempts, one each."""
        attempts = [int(status) for status in self.headers.get("x-test-fault", "").split(",") if status]
        attempt = int(self.headers.get("x-stainless-retry-count", 0))
        if attempt < len(attempts):
            return ApiError(attempts[attempt])
        faults = self.server.owner.api.faults
        return faults.popleft() if faults else None

    def _frames(
        self, reply: Reply, fault: ApiError | None, frame: Callable[[Event], bytes]
    ) -> Iterable[bytes]:
        reply.began()
        for index, event in enumerate(events(reply.message)):
            if index:
                time.sleep(self.server.owner.stream_delay)
                self.server.owner.before_event(index)
            if fault and index == 3:
                yield frame(fault.body(self._request_id()))
                return
            yield frame(event)

    def _request_id(self) -> str:
        return f"req_011test{len(self.server.owner.requests):08d}"

    def _send_json(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(value, ensure_ascii=False).encode()
        self._send(status, "application/json", [content], headers)

    def _send(
        self,
        status: int,
        content_type: str,
        pieces: Iterable[bytes],
        headers: Mapping[str, str] | None = None,
        chunked: bool = False,
    ) -> None:
        coding = self._coding()
        if coding:
            pieces = _compressed(pieces, coding)
        self.send_response(status)
        self.send_header("content-type", content_type)
        for name, value in {**self._house_headers(), **(headers or {})}.items():
            self.send_header(name, value)
        if coding:
            self.send_header("content-encoding", coding)
        if chunked:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in pieces:
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        else:
            content = b"".join(pieces)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def _coding(self) -> str | None:
        accepted = self.headers.get("accept-encoding", "") if self.server.owner.gzip else ""
        return next((coding for coding in _WINDOW_BITS if coding in accepted), None)

    def _house_headers(self) -> dict[str, str]:
        organisation, workspace, cookie = SECRETS
        return {
            "request-id": self._request_id(),
            "anthropic-organization-id": organisation,
            "anthropic-workspace-id": workspace,
            "set-cookie": f"_cfuvid={cookie}; Path=/; HttpOnly",
            "anthropic-ratelimit-requests-remaining": "3999",
        }


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        raise ApiError(400, message="The request body is not valid JSON") from None
    if not isinstance(parsed, dict):
        raise ApiError(400, message="The request body is not an object")
    return parsed


_WINDOW_BITS = {"gzip": 31, "deflate": 15}


def _compressed(pieces: Iterable[bytes], coding: str) -> Iterable[bytes]:
    """Each piece leaves at once: flushed, never held back."""
    packer = zlib.compressobj(wbits=_WINDOW_BITS[coding])
    for piece in pieces:
        yield packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)
    yield packer.flush()
