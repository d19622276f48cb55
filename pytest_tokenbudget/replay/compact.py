"""Recorded interactions with each prompt kept once: what a request repeats refers to an earlier request.

A conversation sends its whole history on every turn, so that spelled out a cassette grows with the square of
its turns, and one changed word of a system prompt is a diff on every turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from pytest_tokenbudget.replay.json_body import ENCODINGS, USUAL, as_bytes, as_text, parse_json

Interaction = tuple[dict[str, Any], dict[str, Any]]
"""A request and its answer in vcr's own shape: `{"method", "uri", "body": bytes | None, "headers"}` and
`{"status": {"code", "message"}, "headers", "body": {"string": bytes}}`; headers are lists by name.

A recorder may add `"timing": {"started", "answered"}` to the answer: whole milliseconds since the recording
began, of the request's start and of the answer's first byte.
"""

MAX_BYTES = 2**30  # of all request bodies of a cassette together, after references are followed
_ITEM_BYTES = 8  # what an item costs in memory beside its text
_WORTHWHILE = 80  # characters: what is shorter is repeated, for the reader's sake
_REFERENCES = ({"same_as"}, {"first", "of"}, {"first", "of", "then"})


class CompactError(ValueError):
    """A document that is no list of interactions: its text says which one and what is wrong."""


def pack(interactions: Sequence[Interaction]) -> list[dict[str, Any]]:
    """The interactions as values for a YAML file; `unpack` gives back the exact bytes.

    JSON bodies become structure where that gives their bytes back; other bodies stay text or bytes. A field
    of a request that an earlier request has too is `{same_as: i}`, a list that begins like an earlier one is
    `{first: n, of: i, then: [...]}`, with `i` the earlier interaction. Linear in the size of the bodies.
    """
    requests = _RequestPacker()
    return [
        {"request": requests.pack(index, request), "response": _pack_response(response)}
        for index, (request, response) in enumerate(interactions)
    ]


def unpack(entries: object) -> list[Interaction]:
    """What `pack` packed, or the interactions of a plain vcr cassette. Raises CompactError."""
    if not isinstance(entries, list):
        raise CompactError("`interactions` is not a list")
    requests = _RequestUnpacker()
    interactions = []
    for index, entry in enumerate(entries):
        parts = entry if isinstance(entry, dict) else {}
        request, response = parts.get("request"), parts.get("response")
        if not isinstance(request, dict) or not isinstance(response, dict):
            raise CompactError(f"interaction {index} is not a request and a response")
        try:
            interactions.append((requests.unpack(request), _unpack_response(response)))
        except (CompactError, TypeError, ValueError) as error:
            raise CompactError(f"interaction {index}: {error}") from error
    return interactions


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


class _RequestUnpacker:
    """Follows the references of one cassette's requests, encoding each stored item once."""

    def __init__(self) -> None:
        self.headers: dict[str, list[Any]] | None = None
        self.fields: list[dict[str, Any]] = []
        self.texts: dict[tuple[int, str], str] = {}  # by identity: `fields` keeps every item alive
        self.size = 0

    def unpack(self, request: Mapping[str, Any]) -> dict[str, Any]:
        headers = self._headers(request)
        if "json" in request:
            body: bytes | None = self._body(request["json"], request.get("encoding", USUAL))
        elif "body" in request:
            self.fields.append({})
            body = as_bytes(request["body"])
        else:
            raise CompactError("the request has no body; another serializer wrote it")
        if not isinstance(request.get("method"), str) or not isinstance(request.get("uri"), str):
            raise CompactError("the request has no method or no uri")
        return {"method": request["method"], "uri": request["uri"], "body": body, "headers": headers}

    def _headers(self, request: Mapping[str, Any]) -> dict[str, list[Any]]:
        if "headers" in request:
            headers = _unpack_headers(request["headers"])
            self.headers = headers if self.headers is None else self.headers
            return headers
        changed = _mapping(request.get("headers_changed", {}), "headers_changed")
        kept = {name: values for name, values in (self.headers or {}).items() if name not in changed}
        news = _unpack_headers({name: value for name, value in changed.items() if value is not None})
        return dict(sorted({**kept, **news}.items()))

    def _body(self, value: object, encoding: object) -> bytes:
        encoder = ENCODINGS.get(encoding) if isinstance(encoding, str) else None
        if encoder is None or not isinstance(encoding, str):
            raise CompactError(f"unknown encoding {encoding!r}")
        if not isinstance(value, dict):
            self.fields.append({})
            return encoder.encode(value).encode()
        fields = {key: self._follow(key, item) for key, item in value.items()}
        self.fields.append(fields)
        parts = [f"{_key(key, encoder)}{self._text(item, encoding, encoder)}" for key, item in fields.items()]
        return f"{{{encoder.item_separator.join(parts)}}}".encode()

    def _follow(self, key: str, value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() not in _REFERENCES:
            return value
        if "same_as" in value:
            return self._earlier(value["same_as"], key)
        start, count, then = self._earlier(value["of"], key), value["first"], value.get("then", [])
        if isinstance(start, list) and isinstance(then, list) and _is_index(count, len(start) + 1):
            return start[:count] + then
        raise CompactError(f"`{key}` refers to more than interaction {value['of']} has")

    def _earlier(self, index: object, key: str) -> Any:
        if _is_index(index, len(self.fields)) and key in self.fields[index]:
            return self.fields[index][key]
        raise CompactError(f"`{key}` refers to interaction {index!r}, which is none before it with `{key}`")

    def _text(self, value: Any, encoding: str, encoder: json.JSONEncoder) -> str:
        def cached(item: Any) -> str:
            text = self.texts.get((id(item), encoding))
            if text is None:
                text = self.texts[id(item), encoding] = encoder.encode(item)
            self.size += len(text) + _ITEM_BYTES
            if self.size > MAX_BYTES:
                raise CompactError(f"the requests are larger than {MAX_BYTES:,} bytes together")
            return text

        if isinstance(value, list):
            return f"[{encoder.item_separator.join(map(cached, value))}]"
        return cached(value) if isinstance(value, (dict, str)) else encoder.encode(value)


def _pack_response(response: Mapping[str, Any]) -> dict[str, Any]:
    if "json" in response or "encoding" in response:
        raise CompactError("an answer has a key of the compact form")
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


def _unpack_response(packed: Mapping[str, Any]) -> dict[str, Any]:
    response = {key: value for key, value in packed.items() if key not in ("encoding", "json")}
    if "headers" in packed:
        response["headers"] = _unpack_headers(packed["headers"])
    if "json" in packed:
        encoder = ENCODINGS.get(packed.get("encoding", USUAL))
        if encoder is None:
            raise CompactError(f"unknown encoding {packed['encoding']!r}")
        response["body"] = {"string": encoder.encode(packed["json"]).encode()}
    elif isinstance(packed.get("body"), Mapping):
        response["body"] = {**packed["body"], "string": as_bytes(packed["body"].get("string"))}
    elif "body" in packed:
        response["body"] = {"string": as_bytes(packed["body"])}
    elif "content" not in packed:  # which vcr wrote for httpx before 6.0, and still reads
        raise CompactError("the answer has no body; another serializer wrote it")
    return response


def _has_reference(value: Any) -> bool:
    """Whether a field of the body itself looks like a reference, so that it cannot be told from ours."""
    fields = value.values() if isinstance(value, dict) else ()
    return any(isinstance(item, dict) and item.keys() in _REFERENCES for item in fields)


def _key(key: str, encoder: json.JSONEncoder) -> str:
    if not isinstance(key, str):
        raise CompactError(f"the JSON body has a key {key!r}, which is not a string")
    return encoder.encode(key) + encoder.key_separator


def _is_index(value: object, end: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < end


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise CompactError(f"`{what}` is not a table by name")
    return value


def _pack_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    lists = {name: [v] if isinstance(v, (str, bytes)) else list(v) for name, v in (headers or {}).items()}
    return {name: lists[name][0] if len(lists[name]) == 1 else lists[name] for name in sorted(lists)}


def _unpack_headers(headers: object) -> dict[str, list[Any]]:
    lists = {
        name: value if isinstance(value, list) else [value]
        for name, value in _mapping({} if headers is None else headers, "headers").items()
    }
    for name, values in lists.items():
        if not all(isinstance(value, (str, bytes)) for value in values):
            raise CompactError(f"header {name} is not a text or a list of texts")
    return lists
