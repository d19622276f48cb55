"""Tables for terminals and for Markdown. The only module that knows tabulate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from pytest_tokenbudget.reports.text import width

_HALF = "\ue000"
"""Stands twice for a character of two columns, which tabulate would count as one."""


def terminal(headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[bool]) -> list[str]:
    """Aligned lines, the headers first; columns of `numbers` to the right.

    The cells are printable lines already; a mark without a column of its own is left out.
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
    """A table as GitHub reads it; the cells are escaped already."""
    edges = ["---:" if number else ":---" for number in numbers]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, edges, *rows))


def _narrow(character: str) -> str:
    columns = width(character)
    return character if columns == 1 else _HALF * columns
