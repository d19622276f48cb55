"""Texts as words with line numbers: what prompts and the repository's files are compared by.

A word is a run of letters, digits and underscores, one CJK character, or one punctuation mark. White space
is no word, so that `textwrap.dedent`, joined lines and folded YAML scalars change nothing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

HOLE = "\0"
"""Stands where a template is filled: the expression of an f-string, or one that is added to a literal."""

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]|\0")
_ESCAPE = re.compile(
    r"\\(?:u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|x(?P<x>[0-9a-fA-F]{2})|N\{[^}]*\}|(?P<c>.)|$)"
)
_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "b": " ", "f": " ", "v": " ", "a": " "}
_LITERAL = re.compile(
    r"""\#[^\n]*
      | (?:(?<!\w)(?P<prefix>[rRbBuUfFtT]{1,3}))?
        (?: (?P<triple>\"\"\"|\'\'\')(?P<long>(?:\\.|(?!(?P=triple)).)*)(?P=triple)
          | (?P<quote>["'])(?P<short>(?:\\.|(?!(?P=quote))[^\\\n])*)(?P=quote) )""",
    re.VERBOSE | re.DOTALL,
)
_FIELD = re.compile(r"\{\{|\}\}|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
_ADDS = re.compile(r"[ \t]*\+\s*(?![rRbBuUfFtT]{0,2}[\"'])")
_ADDED_TO = re.compile(r"[\w)\]]\s*\+\s*$")
"""An expression that is added to a literal, and one that a literal is added to: holes, as in f-strings."""
_NEAR = 80
"""Characters in front of a literal that are looked at."""
_JSON = frozenset({".json", ".jsonl"})
_JSON_VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[-+.\w]*')
_ESCAPED = frozenset({".yaml", ".yml", ".toml"})
_MARKUP = frozenset({".html", ".xml"})


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, each with the line that it begins on, counted from 1."""

    words: list[str]
    lines: list[int]


def words_of(text: str) -> list[str]:
    """The words of a text."""
    return _WORD.findall(text)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each of the words of a text begins and ends, in characters."""
    return [match.span() for match in _WORD.finditer(text)]


def read_words(path: str, text: str) -> Words:
    """The words of a file that a prompt can come from: of Python its string literals, else the whole text.

    Escapes of JSON, YAML, TOML and Python are undone, entities of HTML and XML too.
    """
    words: list[str] = []
    lines: list[int] = []
    for number, line in _lines(PurePosixPath(path).suffix.lower(), text):
        found = _WORD.findall(line)
        words.extend(found)
        lines.extend([number] * len(found))
    return Words(words, lines)


def _lines(suffix: str, text: str) -> Iterator[tuple[int, str]]:
    if suffix in (".py", ".pyi"):
        yield from _literals(text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if suffix in _JSON:
            # Strings and numbers alone, so that a tool's schema reads the same here, in Python and when sent.
            yield number, " ".join(_unescape(value).strip('"') for value in _JSON_VALUE.findall(line))
        elif suffix in _ESCAPED:
            yield number, _unescape(line)
        elif suffix in _MARKUP:
            yield number, html.unescape(line)
        else:
            yield number, line


def _literals(source: str) -> Iterator[tuple[int, str]]:
    """The string literals of Python source, line by line.

    Found by their quotes rather than by `ast`, which gives neither the lines inside a concatenation nor,
    before 3.12, the place of an f-string's pieces, and which refuses a file of another Python altogether.
    """
    number, position = 1, 0
    for match in _LITERAL.finditer(source):
        number += source.count("\n", position, match.start())
        position = match.start()
        if match["triple"] is None and match["quote"] is None:
            continue  # a comment
        prefix = (match["prefix"] or "").lower()
        body = match["short"] if match["triple"] is None else match["long"]
        if "f" in prefix or "t" in prefix:
            body = _FIELD.sub(_field, body)
        if _ADDED_TO.search(source, max(match.start() - _NEAR, 0), match.start()):
            yield number, HOLE
        for offset, line in enumerate(body.split("\n")):
            yield number + offset, line if "r" in prefix else _unescape(line)
        if _ADDS.match(source, match.end()):
            yield number + body.count("\n"), HOLE


def _field(match: re.Match[str]) -> str:
    field = match[0]
    if field in ("{{", "}}"):
        return field[0]
    return f" {HOLE} " + "\n" * field.count("\n")  # an expression may span lines: the count goes on


def _unescape(line: str) -> str:
    if "\\" not in line:
        return line
    text = _ESCAPE.sub(_escape, line)
    # JSON writes what is above U+FFFF as a pair of surrogates.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _escape(match: re.Match[str]) -> str:
    digits = match["u"] or match["U"] or match["x"]
    if digits:
        code = int(digits, 16)
        return chr(code) if code < 0x110000 else " "
    character = match["c"] or ""  # none: the line goes on below
    return _CONTROL.get(character, character)
