"""What dates, ids, paths and numbers look like, what they are labelled, and what code makes them."""

from __future__ import annotations

import re
from enum import StrEnum


class Kind(StrEnum):
    """Of a difference, in words for people."""

    DATE = "date or time"
    ID = "UUID or random id"
    PATH = "path or host name"
    COUNTER = "counter or other number"
    ORDER = "another order"
    TEXT = "changed text"

    @property
    def is_value(self) -> bool:
        """Whether it is of the sort that a program fills in anew each time."""
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
"""A month, in whatever language: between the number of a day and a year."""
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
