"""A cassette's entries as interactions again: references followed, request bodies to the byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from pytest_tokenbudget.replay.json_body import ENCODINGS, USUAL, as_bytes
from pytest_tokenbudget.replay.packing import REFERENCES, Interaction

MAX_BYTES = 2**30  # of all request bodies of a cassette together, after references are followed
_ITEM_BYTES = 8  # what an item costs in memory beside its text


class MalformedError(ValueError):
    """A document that is no list of interactions: its text says which one and what is wrong."""


def unpack(entries: object) -> list[Interaction]:
    """What `packing.pack` packed, or the interactions of a plain vcr cassette. Raises MalformedError."""
    if not isinstance(entries, list):
        raise MalformedError("`interactions` is not a list")
    requests = _RequestUnpacker()
    interactions = []
    for index, entry in enumerate(entries):
        parts = entry if isinstance(entry, dict) else {}
        request, response = parts.get("request"), parts.get("response")
        if not isinstance(request, dict) or not isinstance(response, dict):
            raise MalformedError(f"interaction {index} is not a request and a response")
        try:
            interactions.append((requests.unpack(request), _unpack_response(response)))
        except (MalformedError, TypeError, ValueError) as error:
            raise MalformedError(f"interaction {index}: {error}") from error
    return interactions


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
            raise MalformedError("the request has no body; another serializer wrote it")
        if not isinstance(request.get("method"), str) or not isinstance(request.get("uri"), str):
            raise MalformedError("the request has no method or no uri")
        _ = urlsplit(request["uri"]).port  # raises ValueError for what is no address
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
            raise MalformedError(f"unknown encoding {encoding!r}")
        if not isinstance(value, dict):
            self.fields.append({})
            return encoder.encode(value).encode()
        fields = {key: self._follow(key, item) for key, item in value.items()}
        self.fields.append(fields)
        parts = [f"{_key(key, encoder)}{self._text(item, encoding, encoder)}" for key, item in fields.items()]
        return f"{{{encoder.item_separator.join(parts)}}}".encode()

    def _follow(self, key: str, value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() not in REFERENCES:
            return value
        if "same_as" in value:
            return self._earlier(value["same_as"], key)
        start, count, then = self._earlier(value["of"], key), value["first"], value.get("then", [])
        if isinstance(start, list) and isinstance(then, list) and _is_index(count, len(start) + 1):
            return start[:count] + then
        raise MalformedError(f"`{key}` refers to more than interaction {value['of']} has")

    def _earlier(self, index: object, key: str) -> Any:
        if _is_index(index, len(self.fields)) and key in self.fields[index]:
            return self.fields[index][key]
        raise MalformedError(f"`{key}` refers to interaction {index!r}, which is none before it with `{key}`")

    def _text(self, value: Any, encoding: str, encoder: json.JSONEncoder) -> str:
        def cached(item: Any) -> str:
            text = self.texts.get((id(item), encoding))
            if text is None:
                text = self.texts[id(item), encoding] = encoder.encode(item)
            self.size += len(text) + _ITEM_BYTES
            if self.size > MAX_BYTES:
                raise MalformedError(f"the requests are larger than {MAX_BYTES:,} bytes together")
            return text

        if isinstance(value, list):
            return f"[{encoder.item_separator.join(map(cached, value))}]"
        return cached(value) if isinstance(value, (dict, str)) else encoder.encode(value)


def _unpack_response(packed: Mapping[str, Any]) -> dict[str, Any]:
    response = {key: value for key, value in packed.items() if key not in ("encoding", "json")}
    if "status" in packed and not str(_mapping(packed["status"], "status").get("code")).isdecimal():
        raise MalformedError("the answer's status has no number for its code")
    if "headers" in packed:
        response["headers"] = _unpack_headers(packed["headers"])
    if "json" in packed:
        encoder = ENCODINGS.get(packed.get("encoding", USUAL))
        if encoder is None:
            raise MalformedError(f"unknown encoding {packed['encoding']!r}")
        response["body"] = {"string": encoder.encode(packed["json"]).encode()}
    elif isinstance(packed.get("body"), Mapping):
        response["body"] = {**packed["body"], "string": as_bytes(packed["body"].get("string"))}
    elif "body" in packed:
        response["body"] = {"string": as_bytes(packed["body"])}
    elif "content" not in packed:  # which vcr wrote for httpx before 6.0, and still reads
        raise MalformedError("the answer has no body; another serializer wrote it")
    return response


def _key(key: str, encoder: json.JSONEncoder) -> str:
    if not isinstance(key, str):
        raise MalformedError(f"the JSON body has a key {key!r}, which is not a string")
    return encoder.encode(key) + encoder.key_separator


def _is_index(value: object, end: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < end


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise MalformedError(f"`{what}` is not a table by name")
    return value


def _unpack_headers(headers: object) -> dict[str, list[Any]]:
    lists = {
        name: value if isinstance(value, list) else [value]
        for name, value in _mapping({} if headers is None else headers, "headers").items()
    }
    for name, values in lists.items():
        if not all(isinstance(value, (str, bytes)) for value in values):
            raise MalformedError(f"header {name} is not a text or a list of texts")
    return lists
