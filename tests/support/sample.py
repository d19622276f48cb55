"""What a seed draws: a tenth of what is tested in bulk, and the Python that tests a file of whole runs.

`make test` and `make test-runs` take that tenth, `make test-deep` the whole. `.ci/run` tests whole runs of
pytest on one Python each.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")
SIDES = ("oldest", "newest")
"""The two Pythons of `.ci/run`."""
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


def side(file: str, fixed: Mapping[str, str], seed: int = SEED) -> str:
    """Return the one of `SIDES` that tests a file of whole runs: the one in `fixed`, or what `seed` draws.

    A file is drawn by its own name alone, so that two runs agree even where one finds more files.
    """
    return fixed.get(file) or random.Random(f"{seed} {file}").choice(SIDES)
