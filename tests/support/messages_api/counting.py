"""Tokens of a text: from a committed table of known texts, else by ctok, which Python 3.11 does not have."""

from __future__ import annotations

import hashlib
import os
import threading
from functools import cache
from importlib.metadata import version
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
    known = _known_texts().get((family, digest))
    if known is not None:
        return known
    ctok = _ctok()
    if ctok is not None:
        with _counting:
            tokens = int(ctok.token_count(text, family)) - _MESSAGE_OVERHEAD[family]
        _learn(f"{family} {digest} {tokens}\n")
        return tokens
    raise UnknownTextError(
        f"This test server counts with ctok, which needs Python 3.12. Without it, it knows the texts of "
        f"{KNOWN_TEXTS.name} only, and {text[:60]!r} ({len(text)} characters, family {family}) is not "
        f"among them: run `make known-texts` on Python 3.12 or newer."
    )


@cache
def _ctok():  # type: ignore[no-untyped-def]  # a module, or None
    try:
        import ctok
    except ImportError:
        return None
    return ctok


@cache
def _known_texts() -> dict[tuple[str, str], int]:
    """Return the table; empty where another ctok is installed than wrote it, or where it is written anew.

    The product counts with the installed one: the server must not charge by another.
    """
    header = KNOWN_TEXTS.read_text("utf-8").partition("\n")[0]
    other = _ctok() is not None and f"by ctok {version('ctok')}." not in header
    return {} if other or os.environ.get(LEARN) else read_table(KNOWN_TEXTS)


def read_table(path: Path) -> dict[tuple[str, str], int]:
    """The lines `family digest tokens` of a table; a text has one line per family."""
    lines = (line.split() for line in path.read_text("utf-8").splitlines() if not line.startswith("#"))
    return {(family, digest): int(tokens) for family, digest, tokens in lines}


def _learn(line: str) -> None:
    if path := os.environ.get(LEARN):
        with Path(path).open("a", encoding="utf-8") as table:  # one short write: whole even under xdist
            table.write(line)
