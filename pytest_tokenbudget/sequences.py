"""Compare two sequences (texts, words, blocks, messages): what they share at their beginnings and ends."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(one: Sequence[object], other: Sequence[object]) -> int:
    """Return how many items two sequences of one type begin with alike.

    Finds it by halving, so that long texts cost little: slices are compared in C.
    """
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_ends(one: Sequence[object], other: Sequence[object]) -> tuple[int, int]:
    """Return how many items both begin with, and how many of the others both end with."""
    begin = common_prefix(one, other)
    return begin, common_prefix(one[begin:][::-1], other[begin:][::-1])
