"""Name the kind of value that differs between two texts: a date, an id, a number, a path, an order, or words.

A value is known by its look, by its label, or by the code that makes it.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Any

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
"""A value of at most so many words may be named by a label in front of it."""


def kind_of_difference(was: str, now: str) -> Kind:
    """Return the kind of the first value that differs between two texts."""
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
    """Return whether hexadecimal words of one length differ at `at`, and not all are only digits."""
    words = [
        match[0]
        for text in (was, now)
        for match in HEX.finditer(text, max(at - _WINDOW, 0), at + _WINDOW)
        if match.start() <= at < match.end()
    ]
    return len(words) == 2 and len(words[0]) == len(words[1]) and not all(map(str.isdigit, words))


def kind_of_code(line: str) -> Kind | None:
    """Return the kind of value that a line of code makes anew each time, or None if it makes none."""
    return next((kind for kind, pattern in MADE_BY if pattern.search(line)), None)


def kind_of_value(text: str, value: str) -> Kind:
    """Return the kind of a value that a template was filled with, by its look or by its label."""
    if NUMBER.fullmatch(value):
        return Kind.COUNTER
    at = text.find(value)
    return _by_label(text[:at] + text[at + len(value) :], text, at) if at >= 0 else Kind.TEXT


def values_in(text: str) -> list[tuple[Kind, str]]:
    """Return (kind, text) for the dates, ids and paths in a text, in order.

    Numbers, and dates without a digit such as weekdays, are left out: prompts are full of them.
    """
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
    """Return whether two different texts hold the same in another order: keys of JSON, lines, or words."""
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
    """Return the whole words between what both texts begin and end with.

    Two long prompts are thus compared only where they differ.
    """
    start, tail = common_ends(was, now)
    while start and _is_inside_word(was, start):
        start -= 1
    while tail and _is_inside_word(was, len(was) - tail):
        tail -= 1
    return was[start : len(was) - tail], now[start : len(now) - tail]


def _is_inside_word(text: str, at: int) -> bool:
    return (text[at - 1].isalnum() or text[at - 1] == "_") and at < len(text) and text[at].isalnum()


def _sorted(value: Any) -> str:
    """Return a JSON value as text, with every object and every list in one order."""
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
    """Return whether a match of `pattern` holds the character at `at`, or ends there."""
    start = max(at - _WINDOW, 0)
    return any(match.start() <= at <= match.end() for match in pattern.finditer(text, start, at + _WINDOW))


def _by_label(was: str, now: str, at: int) -> Kind:
    """Return the kind of a short value by its label: `session: brave-otter`, `Host = alpha`; else `TEXT`."""
    tail = common_prefix(was[at:][::-1], now[at:][::-1])
    old, new = was[at : len(was) - tail], now[at : len(now) - tail]
    label = _LABEL.search(now, max(at - _WINDOW, 0), at)
    if label and len(words_of(old)) <= _SHORT and len(words_of(new)) <= _SHORT and "\n" not in old + new:
        for kind, pattern in LABELS:
            if pattern.search(label[1]):
                return kind
    line = now[now.rfind("\n", 0, at) + 1 :].partition("\n")[0]
    return Kind.ID if _LINE_OF_LABEL.search(line) and new else Kind.TEXT


class Kind(StrEnum):
    """The kind of a difference, in words for people."""

    DATE = "date or time"
    ID = "UUID or random id"
    PATH = "path or host name"
    COUNTER = "counter or other number"
    ORDER = "another order"
    TEXT = "changed text"

    @property
    def is_value(self) -> bool:
        """Whether a program may fill it in anew each time."""
        return self not in (Kind.ORDER, Kind.TEXT)


_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?"
    r"|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?"
)
_WEEKDAY = (
    r"(?:(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?"
    r"|(?:Mon|Diens|Donners|Frei|Sams|Sonn)tag|Mittwoch|(?:maan|dins|woens|donder|vrij|zater|zon)dag"
    r"|(?:lun|mar|mercre|jeu|vendre|same)di|dimanche|lunes|martes|miércoles|jueves|viernes|sábado|domingo"
    r"|(?:lune|marte|mercole|giove|vener)dì|sabato|domenica)\b"
)
_WORD = r"[^\W\d_]{3,}"
"""A month in any language, where it stands between the number of a day and a year."""
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s?[AaPp]\.?[Mm]\b\.?)?"
_ZONE = r"(?:\s?(?:Z|UTC|GMT|[A-Z]{2,4}T|[+-]\d{2}:?\d{2})\b)?"
_CLOCK = rf"(?:(?:,?\s+(?:at\s+)?|T){_TIME}{_ZONE})?"
_DATE = (
    rf"(?<!\d)(?:19|20)\d{{2}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}{_CLOCK}",
    rf"(?<!\d)\d{{1,2}}[-/.]\d{{1,2}}[-/.](?:19|20)?\d{{2}}(?!\d){_CLOCK}",
    rf"\b(?:{_WEEKDAY},?\s+)?\d{{1,2}}(?:st|nd|rd|th|\.)?\s+(?:of\s+)?{_MONTH},?(?:\s+\d{{4}})?{_CLOCK}",
    rf"\b(?:{_WEEKDAY},?\s+)?{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?(?!\d)(?:{_CLOCK}{_ZONE}\s+\d{{4}}|,?\s+\d{{4}}{_CLOCK}|{_CLOCK})",
    rf"\b{_MONTH}\s+\d{{4}}\b",
    rf"\b(?:{_WEEKDAY}|{_MONTH})",
    rf"(?:\b{_WEEKDAY},?\s+)?(?<!\d)\d{{1,2}}\.?[\s/-](?:de\s)?{_WORD}\.?[\s/-](?:de\s)?(?:19|20)\d{{2}}\b{_CLOCK}",
    r"(?:19|20)\d{2}\s?[年년]\s?\d{1,2}\s?[月월](?:\s?\d{1,2}\s?[日일])?(?:\s*\d{1,2}\s?[時时시]\s?\d{1,2}\s?[分분])?",
    r"\b20\d{2}-?W\d{2}(?:-?\d)?\b|\bQ[1-4][\s/-]20\d{2}\b",
    r"(?<![\d.])\d{1,2}(?:h\d{2}\b|[.:h]\d{2}\s?(?:Uhr|h)\b)",
    rf"(?<![\d.]){_TIME}{_ZONE}",
    r"(?<!\d)20\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[T_-]?\d{4,6}Z?)?(?!\d)",
    r"(?<![\d.])(?:1[4-9]|20)\d{8}(?:\.\d+|\d{3}|\d{6}|\d{9})?(?!\d)",  # seconds since 1970, or finer
    r"(?<![\d.,])(?:19|20)\d{2}(?![\d.,]\d|\d)",
)
_ID = (
    r"\b[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\b",
    r"\b0x[0-9a-fA-F]{4,}\b",
    # Six characters or more, letters and digits mixed, one word or joined by - and _: req_8Fk2, a1b2c3d4.
    # Not 12th, nor worker-12, nor PT1H30M.
    (
        r"(?<![\w/.-])(?=[\w+-]*[A-Za-z])(?=[\w+-]*\d)(?!\d+(?:st|nd|rd|th|[a-z]{1,2})\b)"
        r"(?![A-Za-z]+[-_]?\d{1,4}(?![\w-]))(?!P(?:\d+[YMWD])*T?(?:[\d.]+[HMS])*\b)"
        r"[\w-][\w+-]{4,}[\w=](?![\w/])"
    ),
)
_PATH = (
    r"\bhttps?://[^\s\"'<>)]+",
    r"(?<![\w.])(?:~|\.{1,2}|[A-Za-z]:)?(?:[/\\]+[\w.@%+~-]+)+[/\\]?",
    r"(?<![\w./])[\w.-]+(?:/[\w.-]+)+\.[A-Za-z]\w{0,4}\b",
    r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\d.])",
    r"(?<![\w:])(?=[:a-fA-F]*\d)[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){3,7}(?![\w:])",
    r"\b[\w-]+@[\w-]+(?:\.[\w-]+)*",
    r"\blocalhost(?::\d+)?\b|\bip-\d+(?:-\d+){3}\b",
    r"\b[a-zA-Z][\w-]*(?:\.[\w-]+)*\.(?:local|internal|lan|com|net|org|io|dev|cloud|svc|home|arpa|intra|corp)\b(?::\d+)?",
)
_COUNTER = (r"[-+#]?\d+(?:[.,_]\d+)*%?(?![A-Za-z]\w*\d)",)
PATTERNS: tuple[tuple[Kind, tuple[re.Pattern[str], ...]], ...] = tuple(
    (kind, tuple(re.compile(pattern) for pattern in patterns))
    for kind, patterns in ((Kind.DATE, _DATE), (Kind.PATH, _PATH), (Kind.ID, _ID), (Kind.COUNTER, _COUNTER))
)
UUID = re.compile(_ID[0])
NUMBER = re.compile(_COUNTER[0])
LABELS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (Kind.DATE, re.compile(r"\b(?:date|time|today|now|day|clock|timestamp)\b", re.IGNORECASE)),
    (
        Kind.ID,
        re.compile(
            r"(?:\b|_)(?:id|uid|uuid|guid|nonce|token|seed|session|request|trace|run|correlation|conversation|thread)"
            r"(?:\b|_)",
            re.IGNORECASE,
        ),
    ),
    (
        Kind.PATH,
        re.compile(
            r"(?:\b|_)(?:host|hostname|machine|node|pod|container|server|cwd|dir|directory|folder|path|file|home)"
            r"(?:\b|_)",
            re.IGNORECASE,
        ),
    ),
    (
        Kind.COUNTER,
        re.compile(r"\b(?:turn|step|count|counter|iteration|attempt|number|no)\b|#", re.IGNORECASE),
    ),
)
MADE_BY: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (
        Kind.DATE,
        re.compile(r"\b(?:now|utcnow|today|time|time_ns|monotonic|perf_counter|strftime|ctime)\("),
    ),
    (Kind.ID, re.compile(r"\b(?:uuid\d|token_\w+|urandom|getrandbits|random|randint|choice|id|hash)\(")),
    (
        Kind.PATH,
        re.compile(
            r"\b(?:gethostname|getfqdn|getnode|getuser|getlogin|cwd|getcwd|mkdtemp|mkstemp|gettempdir)\("
        ),
    ),
    (Kind.COUNTER, re.compile(r"\b(?:getpid|getppid|get_ident|get_native_id)\(")),
)
"""Calls whose results differ from process to process."""
HEX = re.compile(r"(?<![\w.,])[0-9a-fA-F]{6,}(?![\w.,]*\d)")
