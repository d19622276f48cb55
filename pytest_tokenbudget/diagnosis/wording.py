"""Numbers and lists as findings write them: the numbers as in every report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction

from pytest_tokenbudget import wording
from pytest_tokenbudget.wording import plural

__all__ = ["dollars", "listed", "percent", "plural", "signed", "signed_percent", "turns"]


def signed(number: int) -> str:
    """`+1,872`, `−312`, `+0`."""
    return wording.signed(number, wording.count(number)) if number else "+0"


def percent(share: Fraction | float) -> str:
    """`39.0%` of 0.39."""
    return wording.percent(abs(float(share)))


def signed_percent(share: Fraction | float) -> str:
    """`+39.0%`."""
    return wording.signed(float(share), wording.percent(float(share)))


def dollars(amount: Decimal) -> str:
    """`$0.0047`, `$12.30`."""
    return wording.money(float(amount))


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
