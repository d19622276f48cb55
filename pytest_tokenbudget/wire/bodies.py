"""Bodies as they travel: their compression undone, and JSON objects in them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pytest_tokenbudget.errors import CassetteError
from pytest_tokenbudget.wire.sse import looks_like_sse

_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_ZSTD = b"\x28\xb5\x2f\xfd"
_MODULES = {
    "br": ("brotli", "brotlicffi"),
    "zstd": ("zstandard", "compression.zstd", "backports.zstd", "pyzstd"),
}
"""Who can undo what the standard library cannot; each has a `decompress` for whole bodies."""


def decode_body(headers: Mapping[str, str], body: bytes) -> bytes:
    """Undo Content-Encoding, as often as it was applied.

    Tolerant of cassettes: a body that was decoded before it was stored, its header left in place, is
    returned as it is; gzip without its header is undone. Raises CassetteError where a body is damaged, or
    where its compression needs a module that is not installed.
    """
    encodings = headers.get("content-encoding", "").lower().split(",")
    for encoding in (*reversed(encodings), "gzip"):
        body = _decoded(encoding.strip(), body)
    return body


def _decoded(encoding: str, body: bytes) -> bytes:
    if body.lstrip()[:1] in (b"{", b"") or looks_like_sse(body):
        return body
    try:
        if encoding in ("gzip", "x-gzip") and body.startswith(_GZIP):
            return zlib.decompress(body, _GZIP_WINDOW)
        if encoding == "deflate":
            return _inflate(body)
    except zlib.error as error:
        raise CassetteError(
            f"A recorded answer is damaged: its {encoding} cannot be undone ({error})."
        ) from None
    if encoding == "br" or (encoding == "zstd" and body.startswith(_ZSTD)):
        return _foreign(encoding, body)
    return body


def _inflate(body: bytes) -> bytes:
    """`deflate` is zlib by its specification (RFC 9110), raw by some servers."""
    try:
        return zlib.decompress(body)
    except zlib.error:
        return zlib.decompress(body, -zlib.MAX_WBITS)


def _foreign(encoding: str, body: bytes) -> bytes:
    for name in _MODULES[encoding]:
        try:
            module = import_module(name)
        except ImportError:
            continue
        try:
            decompressed: bytes = module.decompress(body)
        except Exception as error:  # each of them has its own
            raise CassetteError(
                f"A recorded answer is damaged: {encoding} cannot be undone ({error})."
            ) from None
        return decompressed
    raise CassetteError(
        f"A recorded answer is compressed with {encoding}, and no module that undoes it is installed. "
        f"Install {_MODULES[encoding][0]}, or record with decode_compressed_response=True."
    )


def parse_body(body: bytes) -> dict[str, Any] | None:
    """A JSON object; None for anything else."""
    if body.lstrip()[:1] != b"{":
        return None
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
