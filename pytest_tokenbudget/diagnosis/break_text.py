"""How a break of the cached prefix is told."""

from __future__ import annotations

from dataclasses import replace

from pytest_tokenbudget.diagnosis.block_changes import Difference
from pytest_tokenbudget.diagnosis.findings import Source
from pytest_tokenbudget.diagnosis.places import text_of
from pytest_tokenbudget.diagnosis.value_patterns import Kind
from pytest_tokenbudget.diagnosis.values import kind_of_code, kind_of_value, values_in
from pytest_tokenbudget.sources.tree import Location

EARLIER = "prefix that an earlier turn cached"
RECORDED = "recorded prefix"
ELSEWHERE = "prefix of another process"


def describe(difference: Difference, since: str, source: Source | None = None) -> str:
    """One clause: where the prefix leaves `since` (one of the names above), how, what was and is there."""
    what = difference.change if difference.change in ("added", "removed") else str(difference.kind)
    at = f", character {difference.char:,}" if difference.change == "changed" else ""
    excerpts = (("was", difference.was), ("now", difference.now))
    pieces = [f'{side} "{text}"' for side, text in excerpts if text]
    origin = f", from {source}" if source else ""
    return (
        f"cache prefix breaks at {difference.where}{at} ({api_word(difference)}, {what}), where it leaves "
        f"the {since}: {', '.join(pieces)}{origin}"
    )


def api_word(difference: Difference) -> str:
    """What the API's own cache diagnostics calls it."""
    return f"{difference.level}_changed"


def refined(difference: Difference, location: Location, *, edited: bool) -> Difference:
    """The difference, its kind corrected by what the repository tells.

    Where a value was put in although there was none before, it is of that value's kind. Where two versions of
    the agent are compared (`edited`) and the repository holds the new text, a number in it is an edit.
    """
    made = kind_of_code(location.code)
    if made and difference.kind in (Kind.COUNTER, Kind.TEXT):
        return replace(difference, kind=made)
    if difference.kind.is_value:
        literal = edited and location.source is not None and location.filled is None
        return replace(difference, kind=Kind.TEXT) if literal else difference
    if difference.kind != Kind.TEXT or not difference.new:
        return difference
    values = [value for piece in location.missing for value in values_in(piece)]
    if values:
        return replace(difference, kind=values[0][0])
    if location.filled and not location.source:
        return replace(difference, kind=kind_of_value(text_of(difference.new), location.missing[0]))
    return difference
