"""JSON bodies as values and back to the same bytes: which of the common encodings wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 50  # levels; deeper JSON stays text, so that nothing which walks it recurses far

ENCODINGS: Mapping[str, json.JSONEncoder] = {
    "compact": json.JSONEncoder(ensure_ascii=False, separators=(",", ":")),
    "spaced-ascii": json.JSONEncoder(),
    "compact-ascii": json.JSONEncoder(separators=(",", ":")),
    "spaced": json.JSONEncoder(ensure_ascii=False),
}
USUAL = "compact"  # what the SDKs and the API send


def parse_json(body: bytes | None) -> tuple[Any, str | None]:
    """A JSON object or array and the name of the encoding that gives its bytes back.

    `(None, None)` for everything else: no JSON, other spacing, repeated keys, numbers written another way,
    half a surrogate pair, or more than MAX_DEPTH levels.
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
    """A body as vcr may hold it (text, bytes, a file, None) as bytes. Raises TypeError for anything else."""
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
    """A body as text where it is UTF-8."""
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
