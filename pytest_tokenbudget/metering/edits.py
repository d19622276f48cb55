"""Where two texts part, and where they meet again."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=256)  # the same edit comes back on every turn
def kept(was: str, now: str) -> tuple[int, int]:
    """How many characters both texts begin with, and how many of the others both end with."""
    shorter = min(len(was), len(now))
    begin = _common(was, now, shorter)
    return begin, _common(was[begin:][::-1], now[begin:][::-1], shorter - begin)


def _common(a: str, b: str, most: int) -> int:
    """How many characters both begin with, at most `most`; by halving, so that long texts cost little."""
    low = 0
    while low < most:
        middle = (low + most + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            most = middle - 1
    return low
