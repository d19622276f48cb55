"""In which order a text lists names: what tells an edited order from one that a process makes up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from pytest_tokenbudget.diagnosis.differences import replaced

Names = tuple[str, ...]


def is_new_order(names: Names, before: str, now: str) -> bool:
    """Whether an edit of a text, `before` to `now`, touches some of these names and lists them in this order.

    Code, JSON and prose alike: only the order counts in which the names come, as whole words.
    """
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names))
    lines = now.splitlines()
    found = [(match[0], number) for number, line in enumerate(lines) for match in pattern.finditer(line)]
    said = tuple(name for name, _ in groupby(name for name, _ in found))
    runs = (said[at : at + len(names)] for at in range(len(said)))
    if tuple(dict.fromkeys(said)) != names and names not in runs:
        return False
    edited = {line for _, _, start, end in replaced(before.splitlines(), lines) for line in range(start, end)}
    return any(line in edited for _, line in found)


def other_order(was: object, now: object) -> Names | None:
    """The first keys, or strings of a list, in another order in two JSON-like values, as they come now."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        if list(was) != list(now):
            return moved([*was], [*now]) if was.keys() == now.keys() else None
        inner = [(was[key], now[key]) for key in was]
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        if was != now and all(isinstance(one, str) for one in (*was, *now)):
            return moved(was, now) if sorted(was) == sorted(now) else None
        inner = list(zip(was, now, strict=True))
    else:
        return None
    return next((found for pair in inner if (found := other_order(*pair))), None)


def moved(was: Sequence[str], now: Sequence[str]) -> Names:
    """Of names in another order, those between the first and the last that stand elsewhere."""
    differ = [at for at, (old, new) in enumerate(zip(was, now, strict=True)) if old != new]
    return tuple(now[differ[0] : differ[-1] + 1])
