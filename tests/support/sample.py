"""What is tested in bulk: `make test` takes a tenth of it, which a seed draws, `make test-deep` the whole."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
WHOLE = "TOKENBUDGET_WHOLE" in os.environ
"""Whether this run takes the whole, as `make test-deep` does."""
SEED = int(os.environ.get("TOKENBUDGET_SEED", "1"))
"""Draws the tenth: the same seed takes the same one, in every process of a run."""


def tenth(whole: Sequence[T], *, of: str) -> list[T]:
    """Return a tenth of `whole`, at least one and in its order; all of it in `make test-deep`.

    `of` names what is drawn from, so that two lists of one length are not drawn alike.
    """
    if WHOLE:
        return list(whole)
    drawn = random.Random(f"{SEED} {of}").sample(range(len(whole)), math.ceil(len(whole) / 10))
    return [whole[index] for index in sorted(drawn)]


def examples(whole: int) -> int:
    """Return how many examples Hypothesis makes of a test that has `whole` of them in `make test-deep`."""
    return whole if WHOLE else max(whole // 10, 10)
