"""Write JSON-like values as YAML that a person can review: one field a line, one line of a prompt a line.

PyYAML's dumpers fold long text, fall back to one quoted blob where a line ends in a space or holds an emoji
(libyaml), and differ from each other. Cassettes must be the same bytes everywhere and give small diffs.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_LONG_KEY = 128  # characters; a simple key of YAML may not be longer than 1,024
_PRINTABLE = "\t\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff"
_PLAIN = re.compile(rf"[^\W\d](?:[{_PRINTABLE}]*[\w.,!?)])?")
_NOT_PLAIN = re.compile(r"\t|: | #|:$")
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_LITERAL = re.compile(rf"[{_PRINTABLE}\n]*")
_BLANK_AT_END = re.compile(r"[ \t]$", re.MULTILINE)
_INDENTED = re.compile(r"\n*[ \t]")
_ESCAPED = re.compile(rf'[^{_PRINTABLE}\ud800-\udfff]|[\\"\t]')  # surrogates stay, and fail to encode
_WORD = re.compile(r"[A-Za-z_]\w*")
_LONG_LINE = 500  # characters
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}


class OneLine(dict[str, Any]):
    """A mapping that is shown on one line if that is not too long, since its values change together."""


def yaml_text(document: Mapping[str, Any]) -> str:
    """Return the YAML of nested mappings (string keys, order kept), lists, text, bytes, numbers, bool and
    None.

    Any YAML 1.1 loader reads the same values back. Recurses as deep as the value. Raises TypeError for other
    types, and ValueError for NaN and infinities.
    """
    lines: list[str] = []
    _container(document, "", lines)
    return "\n".join(lines) + "\n"


def _container(value: Any, pad: str, lines: list[str]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _entry(f"{pad}{_key(key, pad)}:", item, pad, pad if isinstance(item, list) else f"{pad}  ", lines)
    else:
        for item in value:
            _entry(f"{pad}-", item, pad, f"{pad}  ", lines)


def _entry(head: str, item: Any, pad: str, inner: str, lines: list[str]) -> None:
    if not isinstance(item, (Mapping, list, tuple)):
        lines.append(f"{head} {_scalar(item, pad + '  ')}")
    elif not item:
        lines.append(f"{head} {{}}" if isinstance(item, Mapping) else f"{head} []")
    elif isinstance(item, OneLine) and len(line := _flow(item)) <= _LONG_LINE:
        lines.append(f"{head} {line}")
    elif head.endswith("-"):
        first = len(lines)
        _container(item, inner, lines)
        lines[first] = head + lines[first][len(head) :]  # the first entry stands on the line of its dash
    else:
        lines.append(head)
        _container(item, inner, lines)


def _flow(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, Mapping):
        items = (f"{_flow(key)}: {_flow(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and _is_plain(value) else _quoted(value)
    return _scalar(value, "")


def _key(key: Any, pad: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key is {type(key).__name__}, not str")
    text = key if _is_plain(key) else _quoted(key)
    return text if len(text) <= _LONG_KEY else f"? {_quoted(key)}\n{pad}"


def _scalar(value: Any, pad: str) -> str:
    if isinstance(value, str):
        return _string(value, pad)
    if isinstance(value, (bytes, bytearray)):
        return "\n".join(["!!binary |", *(pad + line for line in _base64_lines(bytes(value)))])
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        text = repr(value)  # YAML 1.1 wants a point before an exponent
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, float):
        raise ValueError(f"{value} is no JSON number")
    raise TypeError(f"a value is {type(value).__name__}, which a cassette cannot hold")


def _base64_lines(value: bytes) -> Sequence[str]:
    return base64.encodebytes(value).decode("ascii").splitlines()


def _string(text: str, pad: str) -> str:
    if "\n" in text[:-1]:
        return _literal(text, pad) if _is_literal(text) else _quoted_lines(text, pad)
    return text if _is_plain(text) else _quoted(text)


def _is_plain(text: str) -> bool:
    return (
        _PLAIN.fullmatch(text) is not None and _NOT_PLAIN.search(text) is None and text.lower() not in _WORDS
    )


def _is_literal(text: str) -> bool:
    """Return whether a literal block can show a text and survive tools that strip blanks at line ends."""
    return bool(text.strip()) and _LITERAL.fullmatch(text) is not None and not _BLANK_AT_END.search(text)


def _literal(text: str, pad: str) -> str:
    indicator = "2" if _INDENTED.match(text) else ""
    chomping = "-" if not text.endswith("\n") else "+" if text.endswith("\n\n") else ""
    lines = text.removesuffix("\n").split("\n")
    return "\n".join([f"|{indicator}{chomping}", *(pad + line if line else "" for line in lines)])


def _quoted(text: str) -> str:
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _quoted_lines(text: str, pad: str) -> str:
    """Return a quoted string over several lines of the file, each ending with its own escaped line break."""
    pieces = [_ESCAPED.sub(_escape, line) for line in text.splitlines(keepends=True)]
    return '"\\\n' + "\\\n".join(pad + (f"\\{piece}" if piece[0] == " " else piece) for piece in pieces) + '"'


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    return _ESCAPES.get(char) or (f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}")
