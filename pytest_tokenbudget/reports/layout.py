"""Lines for terminals, and tables of scenarios whose names stand in their rows or above them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_tokenbudget.reports import tables
from pytest_tokenbudget.reports.text import ELLIPSIS, crop, shorten, to_ascii, width


@dataclass(frozen=True, slots=True)
class Line:
    """A line and how it is written: `red`, `yellow`, `green`, `bold`, or plain."""

    text: str = ""
    style: str = ""


@dataclass(frozen=True, slots=True)
class Paper:
    """What the lines are written on."""

    columns: int
    ascii_only: bool

    @property
    def mark(self) -> str:
        """What stands for what was cut."""
        return "..." if self.ascii_only else ELLIPSIS

    def fitted(self, line: Line) -> Line:
        """The line as it can be shown here, at most as wide as the paper."""
        text = to_ascii(line.text) if self.ascii_only else line.text
        return Line(crop(text, self.columns, self.mark), line.style)


def named_table(
    names: Sequence[str],
    headers: Sequence[str],
    cells: Sequence[Sequence[str]],
    paper: Paper,
    spare: Sequence[str] = (),
) -> Iterator[Line]:
    """The header and one row a name; all cells to the right. `headers[0]` is that of the names.

    Where the paper is too narrow, the `spare` columns are left out, the first of them first.
    """
    if paper.ascii_only:
        names, cells = list(map(to_ascii, names)), [list(map(to_ascii, row)) for row in cells]
    columns = list(zip(headers[1:], *cells, strict=True))
    for header in spare:
        if _room(columns, paper) >= 0:
            break
        columns = [column for column in columns if column[0] != header]
    kept, *rows = zip(*columns, strict=True)
    numbers = (False, *[True] * len(columns))
    first, blocks = named_blocks(names, (headers[0], *kept), [[row] for row in rows], paper, numbers)
    yield paper.fitted(Line(first, "bold"))
    for block in blocks:
        yield from (paper.fitted(Line(line)) for line in block)


def named_blocks(
    names: Sequence[str],
    headers: Sequence[str],
    groups: Sequence[Sequence[Sequence[str]]],
    paper: Paper,
    numbers: Sequence[bool],
) -> tuple[str, list[list[str]]]:
    """The header, and the lines of each name for its group of rows."""
    cells = [row for group in groups for row in group]
    room = _room(list(zip(headers[1:], *cells, strict=True)), paper)
    inline = room >= max([width(headers[0]), *(_least_width(name, paper) for name in names)])
    labels = [
        shorten(name, room, paper.mark) if inline and index == 0 else ""
        for name, group in zip(names, groups, strict=True)
        for index in range(len(group))
    ]
    rows = [(label, *row) for label, row in zip(labels, cells, strict=True)]
    header, *body = tables.terminal(headers if inline else ("", *headers[1:]), rows, numbers)
    lines = iter(body)
    alone = [[] if inline else [shorten(name, paper.columns, paper.mark)] for name in names]
    return header, [
        [*first, *(next(lines) for _ in group)] for first, group in zip(alone, groups, strict=True)
    ]


def _room(columns: Sequence[Sequence[str]], paper: Paper) -> int:
    """What columns of a table leave of the paper."""
    return paper.columns - sum(2 + max(map(width, column)) for column in columns)


def _least_width(name: str, paper: Paper) -> int:
    """Columns that a name needs to be known again: without its path, when it has one."""
    path, separator, last = name.rpartition("::")
    return min(width(name), width(paper.mark + separator + last)) if path else width(name)
