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
    """The header and one row a name; all cells to the right. `headers[0]` is that of the names."""
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
    """The header, and the lines of each name for its group of rows.

    Where the paper is too narrow, the `spare` columns are left out, the first of them first.
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
    header, *body = tables.terminal(
        (first, *kept), list(zip(labels, *cells, strict=True)), (numbers[0], *are_numbers)
    )
    lines = iter(body)
    alone = [[] if inline else [shorten(name, paper.columns, paper.mark)] for name in names]
    return header, [
        [*above, *(next(lines) for _ in group)] for above, group in zip(alone, groups, strict=True)
    ]


_Column = tuple[str, bool, Sequence[str]]
"""Its header, whether it holds numbers, its cells."""


def _room(columns: Sequence[_Column], paper: Paper) -> int:
    """What columns of a table leave of the paper."""
    return paper.columns - sum(2 + max(map(width, (header, *cells))) for header, _, cells in columns)


def _least_width(name: str, paper: Paper) -> int:
    """Columns that a name needs to be known again: without its path, when it has one."""
    path, separator, last = name.rpartition("::")
    return min(width(name), width(paper.mark + separator + last)) if path else width(name)
