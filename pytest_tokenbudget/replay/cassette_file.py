"""Write cassettes as compact YAML that a person can review, and read them and plain vcr cassettes again.

`docs/cassettes.md` describes the form. A conversation sends its whole history on every turn, so each prompt
is kept once, and what a later request repeats is a reference to an earlier request. Request bodies come back
byte for byte, by the encoding that wrote them. A cassette is untrusted: it may come with a pull request.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.files import conflict_in, load_yaml, restoring, taking_a_side, write_atomically
from pytest_tokenbudget.replay.yaml_text import OneLine, yaml_text
from pytest_tokenbudget.wording import next_step

MAX_BYTES = 2**30  # bytes of all request bodies of a cassette together, once references are resolved
_ITEM_BYTES = 8  # bytes of memory that an item takes beside its text


class MalformedError(ValueError):
    """The document is no list of interactions. The message says which interaction is wrong, and how."""


def unpack(entries: object) -> list[Interaction]:
    """Return the interactions that `pack` packed, or those of a plain vcr cassette. Raises MalformedError."""
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
    """Resolve the references of one cassette's requests. Each stored item is encoded only once."""

    def __init__(self) -> None:
        self.headers: dict[str, list[Any]] | None = None
        self.fields: list[dict[str, Any]] = []
        self.texts: dict[tuple[int, str], str] = {}  # by id() of an item, which `fields` keeps alive
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
    elif "content" not in packed:  # vcr before 6.0 wrote `content` for httpx, and still reads it
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


FORMAT = "pytest-tokenbudget"
VERSION = 1
_HEADER = "# Recorded model calls, for replay. Review them like code; record them anew with "
_RECORD = "pytest --token-budget-record=all"


def read_cassette(path: str | os.PathLike[str]) -> list[Interaction]:
    """Return the interactions of a cassette; request bodies byte for byte as they were recorded.

    Raises FileNotFoundError if there is no such file, and CassetteError, which names the file and the fix, if
    it is empty, truncated, no YAML, of another shape or of a newer version.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror or error}") from error
    if not text.strip():
        raise _unreadable(path, "is empty")
    if conflict := conflict_in(text):
        raise CassetteError(
            f"{path}: holds conflict marks of a merge (line {conflict.line}).\n"
            + next_step("Take one side (yours; --theirs is the other)", taking_a_side(path))
            + f"\n{_again(path)}"
        )
    try:
        return _interactions(_document(text))
    except _NewerVersionError as error:
        raise CassetteError(f"{path}: {error}. Upgrade pytest-tokenbudget.") from error
    except MalformedError as error:
        raise _unreadable(path, str(error)) from error


def module_of_cassette(path: Path) -> Path:
    """Return the test file of a cassette: `a/test_b.py` for `a/cassettes/test_b/test_c.yaml`."""
    return path.parents[2] / f"{path.parent.name}.py"


def is_own(path: Path) -> bool:
    """Return whether this package, and no other recorder, wrote the cassette in a file."""
    try:
        with path.open(encoding="utf-8") as file:
            return [file.readline(), file.readline()][1] == f"format: {FORMAT}\n"
    except (OSError, UnicodeDecodeError):
        return False


def write_cassette(path: str | os.PathLike[str], interactions: Sequence[Interaction]) -> None:
    """Write the interactions to a file, which is replaced whole or not at all. Makes the folder.

    The same interactions give the same bytes. They are not redacted here: redact them first. Raises
    CassetteError; what was on disk before is then untouched.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    try:
        content = format_cassette(interactions).encode()
        write_atomically(path, content)
    except (TypeError, ValueError, KeyError) as error:
        raise CassetteError(
            f"{path}: cannot be written: {error}. What was on disk is untouched. A cassette cannot hold the "
            "request or answer with this value: keep it out of the scenario."
        ) from error
    except OSError as error:
        raise CassetteError(
            f"{path}: cannot be written: {error.strerror or error}. What was on disk is untouched. Make the "
            "folder writable and record again."
        ) from error


def format_cassette(interactions: Sequence[Interaction]) -> str:
    """Return the text of a cassette file."""
    # The version comes last, as in vcr's files: a file without one has lost its end.
    document = {"format": FORMAT, "interactions": pack(interactions), "version": VERSION}
    return f"{_HEADER}`{_RECORD}`.\n{yaml_text(document)}"


class _NewerVersionError(ValueError):
    """The cassette has a format version that this package does not know yet."""


def _unreadable(path: Path, what: str) -> CassetteError:
    return CassetteError(f"{path}: {what}.\n{next_step('Restore it', restoring(path))}\n{_again(path)}")


def _again(path: Path) -> str:
    """Return the step that records a cassette again, and nothing else."""
    return next_step(
        "Or record it again (needs an API key)",
        f"rm {shlex.quote(str(path))}",
        "pytest --token-budget-record=once",
    )


def _document(text: str) -> object:
    try:
        return load_yaml(text)
    except ValueError as error:
        raise MalformedError(f"is no YAML that a cassette may hold: {error}") from error


def _interactions(document: object) -> list[Interaction]:
    if not isinstance(document, dict) or "interactions" not in document:
        raise MalformedError("is no cassette: it has no `interactions`")
    version = document.get("version")
    if version is None:
        raise MalformedError("is truncated: it ends before its `version`")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise MalformedError(f"is of version {version!r}, which does not exist")
    if version > VERSION:
        raise _NewerVersionError(f"is of version {version}; this pytest-tokenbudget reads up to {VERSION}")
    return unpack(document["interactions"])


Interaction = tuple[dict[str, Any], dict[str, Any]]
"""A request and its answer in vcr's own shape: `{"method", "uri", "body": bytes | None, "headers"}` and
`{"status": {"code", "message"}, "headers", "body": {"string": bytes}}`; headers are lists by name.

A recorder may add `"timing": {"started", "answered"}` to the answer: when the request was started and when
the answer's first byte came, in whole milliseconds since the recording began. If some turns were recorded
again later, `"timing": {"session"}` has the number of that later session, from 1. Answers without it are of
the first session.
"""

_WORTHWHILE = 80  # characters; shorter texts are repeated, which is easier to read than a reference
REFERENCES = ({"same_as"}, {"first", "of"}, {"first", "of", "then"})


def pack(interactions: Sequence[Interaction]) -> list[dict[str, Any]]:
    """Return the interactions as values for a YAML file; `unpack` gives back the exact bytes.

    JSON bodies become structure if that gives their bytes back; other bodies stay text or bytes. A field of a
    request that an earlier request has too becomes `{same_as: i}`. A list that begins like an earlier one
    becomes `{first: n, of: i, then: [...]}`. In both, `i` is the index of the earlier interaction. Takes
    linear time in the size of the bodies.
    """
    requests = _RequestPacker()
    return [
        {"request": requests.pack(index, request), "response": _pack_response(response)}
        for index, (request, response) in enumerate(interactions)
    ]


class _RequestPacker:
    """Pack the requests of one cassette in order, and remember what each of them said."""

    def __init__(self) -> None:
        self.headers: dict[str, Any] = {}
        self.whole: dict[tuple[str, str], int] = {}  # a field and its JSON -> the first request that had it
        self.chains: dict[tuple[object, str], int] = {}  # (a prefix, its next item) -> the longer prefix
        self.owners: list[int] = []  # by number of a prefix: the request that said it first

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
        """Return how many first items a field shares with an earlier request, and that request's index.

        Prefixes that are new are learned.
        """
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
    if isinstance(value, dict) and isinstance(usage := value.get("usage"), dict):
        value["usage"] = OneLine(usage)
    return packed | ({"encoding": encoding} if encoding != USUAL else {}) | {"json": value}


def _has_reference(value: Any) -> bool:
    """Return whether a field of the body itself looks like a reference, so that ours could be mistaken."""
    fields = value.values() if isinstance(value, dict) else ()
    return any(isinstance(item, dict) and item.keys() in REFERENCES for item in fields)


def _pack_headers(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    lists = {name: [v] if isinstance(v, (str, bytes)) else list(v) for name, v in (headers or {}).items()}
    return {name: lists[name][0] if len(lists[name]) == 1 else lists[name] for name in sorted(lists)}


MAX_DEPTH = 50  # levels; deeper JSON stays text, so that code which walks it does not recurse deeply

ENCODINGS: Mapping[str, json.JSONEncoder] = {
    "compact": json.JSONEncoder(ensure_ascii=False, separators=(",", ":")),
    "spaced-ascii": json.JSONEncoder(),
    "compact-ascii": json.JSONEncoder(separators=(",", ":")),
    "spaced": json.JSONEncoder(ensure_ascii=False),
}
USUAL = "compact"  # what the SDKs and the API send


def parse_json(body: bytes | None) -> tuple[Any, str | None]:
    """Return a JSON object or array and the name of the encoding that gives its bytes back.

    Return `(None, None)` for everything else: no JSON, other spacing, repeated keys, numbers written another
    way, half a surrogate pair, or more than MAX_DEPTH levels.
    """
    if not body or body[:1] not in (b"{", b"["):
        return None, None
    try:
        text = body.decode()
        value = json.loads(text, parse_constant=_refuse)
        if not _is_shallow(value, MAX_DEPTH):
            return None, None
        encoding = next((name for name, encoder in ENCODINGS.items() if encoder.encode(value) == text), None)
        if encoding is not None and encoding.endswith("ascii"):
            ENCODINGS[USUAL].encode(value).encode()  # fails for half a surrogate pair, which is no text
    except (ValueError, RecursionError):
        return None, None
    return (value, encoding) if encoding else (None, None)


def as_bytes(body: Any) -> bytes | None:
    """Return a body as vcr may hold it (text, bytes, a file, None) as bytes. Raises TypeError for others."""
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    if hasattr(body, "read"):
        return as_bytes(body.read())
    raise TypeError(f"a body is {type(body).__name__}, not text or bytes")


def as_text(body: bytes | None) -> str | bytes | None:
    """Return a body as text if it is UTF-8, else as it is."""
    try:
        return None if body is None else body.decode()
    except UnicodeDecodeError:
        return body


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_shallow(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(_is_shallow(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return levels > 0 and all(_is_shallow(item, levels - 1) for item in value)
    return True
