"""Numbers and lists as findings write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction

_MINUS = "\u2212"


def signed(number: int) -> str:
    """`+1,872`, `−312`."""
    return f"{_MINUS if number < 0 else '+'}{abs(number):,}"


def percent(share: Fraction | float) -> str:
    """`39 %` of 0.39; never 0 or 100 unless it is true."""
    value = abs(float(share)) * 100
    if value and (value < 1 or (value > 99 and value < 100)):
        return f"{value:.1f} %" if 0.1 <= value <= 99.9 else ("under 0.1 %" if value < 1 else "over 99.9 %")
    return f"{value:.0f} %"


def signed_percent(share: Fraction | float) -> str:
    """`+39 %`."""
    shown = percent(share)
    return shown if shown.startswith(("under", "over")) else f"{_MINUS if share < 0 else '+'}{shown}"


def dollars(amount: Decimal) -> str:
    """`$0.0047`, `$12.30`: at least three figures of a small amount."""
    size = abs(amount)
    sign = _MINUS if amount < 0 else ""
    if size >= 1 or not size:
        return f"{sign}${size:,.2f}"
    places = min(2 - size.adjusted(), 8)
    return f"{sign}${size:.{places}f}"


def plural(number: int, noun: str) -> str:
    """`1 turn`, `6 turns`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def turns(indexes: Iterable[int]) -> str:
    """`turn 3`, `turns 1-4 and 7`: counted from 1, as people do."""
    numbers = sorted({index + 1 for index in indexes})
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    spans: list[str] = []
    for first, last in runs:
        spans += [f"{first}-{last}"] if last - first > 1 else map(str, range(first, last + 1))
    return f"turn{'' if len(numbers) == 1 else 's'} {listed(spans)}"


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
