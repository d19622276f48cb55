"""Write numbers and lists as every report shows them: never 0, 0 %, 100 % or $0.00 unless it is true."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from math import ceil, isclose, log10

MINUS = "−"
UNKNOWN = "unknown"
NONE = "–"

_MOST_DIGITS = 9
"""Decimals after which two different numbers may print alike: finer than a token of a billion."""


def count(number: float, digits: int = 0) -> str:
    """Return a number with separators: `6,690`."""
    return f"{number:,.{digits}f}".replace("-", MINUS)


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: `1 turn`, `2 turns`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(ratio: float, digits: int = 1) -> str:
    """Return a share as a percentage: `39.0%` for 0.39.

    It has as many decimals as it takes to be neither 0 % nor 100 % unless it is.
    """
    size = abs(ratio) * 100
    for edge in (0.0, 100.0):
        if not isclose(size, edge, abs_tol=1e-7):
            digits = apart(size, edge, digits)
    return f"{ratio * 100:,.{digits}f}%".replace("-", MINUS)


def money(dollars: float, digits: int | None = None) -> str:
    """Return dollars: `$0.0312`, `$12.50`, `$0.000031`.

    They have cents from a dollar up, else four decimals, or as many as two leading digits take.
    """
    sign = MINUS if dollars < 0 else ""
    return f"{sign}${abs(dollars):,.{cents(dollars) if digits is None else digits}f}"


def signed(number: float, text: str) -> str:
    """Return `text`, which shows `number`, with a plus in front if the number is above 0."""
    return f"+{text}" if number > 0 else text


def signed_range(least: float, most: float, shown: Callable[[float], str]) -> str:
    """Return a range: `+120 to +150`, `−80 to −20`, `20 less to 30 more`; `+120` for equal ends.

    The ends have signs where both have the same one. `shown` writes a number, with its minus if it has one.
    """
    if shown(least) == shown(most):
        return signed(least, shown(least))
    if least >= 0:
        return f"+{shown(least)} to +{shown(most)}"
    if most <= 0:
        return f"{shown(least)} to {shown(most)}"
    return f"{shown(-least)} less to {shown(most)} more"


def points(difference: float) -> str:
    """Return a difference of shares in percentage points: `−12.0 pts`."""
    return signed(difference, percent(difference).replace("%", " pts"))


def apart(value: float, other: float, digits: int, limit: int = _MOST_DIGITS) -> int:
    """Return the least number of decimals, from `digits` up to `limit`, that tells two values apart."""
    while digits < limit and value != other and f"{value:.{digits}f}" == f"{other:.{digits}f}":
        digits += 1
    return digits


def cents(dollars: float) -> int:
    """Return the number of decimals that `dollars` are shown with."""
    if dollars == 0 or abs(dollars) >= 1:
        return 2
    return max(4, ceil(-log10(abs(dollars))) + 1)


def signed_count(number: int) -> str:
    """Return a number with its sign: `+1,872`, `−312`, `+0`."""
    return signed(number, count(number)) if number else "+0"


def unsigned_percent(share: Fraction | float) -> str:
    """Return a share as a percentage without a sign: `39.0%` for 0.39."""
    return percent(abs(float(share)))


def signed_percent(share: Fraction | float) -> str:
    """Return a share as a percentage with its sign: `+39.0%`."""
    return signed(float(share), percent(float(share)))


def dollars(amount: Decimal) -> str:
    """Return dollars: `$0.0047`, `$12.30`."""
    return money(float(amount))


def turns(indexes: Iterable[int]) -> str:
    """Return turns in words, counted from 1: `turn 3`, `turns 1-4 and 7`; `indexes` count from 0."""
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
    """Return items in words: `a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def next_step(what: str, *commands: str) -> str:
    """Return what to do, and below it each command on a line of its own, which two spaces begin."""
    return "\n".join([f"{what}:", *(f"  {command}" for command in commands)])
