"""What the benchmarks print: quantiles and plain tables."""

from __future__ import annotations

from collections.abc import Sequence


def quantile(values: Sequence[float], part: float) -> float:
    """The value that `part` of the values do not exceed; NaN where there are none."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[max(0, min(len(ordered) - 1, -int(-part * len(ordered) // 1) - 1))]


def table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, its columns aligned; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (names, *rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(names))]
    right = [all(row[index][:1] in "-0123456789n" for row in cells[1:]) for index in range(len(names))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if aligned else cell.ljust(width)
            for cell, width, aligned in zip(row, widths, right, strict=True)
        )
        + " |"
        for row in cells
    ]
    rule = (
        "|"
        + "|".join(
            "-" * (width + 1) + (":" if aligned else "-")
            for width, aligned in zip(widths, right, strict=True)
        )
        + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])
