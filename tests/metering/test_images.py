"""The size of an image, from its header, and its tokens."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_tokenbudget.metering.rendering import image_size, image_tokens

_SIZES = st.integers(1, 0x3FFF)


def png(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x00\x00\x00"


def jpeg(width: int, height: int, metadata: int = 20) -> bytes:
    segment = b"\xff\xe1" + struct.pack(">H", metadata + 2) + bytes(metadata)
    tables = b"\xff\xff\xc4" + struct.pack(">H", 2 + 4) + bytes(4)
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + segment + tables + frame


def webp(kind: bytes, data: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(data) + 12) + b"WEBP" + kind + struct.pack("<I", len(data)) + data


def webp_lossy(width: int, height: int) -> bytes:
    return webp(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height))


def webp_lossless(width: int, height: int) -> bytes:
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(5))


def webp_extended(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return webp(b"VP8X", bytes(4) + sizes)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("form", [png, gif, jpeg, webp_lossy, webp_lossless, webp_extended])
@given(width=_SIZES, height=_SIZES)
def test_every_format_that_the_api_takes_tells_its_size(form: object, width: int, height: int) -> None:
    assert callable(form)
    assert image_size(encoded(form(width, height))) == (width, height)


def test_a_size_behind_long_metadata_is_found() -> None:
    photo = b"\xff\xd8" + jpeg(640, 480, metadata=60_000)[2:60_006] + jpeg(640, 480, metadata=60_000)[2:]
    assert len(photo) > 64 * 1024
    assert image_size(encoded(photo)) == (640, 480)


@pytest.mark.parametrize(
    "data",
    [
        *("", "REDACTED", "!!!", "é"),
        *map(encoded, (b"%PDF-1.7", png(1, 1)[:20], jpeg(1, 1)[:30], gif(0, 5))),
    ],
)
def test_what_is_no_image_has_no_size(data: str) -> None:
    assert image_size(data) is None


@given(st.binary(max_size=80))
def test_no_bytes_are_too_odd(data: bytes) -> None:
    for magic in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"GIF8", b"RIFF1234WEBPVP8X"):
        size = image_size(encoded(magic + data))
        assert size is None or min(size) > 0


@pytest.mark.parametrize(
    ("size", "limits", "tokens"),
    [
        ((1, 1), (1568, 1568), 1),
        ((28, 28), (1568, 1568), 1),
        ((29, 28), (1568, 1568), 2),
        ((800, 440), (1568, 1568), 29 * 16),
        ((228, 148), (1568, 1568), 9 * 6),
        ((3136, 28), (1568, 1568), 56),  # scaled to 1568 x 14
        ((3136, 28), (2576, 4784), 92),
    ],
)
def test_tokens_are_patches_of_28_pixels(size: tuple[int, int], limits: tuple[int, int], tokens: int) -> None:
    assert image_tokens(*size, max_edge=limits[0], max_patches=limits[1]) == tokens


@given(_SIZES, _SIZES)
def test_tokens_never_exceed_the_limit(width: int, height: int) -> None:
    assert 1 <= image_tokens(width, height, max_edge=1568, max_patches=1568) <= 1568
