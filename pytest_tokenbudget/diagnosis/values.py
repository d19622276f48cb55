"""What kind of value differs between two texts: a date, an id, a number, a path, an order, or words."""

from __future__ import annotations

import json
import re
from typing import Any

from pytest_tokenbudget.diagnosis.value_patterns import HEX, LABELS, MADE_BY, NUMBER, PATTERNS, UUID, Kind
from pytest_tokenbudget.sequences import common_ends, common_prefix
from pytest_tokenbudget.sources.words import words_of

_WINDOW = 120
_LABEL = re.compile(r"([\w #]{1,40})\s*(?:[:=]|\bis\b)\s*[\"'`]?[^\s:=]*$")
_LINE_OF_LABEL = re.compile(
    r"^\W*(?:\w+\s)?(?:id|uid|uuid|nonce|session|request|trace|span|correlation|conversation|ref|run)\s\S+$",
    re.IGNORECASE,
)
"""A label that needs no colon where it and a single word are all of a line: `Session 9d2b`."""
_SHORT = 3
"""Words of a value that a label in front of it may name."""


def kind_of_difference(was: str, now: str) -> Kind:
    """The kind of the first value that differs between two texts."""
    if is_reordered(was, now):
        return Kind.ORDER
    at = common_prefix(was, now)
    for kind, patterns in ((Kind.ID, (UUID,)), *PATTERNS):
        if kind == Kind.COUNTER and _is_hex(was, now, at):
            return Kind.ID
        if any(_covers(pattern, was, at) and _covers(pattern, now, at) for pattern in patterns):
            return kind
    return _by_label(was, now, at)


def _is_hex(was: str, now: str, at: int) -> bool:
    """Whether hexadecimal words of one length differ, of which one may lack letters by chance."""
    words = [
        match[0]
        for text in (was, now)
        for match in HEX.finditer(text, max(at - _WINDOW, 0), at + _WINDOW)
        if match.start() <= at < match.end()
    ]
    return len(words) == 2 and len(words[0]) == len(words[1]) and not all(map(str.isdigit, words))


def kind_of_code(line: str) -> Kind | None:
    """The kind of value that a line of code makes anew each time; None where it does no such thing."""
    return next((kind for kind, pattern in MADE_BY if pattern.search(line)), None)


def kind_of_value(text: str, value: str) -> Kind:
    """The kind of a value that a template was filled with, by itself or by its label."""
    if NUMBER.fullmatch(value):
        return Kind.COUNTER
    at = text.find(value)
    return _by_label(text[:at] + text[at + len(value) :], text, at) if at >= 0 else Kind.TEXT


def values_in(text: str) -> list[tuple[Kind, str]]:
    """Dates, ids and paths in a text, in order; numbers and weekdays, which prompts are full of, left out."""
    matches = sorted(
        (match.start(), -match.end(), kind)
        for kind, patterns in PATTERNS
        if kind != Kind.COUNTER
        for pattern in patterns
        for match in pattern.finditer(text)
        if kind != Kind.DATE or any(map(str.isdigit, match[0]))
    )
    found: list[tuple[Kind, str]] = []
    reached = 0
    for start, end, kind in matches:
        if start >= reached:
            found.append((kind, text[start:-end]))
            reached = -end
    return found


def is_reordered(was: str, now: str) -> bool:
    """Whether two different texts hold the same, in another order: JSON with its keys, or lines, or words."""
    if was == now:
        return False
    if was[:1] in ("{", "[") and now[:1] in ("{", "["):
        try:
            if _sorted(json.loads(was)) == _sorted(json.loads(now)):
                return True
        except (ValueError, RecursionError):
            pass
    old, new = (words_of(text) for text in _apart(was, now))
    return old != new and len(old) == len(new) and sorted(old) == sorted(new)


def _apart(was: str, now: str) -> tuple[str, str]:
    """The whole words between what both texts begin and end with: all that two long prompts differ in."""
    start, tail = common_ends(was, now)
    while start and _is_inside_word(was, start):
        start -= 1
    while tail and _is_inside_word(was, len(was) - tail):
        tail -= 1
    return was[start : len(was) - tail], now[start : len(now) - tail]


def _is_inside_word(text: str, at: int) -> bool:
    return (text[at - 1].isalnum() or text[at - 1] == "_") and at < len(text) and text[at].isalnum()


def _sorted(value: Any) -> str:
    """A JSON value with every object and every list in one order."""
    if isinstance(value, dict):
        return (
            "{"
            + ",".join(sorted(f"{json.dumps(key)}:{_sorted(inner)}" for key, inner in value.items()))
            + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(sorted(_sorted(inner) for inner in value)) + "]"
    return json.dumps(value)


def _covers(pattern: re.Pattern[str], text: str, at: int) -> bool:
    """Whether a match of `pattern` holds the character at `at`, or ends there."""
    start = max(at - _WINDOW, 0)
    return any(match.start() <= at <= match.end() for match in pattern.finditer(text, start, at + _WINDOW))


def _by_label(was: str, now: str, at: int) -> Kind:
    """By what stands in front of a short value: `session: brave-otter`, `Host = alpha`."""
    tail = common_prefix(was[at:][::-1], now[at:][::-1])
    old, new = was[at : len(was) - tail], now[at : len(now) - tail]
    label = _LABEL.search(now, max(at - _WINDOW, 0), at)
    if label and len(words_of(old)) <= _SHORT and len(words_of(new)) <= _SHORT and "\n" not in old + new:
        for kind, pattern in LABELS:
            if pattern.search(label[1]):
                return kind
    line = now[now.rfind("\n", 0, at) + 1 :].partition("\n")[0]
    return Kind.ID if _LINE_OF_LABEL.search(line) and new else Kind.TEXT
