"""Tokens of an image, by its pixels: the size is read from the header of its base64 data."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Callable

_HEADER = 64 * 1024  # bytes read first: a JPEG may carry metadata before its size


def image_size(data: str) -> tuple[int, int] | None:
    """Width and height in pixels of a base64 PNG, JPEG, GIF or WebP; None where it cannot be read."""
    for length in (_HEADER, len(data)):
        try:
            header = base64.b64decode(data[: length // 4 * 4])
        except (binascii.Error, ValueError):
            return None
        for magic, read in _READERS.items():
            if header.startswith(magic):
                size = read(header)
                if size is not None and min(size) > 0:
                    return size
        if length >= len(data):
            break
    return None


def image_tokens(width: int, height: int, *, max_edge: int, max_patches: int) -> int:
    """Patches of 28 x 28 pixels, after scaling down to both limits (Anthropic's "vision" page, 2026-09)."""
    scale = min(1.0, max_edge / max(width, height))
    while (patches := _patches(width * scale, height * scale)) > max_patches:
        scale *= min(0.999, math.sqrt(max_patches / patches))
    return patches


def _patches(width: float, height: float) -> int:
    return math.ceil(max(1, round(width)) / 28) * math.ceil(max(1, round(height)) / 28)


def _png(header: bytes) -> tuple[int, int] | None:
    return _unpack(">II", header, 16)


def _gif(header: bytes) -> tuple[int, int] | None:
    return _unpack("<HH", header, 6)


def _jpeg(header: bytes) -> tuple[int, int] | None:
    """Walk the segments to the first start-of-frame: its height comes before its width."""
    at = 2
    while at + 9 <= len(header) and header[at] == 0xFF:
        marker = header[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", header, at + 5)
            return width, height
        at += 2 + struct.unpack_from(">H", header, at + 2)[0]
    return None


def _webp(header: bytes) -> tuple[int, int] | None:
    if header[8:12] != b"WEBP" or len(header) < 30:
        return None
    kind = header[12:16]
    if kind == b"VP8X":  # extended: 24-bit sizes, minus one
        return 1 + int.from_bytes(header[24:27], "little"), 1 + int.from_bytes(header[27:30], "little")
    if kind == b"VP8L":  # lossless: 14-bit sizes, minus one
        bits = int.from_bytes(header[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":  # lossy: 14-bit sizes after the start code
        width, height = struct.unpack_from("<HH", header, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _unpack(layout: str, header: bytes, at: int) -> tuple[int, int] | None:
    if len(header) < at + struct.calcsize(layout):
        return None
    first, second = struct.unpack_from(layout, header, at)
    return int(first), int(second)


_READERS: dict[bytes, Callable[[bytes], tuple[int, int] | None]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8": _jpeg,
    b"GIF8": _gif,
    b"RIFF": _webp,
}
