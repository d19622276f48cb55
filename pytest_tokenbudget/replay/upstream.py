"""The real API behind a recording proxy: requests go on to it, answers stream through and are kept."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from pytest_tokenbudget.replay.proxy import Reply, api_error

_TIMEOUT = 600.0  # seconds, as the SDKs wait
_CHUNK = 65_536  # bytes read at most at once; what has come is passed on at once
_HOP_BY_HOP = frozenset(
    {"host", "connection", "keep-alive", "content-length", "transfer-encoding", "te", "trailer", "upgrade"}
    | {"expect", "proxy-connection", "proxy-authorization", "accept-encoding"}
)
_STREAMS = ("text/event-stream", "application/vnd.amazon.eventstream")

Keep = Callable[[dict[str, Any]], None]
"""Takes an answer that came whole, in vcr's shape, not redacted."""


class Upstream:
    """The API at `base_url`.

    `keys` says which real key stands behind which placeholder of a proxy, in whatever header.
    """

    def __init__(self, base_url: str, keys: Mapping[str, str]) -> None:
        self._base = urlsplit(base_url.rstrip("/"))
        self._keys = dict(keys)

    def url(self, path: str) -> str:
        """The address behind a path, with its query, of the proxy."""
        return f"{self._base.scheme}://{self._base.netloc}{self._base.path}{path}"

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes, keep: Keep) -> Reply:
        """Ask; the reply of a stream begins before the stream has ended.

        What cannot be reached is a 502 that the child may retry. An answer that breaks off is not kept.
        """
        sent = {name: self._real(value) for name, value in headers.items() if name not in _HOP_BY_HOP}
        sent["accept-encoding"] = "identity"  # so that every Python can read the recording
        connection = self._connection()
        try:
            connection.request(method, self._base.path + path, body or None, sent)
            response = connection.getresponse()
            answer = _answer(response)
            chunks = self._chunks(connection, response, answer, keep)
            streams = "".join(answer["headers"].get("content-type", [])).startswith(_STREAMS)
            passed = {name: values for name, values in answer["headers"].items() if name not in _HOP_BY_HOP}
            return Reply(response.status, passed, chunks if streams else b"".join(chunks))
        except (OSError, _http_client().HTTPException) as error:
            connection.close()
            return api_error(502, "api_error", f"{self._base.netloc}: {error!r}", retry=True)

    def _chunks(self, connection: Any, response: Any, answer: dict[str, Any], keep: Keep) -> Iterator[bytes]:
        """The answer's bytes as they come; keeps it once they have all come."""
        chunks = []
        with contextlib.closing(connection):
            while chunk := response.read1(_CHUNK):
                chunks.append(chunk)
                yield chunk
            if response.length:  # which read1 does not mind
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
    """An `http.client` of our own: the one in `sys.modules` is patched while a cassette is open."""
    spec = importlib.util.find_spec("http.client")
    if spec is None or spec.loader is None:
        raise ImportError("http.client")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
