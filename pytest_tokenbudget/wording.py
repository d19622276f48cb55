"""Numbers as every report shows them: never 0, 0 %, 100 % or $0.00 unless it is true."""

from __future__ import annotations

from math import ceil, isclose, log10

MINUS = "−"
UNKNOWN = "unknown"
NONE = "–"

_MOST_DIGITS = 9
"""Decimals after which two different numbers may print alike: finer than a token of a billion."""


def count(number: float, digits: int = 0) -> str:
    """`6,690`."""
    return f"{number:,.{digits}f}".replace("-", MINUS)


def plural(number: int, noun: str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(ratio: float, digits: int = 1) -> str:
    """`39.0%` of 0.39, with as many decimals as it takes to be neither 0 % nor 100 % unless it is."""
    size = abs(ratio) * 100
    for edge in (0.0, 100.0):
        if not isclose(size, edge, abs_tol=1e-7):
            digits = apart(size, edge, digits)
    return f"{ratio * 100:,.{digits}f}%".replace("-", MINUS)


def money(dollars: float, digits: int | None = None) -> str:
    """`$0.0312`, `$12.50`, `$0.000031`: cents from a dollar up, else four decimals or two leading digits."""
    sign = MINUS if dollars < 0 else ""
    return f"{sign}${abs(dollars):,.{cents(dollars) if digits is None else digits}f}"


def signed(number: float, text: str) -> str:
    """`text` of `number`, with a plus where it grew."""
    return f"+{text}" if number > 0 else text


def points(difference: float) -> str:
    """`−12.0 pts`, of a difference of shares."""
    return signed(difference, percent(difference).replace("%", " pts"))


def apart(value: float, other: float, digits: int, limit: int = _MOST_DIGITS) -> int:
    """The least number of decimals, from `digits` on, that tells the two apart when they differ."""
    while digits < limit and value != other and f"{value:.{digits}f}" == f"{other:.{digits}f}":
        digits += 1
    return digits


def cents(dollars: float) -> int:
    """How many decimals `dollars` are shown with."""
    if dollars == 0 or abs(dollars) >= 1:
        return 2
    return max(4, ceil(-log10(abs(dollars))) + 1)
