"""Where two texts part, and where they meet again."""

from __future__ import annotations

from functools import lru_cache

from pytest_tokenbudget.sequences import common_ends


@lru_cache(maxsize=256)
def kept(was: str, now: str) -> tuple[int, int]:
    """Return how many characters both texts begin with, and how many of the others both end with.

    Remembered, for the same edit comes back on every turn.
    """
    return common_ends(was, now)
