"""Recorded interactions with each prompt kept once: what a request repeats refers to an earlier request.

A conversation sends its whole history on every turn, so that spelled out a cassette grows with the square of
its turns, and one changed word of a system prompt is a diff on every turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_tokenbudget.replay.json_body import ENCODINGS, USUAL, as_bytes, as_text, parse_json

Interaction = tuple[dict[str, Any], dict[str, Any]]
"""A request and its answer in vcr's own shape: `{"method", "uri", "body": bytes | None, "headers"}` and
`{"status": {"code", "message"}, "headers", "body": {"string": bytes}}`; headers are lists by name.

A recorder may add `"timing": {"started", "answered"}` to the answer: whole milliseconds since the recording
began, of the request's start and of the answer's first byte.
"""

_WORTHWHILE = 80  # characters: what is shorter is repeated, for the reader's sake
REFERENCES = ({"same_as"}, {"first", "of"}, {"first", "of", "then"})


def pack(interactions: Sequence[Interaction]) -> list[dict[str, Any]]:
    """The interactions as values for a YAML file; `unpacking.unpack` gives back the exact bytes.

    JSON bodies become structure where that gives their bytes back; other bodies stay text or bytes. A field
    of a request that an earlier request has too is `{same_as: i}`, a list that begins like an earlier one is
    `{first: n, of: i, then: [...]}`, with `i` the earlier interaction. Linear in the size of the bodies.
    """
    requests = _RequestPacker()
    return [
        {"request": requests.pack(index, request), "response": _pack_response(response)}
        for index, (request, response) in enumerate(interactions)
    ]


class _RequestPacker:
    """Packs the requests of one cassette in order, and remembers what each of them said."""

    def __init__(self) -> None:
        self.headers: dict[str, Any] = {}
        self.whole: dict[tuple[str, str], int] = {}  # a field and its JSON -> the first request that had it
        self.chains: dict[tuple[object, str], int] = {}  # a prefix and its next item -> the longer prefix
        self.owners: list[int] = []  # of each prefix: the request that said it first

    def pack(self, index: int, request: Mapping[str, Any]) -> dict[str, Any]:
        packed = {"method": request["method"], "uri": request["uri"], **self._headers(index, request)}
        body = as_bytes(request.get("body"))
        value, encoding = parse_json(body)
        if encoding is None or _has_reference(value):
            return packed | {"body": as_text(body)}
        if encoding != USUAL:
            packed["encoding"] = encoding
        if isinstance(value, dict):
            value = {key: self._field(index, key, item, encoding) for key, item in value.items()}
        return packed | {"json": value}

    def _headers(self, index: int, request: Mapping[str, Any]) -> dict[str, Any]:
        headers = _pack_headers(request.get("headers"))
        if index == 0:
            self.headers = headers
            return {"headers": headers}
        changed = {name: value for name, value in headers.items() if self.headers.get(name) != value}
        changed |= {name: None for name in self.headers if name not in headers}
        if len(changed) > len(headers):
            return {"headers": headers}
        return {"headers_changed": dict(sorted(changed.items()))} if changed else {}

    def _field(self, index: int, key: str, value: Any, encoding: str) -> Any:
        encode = ENCODINGS[encoding].encode
        if not isinstance(value, list):
            text = encode(value)
            return self._reference(index, key, text) or value
        texts = [encode(item) for item in value]
        known, owner = self._walk(index, key, texts)
        same = self._reference(index, key, encoding + ",".join(texts))
        if same is not None or sum(map(len, texts[:known])) < _WORTHWHILE:
            return same or value
        return {"first": known, "of": owner, **({"then": value[known:]} if value[known:] else {})}

    def _reference(self, index: int, key: str, text: str) -> dict[str, int] | None:
        if len(text) < _WORTHWHILE:
            return None
        first = self.whole.setdefault((key, text), index)
        return {"same_as": first} if first != index else None

    def _walk(self, index: int, key: str, texts: Sequence[str]) -> tuple[int, int]:
        """How many items the field shares with an earlier request, and which; learns the rest."""
        node: object = key
        known = owner = 0
        for depth, text in enumerate(texts, start=1):
            next_node = self.chains.setdefault((node, text), len(self.owners))
            if next_node == len(self.owners):
                self.owners.append(index)
            elif self.owners[next_node] != index:
                known, owner = depth, self.owners[next_node]
            node = next_node
        return known, owner


def _pack_response(response: Mapping[str, Any]) -> dict[str, Any]:
    if "json" in response or "encoding" in response:
        raise ValueError("an answer has a key of the compact form")
    packed = {key: value for key, value in response.items() if key not in ("headers", "body")}
    if "headers" in response:
        packed["headers"] = _pack_headers(response["headers"])
    body = response.get("body")
    if not isinstance(body, Mapping) or body.keys() != {"string"}:
        return packed | {key: body for key in ("body",) if key in response}
    content = as_bytes(body["string"])
    value, encoding = parse_json(content)
    if encoding is None:
        return packed | {"body": as_text(content)}
    return packed | ({"encoding": encoding} if encoding != USUAL else {}) | {"json": value}


def _has_reference(value: Any) -> bool:
    """Whether a field of the body itself looks like a reference, so that it cannot be told from ours."""
    fields = value.values() if isinstance(value, dict) else ()
    return any(isinstance(item, dict) and item.keys() in REFERENCES for item in fields)


def _pack_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    lists = {name: [v] if isinstance(v, (str, bytes)) else list(v) for name, v in (headers or {}).items()}
    return {name: lists[name][0] if len(lists[name]) == 1 else lists[name] for name in sorted(lists)}
