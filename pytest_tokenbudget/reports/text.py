"""Make text that others wrote safe to print, and lay it out in lines and tables.

In Markdown and in workflow commands nothing of such a text is markup, a mention or a link. This is the one
user of tabulate.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from typing import TypeVar, cast

T = TypeVar("T")

ELLIPSIS = "…"

_ASCII = str.maketrans({"…": "...", "−": "-", "–": "-", "→": "->", "×": "x", "·": "-", "≥": ">="})
_LOG_COMMAND = re.compile(r"(?<!\S)::(?=[a-z-]+(?: [^:]*)?::)|##(?=\[|vso\[)", re.IGNORECASE)
"""Beginnings of commands to a CI job: `::error::` after white space or at the start, `##[group]` anywhere."""
_NODE_ID = re.compile(r"(?s)(?P<path>[^\[]*::)?(?P<name>[^\[]*)(?P<parameters>\[.*\])?")


def plain(text: str, most: int = 600) -> str:
    """Return text as one printable line of at most `most` characters, and `...` where it was cut.

    Every kind of space becomes a plain one. Every other character that is not printable is spelled out. So no
    newline, no escape of the terminal and no mark that turns the direction of reading round survives, nor
    what the log of a CI job takes for a command. The cut keeps a document from flooding a report.
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
    """Return `text` for a terminal that shows no more than ASCII."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def ascii_strings(value: T) -> T:
    """Return a copy of `value` with every string inside it as `to_ascii` shows it."""
    if isinstance(value, str):
        return cast("T", to_ascii(value))
    if isinstance(value, dict):
        return cast("T", {key: ascii_strings(item) for key, item in value.items()})
    if isinstance(value, list):
        return cast("T", [ascii_strings(item) for item in value])
    return value


def width(text: str) -> int:
    """Return how many columns `text` takes in a terminal."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def crop(text: str, columns: int, mark: str = ELLIPSIS) -> str:
    """Return the beginning of `text`, in at most `columns` columns; `mark` ends what was cut."""
    if width(text) <= columns:
        return text
    return _head(text, columns - width(mark)) + mark if columns >= width(mark) else ""


def shorten(node_id: str, columns: int, mark: str = ELLIPSIS) -> str:
    """Return a node id in at most `columns` columns: its path gives way first, then its name, then `[a]`."""
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
    """Return `text` without its middle; more is kept of the end, where names differ."""
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


_MESSAGE = 12
"""Most lines of one message: more keeps an error of somebody else's from flooding a report."""
_NEXT_LINE = re.compile(r"\n(?=  \S|[^\n]*:\n  \S|More: docs/)")
_UNIT = re.compile(r"\([^()\n]{1,40}\)\S*|\S+")
"""Words that are not broken over two lines while they fit into one."""


def wrap(text: str, columns: int, indent: str = "", hang: str = "") -> Iterator[str]:
    """Yield `text` in lines of at most `columns` columns, the first after `indent`, the others after `hang`.

    A few words in brackets stay together: `(system_changed, date or time)` is searched for as it stands.
    """
    line, prefix = "", indent
    for word in _UNIT.findall(text):
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


@dataclass(frozen=True, slots=True)
class Line:
    """A line and how it is written: `red`, `yellow`, `green`, `bold`, or plain."""

    text: str = ""
    style: str = ""
    is_command: bool = False
    """Whether it is to be pasted as it stands, so that it is never cut, however wide it is."""


@dataclass(frozen=True, slots=True)
class Paper:
    """How much room lines have, and whether they may hold more than ASCII."""

    columns: int
    ascii_only: bool

    @property
    def mark(self) -> str:
        """The mark that stands for what was cut."""
        return "..." if self.ascii_only else ELLIPSIS

    def fitted(self, line: Line) -> Line:
        """Return the line as it can be shown here, at most as wide as the paper unless it is a command."""
        text = to_ascii(line.text) if self.ascii_only else line.text
        shown = text if line.is_command else crop(text, self.columns, self.mark)
        return Line(shown, line.style, line.is_command)


def printable_lines(text: str, most: int = 600) -> str:
    """Return a message, sentences and commands, as printable lines of at most `most` characters each."""
    return "\n".join(plain(line, most) for line in message_lines(text)[:_MESSAGE])


def message_lines(text: str) -> list[str]:
    """Return the lines of a message: its sentences, then each step, its commands, and where there is more.

    No other newline divides it: one may be of a file's name, or of what somebody else wrote.
    """
    return _NEXT_LINE.split(text)


def message(text: str, paper: Paper, style: str = "") -> Iterator[Line]:
    """Yield the lines of a message: sentences wrapped, and whole each command, which two spaces begin."""
    for line in message_lines(text):
        if line.startswith("  "):
            yield Line(line, is_command=True)
        else:
            yield from (Line(piece, style) for piece in wrap(line, paper.columns, "", "  "))


def named_table(
    names: Sequence[str],
    headers: Sequence[str],
    cells: Sequence[Sequence[str]],
    paper: Paper,
    spare: Sequence[str] = (),
) -> Iterator[Line]:
    """Yield the header and one row a name, all cells to the right; `headers[0]` is that of the names."""
    if paper.ascii_only:
        names, cells = list(map(to_ascii, names)), [list(map(to_ascii, row)) for row in cells]
    numbers = (False, *[True] * (len(headers) - 1))
    first, blocks = named_blocks(names, headers, [[row] for row in cells], paper, numbers, spare)
    yield paper.fitted(Line(first, "bold"))
    for block in blocks:
        yield from (paper.fitted(Line(line)) for line in block)


def named_blocks(
    names: Sequence[str],
    headers: Sequence[str],
    groups: Sequence[Sequence[Sequence[str]]],
    paper: Paper,
    numbers: Sequence[bool],
    spare: Sequence[str] = (),
) -> tuple[str, list[list[str]]]:
    """Return the header, and the lines of each name for its group of rows.

    Where the paper is too narrow, `spare` columns are left out, in their order, until the rest fits.
    """
    by_column = zip(*(row for group in groups for row in group), strict=True)
    columns = list(zip(headers[1:], numbers[1:], by_column, strict=True))
    for header in spare:
        if _room(columns, paper) >= 0:
            break
        columns = [column for column in columns if column[0] != header]
    room = _room(columns, paper)
    inline = room >= max([width(headers[0]), *(_least_width(name, paper) for name in names)])
    labels = [
        shorten(name, room, paper.mark) if inline and index == 0 else ""
        for name, group in zip(names, groups, strict=True)
        for index in range(len(group))
    ]
    kept, are_numbers, cells = zip(*columns, strict=True)
    first = headers[0] if inline else ""
    header, *body = terminal(
        (first, *kept), list(zip(labels, *cells, strict=True)), (numbers[0], *are_numbers)
    )
    lines = iter(body)
    alone = [[] if inline else [shorten(name, paper.columns, paper.mark)] for name in names]
    return header, [
        [*above, *(next(lines) for _ in group)] for above, group in zip(alone, groups, strict=True)
    ]


_Column = tuple[str, bool, Sequence[str]]
"""A column of a table: its header, whether it holds numbers, its cells."""


def _room(columns: Sequence[_Column], paper: Paper) -> int:
    """Return how many columns of the paper a table leaves; negative if it is too wide."""
    return paper.columns - sum(2 + max(map(width, (header, *cells))) for header, _, cells in columns)


def _least_width(name: str, paper: Paper) -> int:
    """Return the columns by which a name can be told from others: without its path, if it has one."""
    path, separator, last = name.rpartition("::")
    return min(width(name), width(paper.mark + separator + last)) if path else width(name)


_HALF = "\ue000"
"""Stands twice for a character of two columns, which tabulate would count as one."""


def terminal(headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[bool]) -> list[str]:
    """Return aligned lines, the headers first; columns of `numbers` are aligned to the right.

    The cells are printable lines already. A combining mark, which has no column of its own, is left out.
    """
    import tabulate

    wide = [character for cell in chain(*rows) for character in cell if width(character) == 2]
    cells = [["".join(map(_narrow, cell)) for cell in row] for row in rows]
    text = tabulate.tabulate(
        [list(headers), *cells],
        tablefmt="plain",
        colalign=["right" if number else "left" for number in numbers],
        disable_numparse=True,
    )
    first, *others = text.split(_HALF * 2)
    restored = first + "".join(character + part for character, part in zip(wide, others, strict=True))
    return [line.rstrip() for line in restored.splitlines()]


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[bool]) -> str:
    """Return a table as GitHub reads it; the cells are escaped already."""
    edges = ["---:" if number else ":---" for number in numbers]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, edges, *rows))


def _narrow(character: str) -> str:
    columns = width(character)
    return character if columns == 1 else _HALF * columns


_BREAK = "\u200b"
"""Zero width space: it takes no room, and breaks what GitHub looks for in text."""
_MARKUP = re.compile(r"([\\`*_\[\]~$]|\A#)")
_LINKED = re.compile(
    r"(?P<mention>@)(?=\w)"
    r"|(?P<reference>#|GH-)(?=\d)"
    r"|(?P<scheme>:)(?=//)"
    r"|(?P<host>www)(?=\.)"
    r"|(?P<emoji>:)(?=[a-z+-][\w+-]*:)"
    r"|(?P<commit>[0-9a-f]{7,})",
    re.IGNORECASE,
)


_COMMIT = re.compile(r"(?i)(?<![\w.])((?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{7,40})(?!\w)")
"""The hash of a commit: no number, and no word."""


def prose(text: str) -> str:
    """Return `text` as Markdown for a paragraph, a list or a table cell, with nothing in it that is markup.

    GitHub looks for mentions, references, addresses and commits after the Markdown is rendered, where no
    escape is left: a break of no width takes them apart. A commit, which is to be copied, stands as code.
    """
    return _around_commits(plain(text), _escaped, "`", "`")


def _escaped(text: str) -> str:
    broken = _MARKUP.sub(r"\\\1", _LINKED.sub(_break, text))
    return broken.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")


def _around_commits(text: str, shown: Callable[[str], str], begin: str, end: str) -> str:
    """Return `text` with commits between `begin` and `end`, and the rest as `shown`."""
    parts = _COMMIT.split(text)
    return "".join(f"{begin}{part}{end}" if place % 2 else shown(part) for place, part in enumerate(parts))


def code(text: str, *, cell: bool = False) -> str:
    """Return `text` as Markdown code, in which GitHub looks for nothing; in a cell its `|` are escaped."""
    shown = plain(text).strip() or " "
    if cell:
        shown = shown.replace("\\|", f"\\{_BREAK}|").replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    edge = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{fence}{edge}{shown}{edge}{fence}"


def html(text: str) -> str:
    """Return `text` for the inside of an HTML element of one line."""
    return _around_commits(plain(text), lambda part: escape(_LINKED.sub(_break, part)), "<code>", "</code>")


def html_code(text: str) -> str:
    """Return `text` as an HTML element in which GitHub looks for nothing."""
    return f"<code>{escape(plain(text))}</code>"


def _break(found: re.Match[str]) -> str:
    if found["commit"] is None:
        return found[0] + _BREAK
    return _BREAK.join(re.findall(".{1,6}", found[0]))  # GitHub takes seven digits for a commit


def command_data(text: str) -> str:
    """Return `text` as the message of a GitHub workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def command_property(text: str) -> str:
    """Return `text` as the value of a property of a GitHub workflow command."""
    return command_data(text).replace(":", "%3A").replace(",", "%2C")
