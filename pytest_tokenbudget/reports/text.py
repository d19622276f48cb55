"""Text that others wrote, made safe to print, and cut or wrapped to a number of columns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import TypeVar, cast

T = TypeVar("T")

ELLIPSIS = "…"

_ASCII = str.maketrans({"…": "...", "−": "-", "–": "-", "→": "->", "×": "x", "·": "-"})
_LOG_COMMAND = re.compile(r"(?<!\S)::(?=[a-z-]+(?: [^:]*)?::)|##(?=\[|vso\[)", re.IGNORECASE)
"""What begins a command of a CI job: `::error::` at the start of a line, `##[group]` anywhere."""
_NODE_ID = re.compile(r"(?s)(?P<path>[^\[]*::)?(?P<name>[^\[]*)(?P<parameters>\[.*\])?")


def plain(text: str, most: int = 600) -> str:
    """One printable line: white space becomes a space where it is one, every control sequence is spelled out.

    So neither a newline, nor an escape of the terminal, nor a mark that turns the direction of reading
    round survives, nor what the log of a CI job takes for a command. More than `most` characters are cut, so
    that no document can flood a report.
    """
    shown = unicodedata.normalize("NFC", text[: most + 1])
    if not shown.isprintable():
        shown = "".join(map(_printable, shown))
    shown = _LOG_COMMAND.sub(lambda found: f"\\x{ord(found[0][0]):02x}{found[0][1:]}", shown)
    return shown if len(text) <= most else shown[:most] + "..."


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode("ascii")


def to_ascii(text: str) -> str:
    """`text` for a terminal that shows no more than ASCII."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def ascii_strings(value: T) -> T:
    """A copy of `value` with every string inside it as `to_ascii` shows it."""
    if isinstance(value, str):
        return cast("T", to_ascii(value))
    if isinstance(value, dict):
        return cast("T", {key: ascii_strings(item) for key, item in value.items()})
    if isinstance(value, list):
        return cast("T", [ascii_strings(item) for item in value])
    return value


def width(text: str) -> int:
    """How many columns `text` takes in a terminal."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def crop(text: str, columns: int, mark: str = ELLIPSIS) -> str:
    """The beginning of `text`, in at most `columns` columns."""
    if width(text) <= columns:
        return text
    return _head(text, columns - width(mark)) + mark if columns >= width(mark) else ""


def shorten(node_id: str, columns: int, mark: str = ELLIPSIS) -> str:
    """A node id in at most `columns` columns: first its path gives way, then its name, last its `[a|b]`."""
    match = _NODE_ID.fullmatch(node_id)
    if match is None or width(node_id) <= columns:
        return _middle(node_id, columns, mark)
    path, name, parameters = (match[group] or "" for group in ("path", "name", "parameters"))
    room = columns - width(name) - width(parameters)
    if path and room >= width(mark) + 2:
        return _head(path, room - width(mark) - 2) + mark + "::" + name + parameters
    room = columns - width(parameters)
    least = min(width(name), columns // 2)
    if room >= least:
        return _middle(name, room, mark) + parameters
    return _middle(name, least, mark) + _middle(parameters, columns - least, mark)


def _middle(text: str, columns: int, mark: str) -> str:
    """`text` without its middle; more is kept of the end, where names differ."""
    if width(text) <= columns:
        return text
    room = columns - width(mark)
    if room < 2:
        return crop(text, columns, mark)
    head = _head(text, room // 3)
    tail = _head(text[::-1], room - width(head))[::-1]
    return head + mark + tail


def _head(text: str, columns: int) -> str:
    taken = 0
    for index, character in enumerate(text):
        taken += _columns(character)
        if taken > columns:
            return text[:index]
    return text


def wrap(text: str, columns: int, indent: str = "", hang: str = "") -> Iterator[str]:
    """`text` in lines of at most `columns` columns, the first after `indent`, the others after `hang`."""
    line, prefix = "", indent
    for word in text.split():
        while word:
            candidate = f"{line} {word}" if line else word
            room = columns - width(prefix)
            if width(candidate) <= room:
                line, word = candidate, ""
            elif line:
                yield prefix + line
                line, prefix = "", hang
            else:
                piece = _head(word, max(room, 2))
                yield prefix + piece
                word, prefix = word[len(piece) :], hang
    if line:
        yield prefix + line
