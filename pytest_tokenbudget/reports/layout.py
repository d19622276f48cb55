"""Tables of scenarios for terminals, each name in its row or, for want of room, in a line of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_tokenbudget.reports import tables
from pytest_tokenbudget.reports.terminal import Line, Paper
from pytest_tokenbudget.reports.text import shorten, to_ascii, width

_LEAST_NAME = 24
"""Columns for a name, below which it gets a line of its own."""


def named_table(
    names: Sequence[str], headers: Sequence[str], cells: Sequence[Sequence[str]], paper: Paper
) -> Iterator[Line]:
    """The header and one row a name; all cells to the right. `headers[0]` is that of the names."""
    if paper.ascii_only:
        names, cells = list(map(to_ascii, names)), [list(map(to_ascii, row)) for row in cells]
    columns = zip(headers[1:], *cells, strict=True)
    room = paper.columns - sum(2 + max(map(width, column)) for column in columns)
    inline = room >= min(_LEAST_NAME, max(map(width, names), default=0))
    labels = [shorten(name, room, paper.mark) if inline else "" for name in names]
    rows = [(label, *row) for label, row in zip(labels, cells, strict=True)]
    header, *body = tables.terminal(headers, rows, (False, *[True] * (len(headers) - 1)))
    yield Line(header, "bold")
    for name, line in zip(names, body, strict=True):
        if not inline:
            yield Line(shorten(name, paper.columns, paper.mark))
        yield Line(line)
