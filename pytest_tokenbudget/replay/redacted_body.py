"""Bodies without secrets: JSON, JSON lines, server-sent events, Bedrock's event streams, and any other text.

A secret that a stream cuts into pieces is found in the text that the pieces make together.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_tokenbudget.replay.json_body import ENCODINGS, USUAL, parse_json
from pytest_tokenbudget.replay.secret_text import PLACEHOLDER, Secrets, Span
from pytest_tokenbudget.wire.event_stream import (
    looks_like_event_stream,
    read_event_stream,
    write_event_stream,
)

Path = tuple[str | int, ...]

_NAMED = re.compile(
    r"(?i)request_id|user_profile_id|organization_id|workspace_id|api_?key|(?:access|refresh|id)_?token"
    r"|client_?secret|password|private_?key|secret_?access_?key|session_?token"
)
"""Fields whose text is hidden for their name alone, outside the conversation."""
_CONVERSATION = frozenset({"messages", "system", "tools", "content", "input", "delta"})
_OF_METADATA = re.compile("user_id")
_DATA = re.compile(r"((?:data:[ \t]*)?)(\{.*\})(\s*)")


def redact_body(body: bytes, secrets: Secrets) -> bytes:
    """The body without secrets; the same object where there are none."""
    if looks_like_event_stream(body):
        return _redact_event_stream(body, secrets)
    value, encoding = parse_json(body)
    if encoding is not None:
        redacted = redact_json(value, secrets)
        return body if redacted == value else ENCODINGS[encoding].encode(redacted).encode()
    text = body.decode("utf-8", "surrogateescape")  # binary bodies are searched as they are
    redacted_text = secrets.redact(_redact_structure(text, secrets))
    return body if redacted_text == text else redacted_text.encode("utf-8", "surrogateescape")


def redact_json(value: Any, secrets: Secrets, *, names: re.Pattern[str] | None = _NAMED) -> Any:
    """A JSON value without secrets in its texts and keys; `names` says which fields are hidden whole."""
    if isinstance(value, str):
        return secrets.redact(value)
    if isinstance(value, list):
        return [redact_json(item, secrets, names=names) for item in value]
    if not isinstance(value, dict):
        return value
    redacted = {}
    for key, item in value.items():
        if names is not None and names.fullmatch(key) and isinstance(item, str) and item:
            redacted[secrets.redact(key)] = PLACEHOLDER
        else:
            inner = None if key in _CONVERSATION else _OF_METADATA if key == "metadata" and names else names
            redacted[secrets.redact(key)] = redact_json(item, secrets, names=inner)
    return redacted


def _redact_event_stream(body: bytes, secrets: Secrets) -> bytes:
    try:
        events = list(read_event_stream(body))
    except ValueError:  # damaged, or not Bedrock's
        text = body.decode("utf-8", "surrogateescape")
        return secrets.redact(text).encode("utf-8", "surrogateescape")
    redacted = _redact_events(events, secrets)
    return body if redacted == events else write_event_stream(redacted)


def _redact_structure(text: str, secrets: Secrets) -> str:
    """JSON that none of our encodings gives back, or lines of JSON: what changes is written anew."""
    try:
        value = json.loads(text)
        redacted = redact_json(value, secrets)
        return text if redacted == value else ENCODINGS[USUAL].encode(redacted)
    except (ValueError, RecursionError):
        return _redact_lines(text, secrets)


def _redact_lines(text: str, secrets: Secrets) -> str:
    """The events of a stream are pieces of one text; JSON lines without `data:` stand each for itself."""
    lines: list[str] = text.split("\n")
    parsed = [(number, *found) for number, line in enumerate(lines) if (found := _parse_line(line))]
    stream = iter(_redact_events([event for _, head, event, _ in parsed if head], secrets))
    for number, head, event, tail in parsed:
        new = next(stream) if head else redact_json(event, secrets)
        if new != event:
            lines[number] = f"{head}{ENCODINGS[USUAL].encode(new)}{tail}"
    return "\n".join(lines)


def _parse_line(line: str) -> tuple[str, Any, str] | None:
    """`data:` where it is there, the JSON object, and the blanks behind it."""
    match = _DATA.fullmatch(line)
    try:
        return (match[1], json.loads(match[2]), match[3]) if match else None
    except (ValueError, RecursionError):
        return None


def _redact_events(events: Sequence[Any], secrets: Secrets) -> list[Any]:
    return [redact_json(event, secrets) for event in _redact_joined(events, secrets)]


def _redact_joined(events: Sequence[Any], secrets: Secrets) -> Sequence[Any]:
    """Hide what only shows in the joined texts of one place in the events, as in `delta.text` of a block."""
    places: dict[object, list[tuple[int, Path]]] = defaultdict(list)
    for number, event in enumerate(events):
        block = event.get("index") if isinstance(event, dict) else None
        for path in _texts(event, ()):
            places[block, path].append((number, path))
    changed = list(events)
    for pieces in places.values():
        texts = [_at(events[number], path) for number, path in pieces]
        spans = secrets.spans("".join(texts)) if len(texts) > 1 else []
        for (number, path), old, new in zip(pieces, texts, _cut(texts, spans), strict=True):
            if new != old:
                changed[number] = _with(changed[number], path, new)
    return changed


def _texts(value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, str):
        yield path
    elif isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(item, (*path, key))


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(value: Any, path: Path, text: str) -> Any:
    """A copy of the value with another text at a path."""
    if not path:
        return text
    copy = value.copy()
    copy[path[0]] = _with(value[path[0]], path[1:], text)
    return copy


def _cut(pieces: Sequence[str], spans: Sequence[Span]) -> Iterator[str]:
    """The pieces of a text without the spans of the whole; where a span begins stands the placeholder."""
    start = 0
    for piece in pieces:
        end = start + len(piece)
        parts, done = [], start
        for first, last in spans:
            if first < end and last > start:
                if first >= start:
                    parts += [piece[done - start : first - start], PLACEHOLDER]
                done = min(last, end)
        yield "".join([*parts, piece[done - start :]])
        start = end
