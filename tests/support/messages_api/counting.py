"""Tokens of a text: by ctok, or where it is absent (Python 3.11) from a committed table of known texts."""

from __future__ import annotations

import hashlib
import os
import threading
from functools import cache
from pathlib import Path
from typing import Literal

Family = Literal["3.0", "4.7", "4.8"]

KNOWN_TEXTS = Path(__file__).with_name("known_texts.txt")
LEARN = "MESSAGES_API_LEARN"
"""Environment variable: a file to which every counted text is appended as a line of the table."""

_MESSAGE_OVERHEAD = {"3.0": 7, "4.7": 11, "4.8": 6}  # ctok counts one user message: its frame comes off
_counting = threading.Lock()


class UnknownTextError(Exception):
    """A text that cannot be counted here: there is no ctok, and the table does not hold it."""


def counter_name() -> str:
    """Which counter serves on this Python."""
    return "known texts" if _ctok() is None else "ctok"


def count(text: str, family: Family) -> int:
    """Tokens of one block's text, without any framing; raises UnknownTextError rather than guess."""
    return _count(text, family) if text else 0


@cache
def _count(text: str, family: Family) -> int:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    ctok = _ctok()
    if ctok is not None:
        with _counting:
            tokens = int(ctok.token_count(text, family)) - _MESSAGE_OVERHEAD[family]
        _learn(f"{family} {digest} {tokens}\n")
        return tokens
    try:
        return _known_texts()[family, digest]
    except KeyError:
        raise UnknownTextError(
            f"This test server counts with ctok, which needs Python 3.12. Without it, it knows the texts of "
            f"{KNOWN_TEXTS.name} only, and {text[:60]!r} ({len(text)} characters, family {family}) is not "
            f"among them: run `make known-texts` on Python 3.12 or newer."
        ) from None


@cache
def _ctok():  # type: ignore[no-untyped-def]  # a module, or None
    try:
        import ctok
    except ImportError:
        return None
    return ctok


@cache
def _known_texts() -> dict[tuple[str, str], int]:
    return read_table(KNOWN_TEXTS)


def read_table(path: Path) -> dict[tuple[str, str], int]:
    """The lines `family digest tokens` of a table; a text has one line per family."""
    lines = (line.split() for line in path.read_text("utf-8").splitlines() if not line.startswith("#"))
    return {(family, digest): int(tokens) for family, digest, tokens in lines}


def _learn(line: str) -> None:
    if path := os.environ.get(LEARN):
        with Path(path).open("a", encoding="utf-8") as table:  # one short write: whole even under xdist
            table.write(line)
