"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def encoded(text: str) -> bytes:
    """`text` in UTF-8; half a surrogate pair, which some clients send, as the escape that JSON has for it."""
    return text.encode("utf-8", "backslashreplace")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, through a temporary file beside it; its folder is made if missing.

    A link stays one, and what it leads to is replaced; a device or a pipe, such as /dev/stdout, is written
    to. Raises OSError and leaves what was there.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
